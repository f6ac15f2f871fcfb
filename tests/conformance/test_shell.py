"""A shell session: each request takes over where the last one stopped."""

from __future__ import annotations

import anyio
import pytest
from contract import Create, Recorder, execute, value

from faas_gateway.backends.base import CodeRequest, Image, Reply, Sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("conformance-shell")]


@pytest.fixture
async def sandbox(create: Create, shell: Image) -> Sandbox:
    return await create(shell, env_vars={"GIVEN": "at creation"})


async def test_folder_variables_and_umask_are_kept(sandbox: Sandbox) -> None:
    await value(sandbox, "mkdir -p a/b; cd a/b; x=5; export y='two words'; umask 027")
    assert (
        await value(sandbox, "pwd; echo $x $y; umask; echo $GIVEN") == "/workspace/a/b\n5 two words\n0027\nat creation"
    )


@pytest.mark.parametrize("name", ["it's", 'quo"te', "new\nline", "a b", "$x", "-dash", "back\\slash", "*", "ü"])
async def test_a_folder_of_any_name_is_found_again(sandbox: Sandbox, name: str) -> None:
    from faas_gateway.backends.base import CommandRequest

    await sandbox.run(CommandRequest("make-folder", ("mkdir", "--", name)), Recorder())
    quoted = "'" + name.replace("'", "'\\''") + "'"
    await value(sandbox, f"cd -- {quoted}")
    assert await value(sandbox, "pwd") == f"/workspace/{name}"


@pytest.mark.parametrize(
    "text", ["it's", 'quo"te', "new\nline", "$HOME `id` $(id)", "\\n", "ü", " lead and trail ", "a\tb"]
)
async def test_a_variable_of_any_value_is_kept(sandbox: Sandbox, text: str) -> None:
    quoted = "'" + text.replace("'", "'\\''") + "'"
    await value(sandbox, f"x={quoted}")
    reply, recorder = await execute(sandbox, "printf '%s' \"$x\"")
    assert (reply.status, recorder.text()) == ("ok", text)


async def test_exit_ends_the_request_with_its_code_and_keeps_the_state(sandbox: Sandbox) -> None:
    reply, recorder = await execute(sandbox, "x=1; cd /tmp; echo before; exit 7; echo after")
    assert (reply.status, reply.exit_code, recorder.text()) == ("error", 7, "before\n")
    assert await value(sandbox, "echo $x; pwd") == "1\n/tmp"


async def test_the_exit_code_is_that_of_the_last_command(sandbox: Sandbox) -> None:
    for code, exit_code in (
        ("false", 1),
        ("true", 0),
        ("(exit 42)", 42),
        ("false; true", 0),
        ("", 0),
        ("# comment", 0),
    ):
        reply, _ = await execute(sandbox, code)
        assert reply.exit_code == exit_code, code


async def test_a_syntax_error_keeps_the_state(sandbox: Sandbox) -> None:
    await value(sandbox, "x=1")
    reply, recorder = await execute(sandbox, "if then; fi")
    assert reply.status == "error"
    assert "yntax error" in recorder.text("stderr")
    assert await value(sandbox, "echo $x") == "1"


async def test_a_missing_command_is_127(sandbox: Sandbox) -> None:
    reply, recorder = await execute(sandbox, "no_such_command")
    assert reply.exit_code == 127
    assert "not found" in recorder.text("stderr")


async def test_a_request_that_is_killed_leaves_the_state_before_it(sandbox: Sandbox) -> None:
    await value(sandbox, "x=1")
    reply, _ = await execute(sandbox, "x=2; kill -9 $$")
    assert reply.exit_code == 137
    assert await value(sandbox, "echo $x") == "1"


async def test_exec_replaces_the_request_only(sandbox: Sandbox) -> None:
    await value(sandbox, "x=1")
    assert await value(sandbox, "exec echo replaced") == "replaced"
    assert await value(sandbox, "echo $x") == "1"


async def test_a_folder_that_is_gone_does_not_end_the_session(sandbox: Sandbox) -> None:
    await value(sandbox, "mkdir gone; cd gone; rmdir /workspace/gone")
    reply, _ = await execute(sandbox, "echo here")
    assert reply.status in ("ok", "error")
    assert await value(sandbox, "cd /tmp; pwd") == "/tmp"


async def test_code_of_several_lines_and_a_here_document(sandbox: Sandbox) -> None:
    code = 'greet() {\n  echo "hello $1"\n}\nfor n in 1 2; do\n  greet $n\ndone\ncat <<END\ntext $n\nEND'
    assert await value(sandbox, code) == "hello 1\nhello 2\ntext 2"


async def test_an_interrupt_ends_the_request_and_keeps_the_session(sandbox: Sandbox) -> None:
    await value(sandbox, "x=1")
    replies: list[Reply] = []
    recorder = Recorder()

    async def one() -> None:
        replies.append(await sandbox.execute(CodeRequest("interrupted", "echo begun; sleep 1000"), recorder))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        with anyio.fail_after(5):
            while not recorder.text():
                await anyio.sleep(0.01)
            await sandbox.interrupt()
    assert (replies[0].status, replies[0].exit_code) == ("error", 130)
    assert await value(sandbox, "echo $x") == "1"


async def test_read_meets_the_end_of_file(sandbox: Sandbox) -> None:
    assert await value(sandbox, "read line || echo none") == "none"
