"""Live snapshots: a session is frozen and goes on, branches are as it was, and none sees another's changes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import pytest
from contract import Create, Recorder, execute, value

from faas_gateway.backends.base import (
    BranchSpec,
    CannotFork,
    CommandRequest,
    FrozenSandbox,
    Image,
    Limits,
    Sandbox,
    SandboxBackend,
    SandboxEnded,
    SandboxSpec,
)

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("conformance-snapshots")]

LIMITS = Limits(pids=64, memory_bytes=1 << 30, disk_bytes=256 << 20, open_files=256)
Freeze = Callable[[Sandbox], Awaitable[tuple[FrozenSandbox, Sandbox]]]
Branch = Callable[..., Awaitable[list[Sandbox]]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def freeze(stack: AsyncExitStack) -> Freeze:
    """Freeze a sandbox; both that come of it are closed at the end of the test."""

    async def freeze(sandbox: Sandbox) -> tuple[FrozenSandbox, Sandbox]:
        frozen, following = await sandbox.freeze(f"snap-{os.urandom(6).hex()}")
        stack.push_async_callback(frozen.aclose)
        stack.push_async_callback(following.aclose)
        return frozen, following

    return freeze


@pytest.fixture
def branch(stack: AsyncExitStack) -> Branch:
    async def branch(
        frozen: FrozenSandbox, count: int = 1, *, reseed: bool = False, env_vars: dict[str, str] | None = None
    ) -> list[Sandbox]:
        specs = [BranchSpec(f"branch-{os.urandom(6).hex()}", LIMITS, env_vars or {}, reseed) for _ in range(count)]
        results = await frozen.branch(specs)
        sandboxes: list[Sandbox] = []
        for result in results:
            assert isinstance(result, tuple), result
            stack.push_async_callback(result[0].aclose)
            sandboxes.append(result[0])
        return sandboxes

    return branch


async def test_the_session_goes_on_and_branches_are_as_it_was(
    create: Create, python: Image, freeze: Freeze, branch: Branch
) -> None:
    session = await create(python, pids=64)
    await value(session, "x = 1; items = [1]; numbers = iter(range(10)); next(numbers); alias = items")
    frozen, session = await freeze(session)
    await value(session, "x = 2; items.append('source'); next(numbers)")
    first, second = await branch(frozen, 2)
    await value(first, "x = 3; items.append('first')")
    assert await value(session, "print(x, items, alias is items, next(numbers))") == "2 [1, 'source'] True 2"
    assert await value(first, "print(x, items, alias is items, next(numbers))") == "3 [1, 'first'] True 1"
    assert await value(second, "print(x, items, next(numbers))") == "1 [1] 1"
    (late,) = await branch(frozen)
    assert await value(late, "print(x, items)") == "1 [1]"


async def test_files_are_as_they_were_and_apart(create: Create, python: Image, freeze: Freeze, branch: Branch) -> None:
    session = await create(python, pids=64)
    await value(
        session,
        "import os, pathlib\n"
        "for p in ('a', '/tmp/t', '/home/user/h', 'd/deep', 'gone'):\n"
        "    pathlib.Path(p).parent.mkdir(exist_ok=True); pathlib.Path(p).write_text('base')\n"
        "log = open('log', 'w+'); n = log.write('base '); log.flush(); reader = open('a'); c = reader.read(2)",
    )
    frozen, session = await freeze(session)
    await value(session, "log.write('source'); log.flush(); os.remove('gone'); pathlib.Path('a').write_text('next')")
    first, second = await branch(frozen, 2)
    await value(
        first,
        "import shutil; shutil.rmtree('d'); os.mkdir('d'); pathlib.Path('d/new').touch(); os.remove('/tmp/t'); "
        "log.write('first'); log.flush()",
    )
    state = (
        "log.seek(0); print(log.read(), os.path.exists('gone'), pathlib.Path('a').read_text(), os.listdir('d'), "
        "os.path.exists('/tmp/t'), reader.read())"
    )
    assert await value(session, state) == "base source False next ['deep'] True se"
    assert await value(first, state) == "base first True base ['new'] False se"
    assert await value(second, state) == "base  True base ['deep'] True se"
    _, first = await freeze(first)
    assert await value(first, state) == "base first True base ['new'] False"


async def test_no_relative_repeats_what_another_draws(
    create: Create, python: Image, freeze: Freeze, branch: Branch
) -> None:
    draw = (
        "import os, ssl, uuid, secrets, tempfile\n"
        "print(os.getpid(), ssl.RAND_bytes(8).hex(), uuid.uuid4(), uuid.uuid1(), secrets.token_hex(8), "
        "next(tempfile._get_candidate_names()))"
    )
    session = await create(python, pids=64)
    drawn = [await value(session, draw)]
    frozen, session = await freeze(session)
    branches = await branch(frozen, 4)
    below, branches[0] = await freeze(branches[0])
    for relative in (session, *branches, *await branch(below, 3), *await branch(frozen, 2)):
        drawn.append(await value(relative, draw))
    for column in zip(*(line.split() for line in drawn), strict=True):
        assert len(set(column)) >= len(column) - (column[0].isdigit() and len(column[0]) < 8), column


async def test_generators_are_equal_unless_reseeded(
    create: Create, python: Image, freeze: Freeze, branch: Branch
) -> None:
    session = await create(python, pids=64)
    await value(session, "import random; own = random.Random(5); a = random.random()")
    frozen, session = await freeze(session)
    draw = "print(random.random(), own.random())"
    equal = [await value(s, draw) for s in (session, *await branch(frozen, 2))]
    assert len(set(equal)) == 1
    fresh = [await value(s, draw) for s in await branch(frozen, 3, reseed=True)]
    assert len({*equal, *fresh}) == 4


async def test_tasks_and_timers_of_the_event_loop_go_on_everywhere(
    create: Create, python: Image, freeze: Freeze, branch: Branch
) -> None:
    session = await create(python, pids=64)
    await value(
        session,
        "import asyncio\nasync def tick():\n    global n\n    n = 0\n    while True:\n"
        "        await asyncio.sleep(0.01); n += 1\ntask = asyncio.create_task(tick()); await asyncio.sleep(0.05)",
    )
    frozen, session = await freeze(session)
    for relative in (session, *await branch(frozen, 2)):
        assert await value(relative, "before = n; await asyncio.sleep(0.1); print(n > before + 2, task.done())") == (
            "True False"
        )


async def test_the_source_keeps_its_connections_and_ports(
    create: Create, python: Image, freeze: Freeze, branch: Branch
) -> None:
    session = await create(python, pids=64)
    await value(
        session,
        "import socket; server = socket.create_server(('127.0.0.1', 7000)); "
        "client = socket.create_connection(('127.0.0.1', 7000)); peer, _ = server.accept(); n = client.send(b'one')",
    )
    frozen, session = await freeze(session)
    talk = "client.sendall(b'two'); print(peer.recv(10), socket.create_connection(('127.0.0.1', 7000)) is not None)"
    assert await value(session, talk) == "b'onetwo' True"
    (other,) = await branch(frozen)
    assert await value(other, "print(peer.recv(10))") == "b''"
    assert await value(other, "print(socket.create_server(('127.0.0.1', 7000)) is not None)") == "True"


async def test_what_cannot_be_forked_is_refused_and_goes_on(create: Create, python: Image, freeze: Freeze) -> None:
    session = await create(python, pids=64)
    await value(session, "import threading, time; t = threading.Thread(target=time.sleep, args=(300,), name='mine')")
    await value(session, "t.start(); x = 1")
    assert [loss.kind for loss in await session.check_fork() if loss.effect == "portable_only"] == ["thread"]
    with pytest.raises(CannotFork) as refused:
        await freeze(session)
    assert "mine" in refused.value.losses[0].name
    assert await value(session, "print(x, t.is_alive())") == "1 True"
    await value(session, "import subprocess; p = subprocess.Popen(['sleep', '300'])")
    with pytest.raises(CannotFork):
        await freeze(session)
    assert await value(session, "print(p.poll())") == "None"


async def test_the_end_of_one_is_the_end_of_no_other(
    create: Create, python: Image, freeze: Freeze, branch: Branch
) -> None:
    session = await create(python, pids=64)
    await value(session, "x = 1")
    frozen, session = await freeze(session)
    first, second = await branch(frozen, 2)
    below, first = await freeze(first)
    with pytest.raises(SandboxEnded):
        await session.execute(request("import os; os._exit(3)"), Recorder())
    await session.aclose()
    (third,) = await branch(frozen)
    await frozen.aclose()
    await first.aclose()
    (fourth,) = await branch(below)
    for relative in (second, third, fourth):
        assert await value(relative, "print(x)") == "1"
    assert (await below.usage()).memory_bytes > 0


def request(code: str):
    from faas_gateway.backends.base import CodeRequest

    return CodeRequest(os.urandom(6).hex(), code)


async def test_a_snapshot_whose_process_died_says_so(
    create: Create, python: Image, freeze: Freeze, backend: SandboxBackend
) -> None:
    session = await create(python, pids=64)
    frozen, session = await freeze(session)
    await frozen.aclose()
    results = await frozen.branch([BranchSpec("late", LIMITS)])
    assert isinstance(results[0], SandboxEnded)
    assert (await frozen.wait()).code == "closed"


async def test_a_long_chain_of_generations(create: Create, python: Image, freeze: Freeze, branch: Branch) -> None:
    """Deeper than namespaces nest: the last ones are beside each other, and say so."""
    session = await create(python, pids=64)
    await value(session, "n = 0; log = open('log', 'a+')")
    frozen = None
    for generation in range(100):
        frozen, session = await freeze(session)
        await value(session, f"n += 1; k = log.write('{generation} '); log.flush(); open('f{generation}', 'w').close()")
        if generation >= 10 and generation % 30 == 0:
            (session,) = await branch(frozen)
            await value(
                session, f"n += 1; k = log.write('{generation} '); log.flush(); open('f{generation}', 'w').close()"
            )
    look = "import os; log.seek(0); print(n, len(log.read().split()), len([f for f in os.listdir() if f[0] == 'f']))"
    assert await value(session, look) == "100 100 100"
    assert frozen is not None
    assert "pid namespace is shared" in frozen.receipt.isolation
    (last,) = await branch(frozen)
    assert await value(last, look) == "99 99 99"
    assert await value(last, "print([p for p in os.listdir('/proc') if p.isdigit()] == [str(os.getpid())])") == "True"


async def test_commands_and_files_of_branches(create: Create, python: Image, freeze: Freeze, branch: Branch) -> None:
    session = await create(python, {"GIVEN": "source"}, pids=64)
    await value(session, "open('a', 'w').write('base')")
    frozen, session = await freeze(session)
    (other,) = await branch(frozen, env_vars={"GIVEN": "branch"})
    for sandbox, expected in ((session, "base source"), (other, "base branch")):
        recorder = Recorder()
        await sandbox.run(CommandRequest("c", ("sh", "-c", "echo $(cat a) $GIVEN")), recorder)
        assert recorder.text() == f"{expected}\n"
        assert [e.name for e in await sandbox.list_files("/workspace")] == ["a"]
    assert await value(other, "import os; print(os.environ['GIVEN'])") == "branch"


async def test_shell_sessions(create: Create, shell: Image, freeze: Freeze, branch: Branch) -> None:
    session = await create(shell)
    await value(session, "mkdir d; cd d; x='a b'; umask 027; echo base > f")
    frozen, session = await freeze(session)
    await value(session, "x=source; echo source > f; cd /tmp")
    first, second = await branch(frozen, 2)
    await value(first, "echo first > f")
    look = "pwd; echo $x; umask; cat f"
    assert await value(first, look) == "/workspace/d\na b\n0027\nfirst"
    assert await value(second, look) == "/workspace/d\na b\n0027\nbase"
    assert await value(session, "pwd; echo $x; cat /workspace/d/f") == "/tmp\nsource\nsource"


async def test_a_shell_with_something_in_the_background_is_not_frozen(
    create: Create, shell: Image, freeze: Freeze
) -> None:
    session = await create(shell)
    await value(session, "sleep 300 >/dev/null 2>&1 & echo started > f")
    with pytest.raises(CannotFork):
        await freeze(session)
    layers = await session.copy_files("copy")
    assert len(layers) == 1
    assert await value(session, "cat f") == "started"


async def test_the_portable_form_of_a_session(
    create: Create, python: Image, freeze: Freeze, branch: Branch, backend: SandboxBackend, stack: AsyncExitStack
) -> None:
    session = await create(python, pids=64)
    await value(
        session,
        "import os, random, json as j\nclass Point:\n    def __init__(self, x): self.x = x\n"
        "def f(): return limit + 1\nlimit = 1; p = Point(5); q = p; gen = (i for i in range(3))\n"
        "open('file', 'w').write('kept'); os.makedirs('deep/er'); os.chdir('deep'); random.seed(3)",
    )
    frozen, session = await freeze(session)
    drawn = await value(session, "print(random.random())")
    await frozen.keep()
    (hidden,) = await branch(frozen)
    with tempfile.TemporaryFile() as file:
        report = await hidden.capture_variables(file.fileno())
        assert [(loss.name, loss.effect) for loss in report.excluded] == [("gen", "lost")]
        assert report.size_bytes == os.fstat(file.fileno()).st_size > 0
        await hidden.aclose()
        await frozen.aclose()
        await session.aclose()
        assert backend.has_layers(frozen.layers)
        restored = await backend.restore(SandboxSpec("restored", python, LIMITS), frozen.layers)
        stack.push_async_callback(restored.aclose)
        file.seek(0)
        again = await restored.restore_variables(file.fileno())
    assert set(again.variables) >= {"p", "q", "f", "limit", "Point"}
    await value(restored, "limit = 10")
    look = "print(f(), p.x, p is q, os.getcwd(), open('/workspace/file').read(), j.dumps([1]))"
    assert await value(restored, look) == "11 5 True /workspace/deep kept [1]"
    assert await value(restored, "print(random.random())") == drawn
    await backend.drop_layers(frozen.layers)
    assert not backend.has_layers(frozen.layers) or await value(restored, "print(open('/workspace/file').read())")
    await restored.aclose()


async def test_fingerprints_tell_what_changed(create: Create, python: Image, freeze: Freeze, branch: Branch) -> None:
    session = await create(python, pids=64)
    await value(session, "a = [1, 2]; b = {'k': 'v'}")
    frozen, session = await freeze(session)
    await value(session, "a.append(3)")
    (other,) = await branch(frozen)
    now = {v["name"]: v["digest"] for v in await session.fingerprints()}
    then = {v["name"]: v["digest"] for v in await other.fingerprints()}
    assert now["b"] == then["b"] != ""
    assert now["a"] != then["a"]


async def test_many_branches_at_once(create: Create, python: Image, freeze: Freeze, branch: Branch) -> None:
    session = await create(python, pids=64)
    await value(session, "x = 5")
    frozen, session = await freeze(session)
    sandboxes: Sequence[Sandbox] = await branch(frozen, 60)
    for number, sandbox in enumerate(sandboxes):
        reply, recorder = await execute(sandbox, f"print(x * {number})")
        assert (reply.status, recorder.text()) == ("ok", f"{5 * number}\n")
