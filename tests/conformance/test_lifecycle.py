"""From creation to the end of a sandbox, and what is said of it."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

import anyio
import pytest
from contract import Create, Recorder, execute, pieces, run, value

from faas_gateway.backends.base import (
    Capabilities,
    CodeRequest,
    Ended,
    Image,
    Limits,
    ProgressReport,
    Recipe,
    Sandbox,
    SandboxBackend,
    SandboxEnded,
    SandboxSpec,
)

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("conformance-lifecycle")]


async def test_the_backend_says_what_it_can_do(backend: SandboxBackend) -> None:
    found = await backend.probe()
    assert isinstance(found, Capabilities)
    assert found.name == backend.name
    assert found.available
    assert found.isolation


async def test_a_version_is_known_before_it_is_built_and_built_once(backend: SandboxBackend, python: Image) -> None:
    assert backend.version_of(python.recipe) == python.version
    assert backend.is_built(python.recipe)
    reports: list[ProgressReport] = []
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(backend.build, python.recipe, reports.append)
    assert reports == []
    other = Recipe("python", "python", preload=("json",))
    assert backend.version_of(other) != python.version


async def test_a_warm_process_can_be_ended_and_comes_back(
    backend: SandboxBackend, create: Create, shell: Image
) -> None:
    image = await backend.build(Recipe("python", "python", preload=("colorsys",)), lambda _: None)
    await backend.warm(image, lambda _: None)
    assert backend.is_warm(image)
    sandbox = await create(image)
    await value(sandbox, "x = 1")
    await backend.cool(image)
    await backend.cool(image)
    assert not backend.is_warm(image)
    assert await value(sandbox, "print(x)") == "1"  # its sessions go on
    assert await value(await create(image), "import sys; print('colorsys' in sys.modules)") == "True"
    assert backend.is_warm(image)


async def test_many_are_made_at_once(create: Create, python: Image) -> None:
    answers: list[str] = []

    async def one(n: int) -> None:
        sandbox = await create(python)
        answers.append(await value(sandbox, f"print({n})"))

    async with anyio.create_task_group() as group:
        for n in range(8):
            group.start_soon(one, n)
    assert sorted(answers) == [str(n) for n in range(8)]


async def test_a_creation_that_is_given_up_leaves_nothing(
    backend: SandboxBackend, create: Create, python: Image, sandboxes_held: Callable[[], list[str]]
) -> None:
    for n in range(24):
        with anyio.move_on_after(n * 0.002):
            sandbox = await backend.create(SandboxSpec(f"given-up-{n}", python, Limits(pids=40 + n % 2)))
            await sandbox.aclose()
    assert await value(await create(python), "print(1)") == "1"
    with anyio.fail_after(5):
        while any(name.startswith("given-up") for name in sandboxes_held()):
            await anyio.sleep(0.05)


async def test_a_warm_process_that_was_given_up_is_not_made_twice(backend: SandboxBackend, create: Create) -> None:
    image = await backend.build(Recipe("python", "python", preload=("tabnanny",)), lambda _: None)
    for seconds in (0.05, 0.2):
        with anyio.move_on_after(seconds):
            await backend.warm(image, lambda _: None)
    await backend.warm(image, lambda _: None)
    assert await value(await create(image), "print(1)") == "1"
    # one that nobody knows of would be among what is left when the backend is


async def test_closing_is_idempotent_and_the_cause_is_told(create: Create, python: Image) -> None:
    sandbox = await create(python)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(sandbox.aclose)
    await sandbox.aclose()
    with anyio.fail_after(1):
        assert (await sandbox.wait()).code == "closed"


Call = Callable[[Sandbox], Awaitable[object]]


async def _drain(sandbox: Sandbox) -> None:
    async for _ in sandbox.read_file("x"):
        pass


async def _pull(sandbox: Sandbox) -> None:
    async for _ in sandbox.pull_variable("x"):
        pass


CALLS: dict[str, Call] = {
    "execute": lambda s: execute(s, "1"),
    "run": lambda s: run(s, "true"),
    "usage": lambda s: s.usage(),
    "list_files": lambda s: s.list_files("."),
    "stat_file": lambda s: s.stat_file("."),
    "read_file": _drain,
    "write_file": lambda s: s.write_file("x", pieces(b"")),
    "delete_file": lambda s: s.delete_file("x"),
    "list_variables": lambda s: s.list_variables(),
    "pull_variable": _pull,
    "push_variable": lambda s: s.push_variable("x", pieces(b"")),
}


@pytest.mark.parametrize("name", CALLS)
async def test_every_call_says_that_the_sandbox_is_gone(create: Create, python: Image, name: str) -> None:
    sandbox = await create(python)
    await sandbox.kill(Ended("killed", "for a test"))
    with pytest.raises(SandboxEnded) as caught, anyio.fail_after(5):
        await CALLS[name](sandbox)
    assert caught.value.ended == Ended("killed", "for a test")
    await sandbox.interrupt()
    await sandbox.kill(Ended("killed", "again"))
    assert await sandbox.wait() == Ended("killed", "for a test")


async def test_a_kill_ends_pending_calls_with_its_cause(create: Create, python: Image) -> None:
    sandbox = await create(python)
    causes: list[Ended] = []

    async def wait_for(call: Call) -> None:
        try:
            await call(sandbox)
        except SandboxEnded as gone:
            causes.append(gone.ended)

    async with anyio.create_task_group() as group:
        group.start_soon(wait_for, lambda s: execute(s, "import time; time.sleep(1000)"))
        group.start_soon(wait_for, lambda s: run(s, "sleep", "1000"))
        await anyio.sleep(0.3)
        with anyio.fail_after(5):
            await sandbox.kill(Ended("killed", "for a test"))
    assert causes == [Ended("killed", "for a test")] * 2


async def test_wait_returns_when_the_code_ends_its_interpreter(create: Create, python: Image) -> None:
    sandbox = await create(python)
    ends: list[Ended] = []

    async def wait() -> None:
        ends.append(await sandbox.wait())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        with pytest.raises(SandboxEnded):
            await execute(sandbox, "import os; os._exit(0)")
    assert ends[0].code == "died"
    assert "exit status 0" in ends[0].reason


async def test_a_cancelled_execute_leaves_the_request_running(create: Create, python: Image) -> None:
    sandbox = await create(python)
    with anyio.move_on_after(0.2):
        await sandbox.execute(CodeRequest(secrets.token_hex(8), "import time; time.sleep(0.5); x = 1"), Recorder())
    assert await value(sandbox, "print(x)") == "1"


async def test_a_request_that_is_given_up_while_it_is_sent_does_not_cut_the_next_one(
    create: Create, python: Image
) -> None:
    sandbox = await create(python)
    code = "x = '" + "y" * 600_000 + "'"
    for n in range(20):
        with anyio.move_on_after(n * 0.0005):
            await sandbox.execute(CodeRequest(secrets.token_hex(8), code), Recorder())
    assert await value(sandbox, "print(1)") == "1"


async def test_usage_tells_processor_memory_disk_and_processes(create: Create, python: Image) -> None:
    sandbox = await create(python, memory_bytes=512 << 20, disk_bytes=1 << 30)
    before = await sandbox.usage()
    code = """
import subprocess, time
x = bytearray(80 << 20)
for n in range(0, len(x), 4096): x[n] = 1
open("file", "wb").write(bytes(20 << 20))
child = subprocess.Popen(["sleep", "1000"])
deadline = time.process_time() + 0.3
while time.process_time() < deadline: pass
"""
    await value(sandbox, code)
    after = await sandbox.usage()
    assert after.cpu_time_s - before.cpu_time_s > 0.25
    assert after.memory_bytes - before.memory_bytes > 70 << 20
    assert 20 << 20 <= after.disk_bytes - before.disk_bytes < 25 << 20
    assert after.processes > before.processes
    assert before.processes >= 1


async def test_each_limit_that_was_asked_for_is_reported_with_what_holds_it(create: Create, python: Image) -> None:
    limits = {"memory_bytes": 256 << 20, "disk_bytes": 64 << 20, "pids": 32, "cpus": 1.0, "cpu_time_s": 100.0}
    sandbox = await create(python, **limits, open_files=128)
    assert {"memory_mb", "disk_mb", "pids", "cpus", "cpu_time_s", "open_files"} <= sandbox.enforcement.keys()
    assert all(sandbox.enforcement.values())


async def test_limits_are_in_force(create: Create, python: Image) -> None:
    sandbox = await create(python, memory_bytes=128 << 20, disk_bytes=16 << 20, pids=24, open_files=64)
    reply, _ = await execute(sandbox, "open('x', 'wb').write(bytes(32 << 20))")
    assert reply.code == "disk_full"
    reply, _ = await execute(sandbox, "held = [open('/dev/null') for _ in range(100)]")
    assert reply.code == "open_files"
    reply, _ = await execute(sandbox, "import os, time\nwhile True:\n  if os.fork() == 0: time.sleep(100)")
    assert reply.code == "pids"
    try:
        reply, _ = await execute(sandbox, "x = []\nwhile True: x.append(bytearray(1 << 20))")
        assert reply.code == "oom"
    except SandboxEnded as gone:
        assert gone.ended.code == "oom"


async def test_the_processor_limit_holds(create: Create, python: Image) -> None:
    sandbox = await create(python, cpus=0.25)
    code = """
import os, time
begun, used = time.monotonic(), time.process_time()
while time.monotonic() - begun < 1: pass
print(time.process_time() - used, len(os.sched_getaffinity(0)))
"""
    share, cores = (await value(sandbox, code)).split()
    if "cgroup" in sandbox.enforcement["cpus"]:
        assert float(share) < 0.5
    else:
        assert int(cores) == 1
        assert any("cpus" in text for text in sandbox.degraded)


async def test_a_name_can_be_used_again_after_its_sandbox_was_closed(backend: SandboxBackend, python: Image) -> None:
    spec = SandboxSpec("test-same-name", python, Limits())
    for _ in range(2):
        sandbox = await backend.create(spec)
        assert await value(sandbox, "print(1)") == "1"
        await sandbox.aclose()
