"""Commands that run beside the code."""

from __future__ import annotations

import secrets

import anyio
import pytest
from contract import Create, Recorder, execute, run, value

from faas_gateway.backends.base import CommandRequest, Image, Reply, Sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("conformance-commands")]


@pytest.fixture(params=["python", "shell"])
async def sandbox(request: pytest.FixtureRequest, create: Create, python: Image, shell: Image) -> Sandbox:
    return await create(python if request.param == "python" else shell, env_vars={"FROM": "creation"})


async def test_output_and_exit_code_are_the_commands(sandbox: Sandbox) -> None:
    reply, recorder = await run(sandbox, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (reply.status, reply.exit_code, reply.code) == ("error", 3, "exit_code")
    assert (recorder.text(), recorder.text("stderr")) == ("out\n", "err\n")
    reply, _ = await run(sandbox, "true")
    assert (reply.status, reply.exit_code) == ("ok", 0)


async def test_arguments_arrive_as_they_are(sandbox: Sandbox) -> None:
    _, recorder = await run(sandbox, "printf", "%s|", "", "a b", "ü", "'\"$x\\", "new\nline")
    assert recorder.text() == "|a b|ü|'\"$x\\|new\nline|"


async def test_stdin_is_given_and_ends(sandbox: Sandbox) -> None:
    _, recorder = await run(sandbox, "cat", stdin="äöü\0".encode())
    assert recorder.text() == "äöü\0"
    _, recorder = await run(sandbox, "wc", "-c", stdin=bytes(3_000_000))
    assert recorder.text().strip() == "3000000"
    reply, _ = await run(sandbox, "cat")
    assert reply.status == "ok"


async def test_a_command_may_close_its_stdin_early(sandbox: Sandbox) -> None:
    reply, recorder = await run(sandbox, "head", "-c", "1", stdin=b"x" * 3_000_000)
    assert (reply.status, recorder.text()) == ("ok", "x")


async def test_environment_is_the_sandboxs_and_the_commands_own(sandbox: Sandbox) -> None:
    _, recorder = await run(
        sandbox, "sh", "-c", "echo $FROM $HOME $USER $LANG $EXTRA", env_vars={"EXTRA": "mine", "LANG": "C"}
    )
    assert recorder.text() == "creation /home/user user C mine\n"


async def test_the_working_directory_is_the_workspace_or_as_asked(sandbox: Sandbox) -> None:
    _, recorder = await run(sandbox, "pwd")
    assert recorder.text() == "/workspace\n"
    _, recorder = await run(sandbox, "pwd", cwd="/tmp")
    assert recorder.text() == "/tmp\n"


@pytest.mark.parametrize(
    ("argv", "cwd", "exit_code", "words"),
    [
        (("no-such-command",), None, 127, "no-such-command: No such file"),
        (("/etc/passwd",), None, 126, "/etc/passwd: Permission denied"),
        (("/workspace",), None, 126, "/workspace: Permission denied"),
        (("true",), "/no/such/folder", 127, "/no/such/folder: No such file"),
        (("/bin/true/x",), None, 127, "/bin/true/x: Not a directory"),
    ],
)
async def test_a_command_that_cannot_be_started_is_its_callers_error(
    sandbox: Sandbox, argv: tuple[str, ...], cwd: str | None, exit_code: int, words: str
) -> None:
    reply, _ = await run(sandbox, *argv, cwd=cwd)
    assert (reply.status, reply.exit_code, reply.code) == ("error", exit_code, "exit_code")
    assert words in reply.evalue
    assert reply.hint
    reply, _ = await run(sandbox, "true")
    assert reply.status == "ok"


async def test_a_signal_is_told_as_a_shell_does(sandbox: Sandbox) -> None:
    reply, _ = await run(sandbox, "sh", "-c", "kill -TERM $$")
    assert (reply.exit_code, reply.ename) == (143, "SIGTERM")


async def test_several_run_at_once_and_beside_the_code(create: Create, python: Image) -> None:
    sandbox = await create(python)
    replies: dict[str, str] = {}

    async def one(name: str) -> None:
        _, recorder = await run(sandbox, "sh", "-c", f"sleep 0.3; echo {name}")
        replies[name] = recorder.text()

    async with anyio.create_task_group() as group:
        group.start_soon(execute, sandbox, "import time; time.sleep(0.6)")
        with anyio.fail_after(2):
            for n in range(6):
                group.start_soon(one, str(n))
    assert replies == {str(n): f"{n}\n" for n in range(6)}


async def test_an_interrupt_is_a_sigint(sandbox: Sandbox) -> None:
    replies: list[Reply] = []
    recorder = Recorder()

    async def command() -> None:
        argv = ("sh", "-c", "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done")
        replies.append(await sandbox.run(CommandRequest(secrets.token_hex(8), argv), recorder))

    async with anyio.create_task_group() as group:
        group.start_soon(command)
        with anyio.fail_after(5):
            while not recorder.text():
                await anyio.sleep(0.01)
            await sandbox.interrupt()
    assert replies[0].exit_code == 5
    assert recorder.text() == "ready\ncaught\n"


async def test_cancelling_kills_the_command_and_its_children(create: Create, python: Image) -> None:
    sandbox = await create(python)
    with anyio.move_on_after(0.3):
        await run(sandbox, "sh", "-c", "sleep 1000 & sleep 1000")
    with anyio.fail_after(5):
        while await value(sandbox, "import os; print(len([n for n in os.listdir('/proc') if n.isdigit()]))") != "2":
            await anyio.sleep(0.05)


async def test_much_output_arrives_whole(sandbox: Sandbox) -> None:
    _, recorder = await run(sandbox, "sh", "-c", "yes 0123456789 | head -c 30000000")
    assert len(recorder.text()) == 30_000_000


async def test_a_background_process_does_not_hold_its_command_up(sandbox: Sandbox) -> None:
    with anyio.fail_after(5):
        reply, recorder = await run(sandbox, "sh", "-c", "sleep 1000 & echo started")
    assert (reply.status, recorder.text()) == ("ok", "started\n")
