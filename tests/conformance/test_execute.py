"""Code: its state, its output in order, its errors, its interrupts."""

from __future__ import annotations

import secrets
import time
from typing import Any

import anyio
import pytest
from contract import Create, Recorder, execute, value

from faas_gateway.backends.base import CodeRequest, Image, Reply, Sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("conformance-execute")]


@pytest.fixture
async def sandbox(create: Create, python: Image) -> Sandbox:
    return await create(python)


async def test_state_persists_between_requests(sandbox: Sandbox) -> None:
    await value(sandbox, "x = 20\ndef double(n): return 2 * n\nimport json as j")
    assert await value(sandbox, "print(double(x) + 2, j.dumps([]))") == "42 []"


async def test_the_last_expression_is_a_result_with_its_number(sandbox: Sandbox) -> None:
    reply, recorder = await execute(sandbox, "6 * 7", execution_count=12)
    assert (reply.status, reply.exit_code, reply.execution_count) == ("ok", 0, 12)
    ((kind, content),) = recorder.events
    assert kind == "execute_result"
    assert (content["data"]["text/plain"], content["execution_count"]) == ("42", 12)


async def test_an_exception_is_a_reply_with_its_traceback(sandbox: Sandbox) -> None:
    reply, recorder = await execute(sandbox, "x = 1\n\n1 / 0")
    assert (reply.status, reply.exit_code, reply.code) == ("error", 1, "exception")
    assert (reply.ename, reply.evalue) == ("ZeroDivisionError", "division by zero")
    assert any("line 3" in line or "1" in line for line in reply.traceback)
    (content,) = [content for kind, content in recorder.events if kind == "error"]
    assert content["ename"] == "ZeroDivisionError"


async def test_a_syntax_error_is_an_exception(sandbox: Sandbox) -> None:
    reply, _ = await execute(sandbox, "x = = 1")
    assert (reply.status, reply.ename) == ("error", "SyntaxError")


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("raise SystemExit(3)", 3),
        ("raise SystemExit", 0),
        ("raise SystemExit('text')", 1),
        ("raise SystemExit(259)", 3),
    ],
)
async def test_system_exit_has_its_exit_code_and_keeps_the_session(sandbox: Sandbox, code: str, exit_code: int) -> None:
    await value(sandbox, "x = 1")
    reply, _ = await execute(sandbox, code)
    assert (reply.status, reply.exit_code) == ("error" if exit_code else "ok", exit_code)
    assert await value(sandbox, "print(x)") == "1"


async def test_line_numbers_are_the_cells_when_its_first_line_was_a_magic(sandbox: Sandbox) -> None:
    reply, _ = await execute(sandbox, "x = 1\n1 / 0", magic_line="%%faas --env python")
    assert any("line 3" in line for line in reply.traceback)


async def test_top_level_await_works(sandbox: Sandbox) -> None:
    assert await value(sandbox, "import asyncio\nawait asyncio.sleep(0)\nprint('awaited')") == "awaited"


async def test_tasks_go_on_between_two_requests(sandbox: Sandbox) -> None:
    await value(
        sandbox,
        "import asyncio\nasync def f():\n  await asyncio.sleep(0.05); done.append(1)\ndone = []\nt = asyncio.create_task(f())",
    )
    await anyio.sleep(0.3)
    assert await value(sandbox, "print(done)") == "[1]"


ORDERED = """
import os, subprocess, sys
from IPython.display import HTML
for n in range({n}):
    print("a", n)
    display(HTML(str(n)))
    print("b", n)
    subprocess.run(["echo", f"child {{n}}"])
    os.write(1, f"raw {{n}}\\n".encode())
    display(n)
    print("c", n, end="")
    print()
"""


async def test_output_keeps_the_order_in_which_it_was_made(sandbox: Sandbox) -> None:
    for _ in range(5):
        reply, recorder = await execute(sandbox, ORDERED.format(n=30))
        assert reply.status == "ok"
        expected: list[tuple[str, str]] = []
        for n in range(30):
            text = f"a {n}\n" if n == 0 else f"c {n - 1}\na {n}\n"
            expected += [
                ("stdout", text),
                ("html", str(n)),
                ("stdout", f"b {n}\nchild {n}\nraw {n}\n"),
                ("plain", str(n)),
            ]
        expected.append(("stdout", "c 29\n"))
        assert [_plain(event) for event in recorder.events] == expected


def _plain(event: tuple[str, Any]) -> tuple[str, str]:
    kind, content = event
    if kind == "stdout":
        return kind, content
    data = content["data"]
    return ("html", data["text/html"]) if "text/html" in data else ("plain", data["text/plain"])


async def test_stderr_and_displays_keep_their_order(sandbox: Sandbox) -> None:
    code = "import sys\nfor n in range(50):\n  print(n, file=sys.stderr)\n  display(n)"
    for _ in range(3):
        _, recorder = await execute(sandbox, code)
        kinds = [kind for kind, _ in recorder.events]
        assert kinds == ["stderr", "display_data"] * 50
        assert recorder.text("stderr") == "".join(f"{n}\n" for n in range(50))


async def test_nothing_of_a_burst_is_missing(sandbox: Sandbox) -> None:
    _, recorder = await execute(sandbox, "for n in range(200_000): print(n)")
    assert recorder.text() == "".join(f"{n}\n" for n in range(200_000))


async def test_output_comes_while_the_code_runs(sandbox: Sandbox) -> None:
    recorder = Recorder()
    async with anyio.create_task_group() as group:
        group.start_soon(_execute, sandbox, "import time\nprint('now', end='')\ntime.sleep(3)", recorder)
        with anyio.fail_after(2):
            while recorder.text() != "now":
                await anyio.sleep(0.01)
        await sandbox.interrupt()


async def _execute(sandbox: Sandbox, code: str, recorder: Recorder) -> None:
    await sandbox.execute(CodeRequest(secrets.token_hex(8), code), recorder)


async def test_text_is_utf_8_and_bytes_that_are_none_are_shown(sandbox: Sandbox) -> None:
    assert (
        await value(sandbox, "import sys\nprint('äöü 漢字 🐍')\nsys.stdout.buffer.write(b'\\xff\\n')")
        == "äöü 漢字 🐍\n\ufffd"
    )


async def test_updates_clears_and_comms_arrive(sandbox: Sandbox) -> None:
    code = """
from IPython.display import clear_output, display
handle = display(1, display_id=True)
handle.update(2)
clear_output(wait=True)
from comm import create_comm
create_comm(target_name="t", data={"a": 1}).send({"b": 2}, buffers=[b"bytes"])
"""
    _, recorder = await execute(sandbox, code)
    kinds = [kind for kind, _ in recorder.events]
    assert kinds == ["display_data", "update_display_data", "clear_output", "comm_open", "comm_msg"]


async def test_an_interrupt_is_a_keyboard_interrupt(sandbox: Sandbox) -> None:
    replies: list[Reply] = []
    recorder = Recorder()

    async def run() -> None:
        code = CodeRequest(secrets.token_hex(8), "x = 1\nprint('begun', flush=True)\nwhile True: pass")
        replies.append(await sandbox.execute(code, recorder))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        with anyio.fail_after(5):
            while not recorder.text():
                await anyio.sleep(0.01)
            await sandbox.interrupt()
            while not replies:
                await anyio.sleep(0.01)
    assert (replies[0].status, replies[0].ename) == ("error", "KeyboardInterrupt")
    assert await value(sandbox, "print(x)") == "1"


async def test_an_interrupt_while_nothing_runs_does_nothing(sandbox: Sandbox) -> None:
    for _ in range(3):
        await sandbox.interrupt()
        assert await value(sandbox, "print(1)") == "1"


async def test_interrupts_that_strike_at_any_moment_never_break_the_session(sandbox: Sandbox) -> None:
    for n in range(40):
        async with anyio.create_task_group() as group:
            group.start_soon(_execute, sandbox, f"display({n}); print({n})", Recorder())
            await anyio.sleep(n % 10 / 2000)
            await sandbox.interrupt()
    assert await value(sandbox, "print(1)") == "1"


async def test_input_is_refused_with_a_reason(sandbox: Sandbox) -> None:
    reply, _ = await execute(sandbox, "input('name? ')")
    assert "not available in a sandboxed cell" in reply.evalue


async def test_a_child_ends_by_the_signals_that_end_programs(sandbox: Sandbox) -> None:
    code = """
import signal, subprocess
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
    child = subprocess.Popen(["sleep", "1000"])
    child.send_signal(number)
    print(child.wait(5) == -number)
"""
    assert await value(sandbox, code) == "True\n" * 3 + "True"


async def test_environment_variables_are_in_the_code_and_its_children(create: Create, python: Image) -> None:
    sandbox = await create(python, env_vars={"COLOUR": "grün", "EMPTY": ""})
    code = "import os, subprocess\nprint(os.environ['COLOUR'], repr(os.environ['EMPTY']), flush=True)\nsubprocess.run(['sh', '-c', 'echo $COLOUR'])"
    assert await value(sandbox, code) == "grün ''\ngrün"


async def test_a_warm_request_takes_milliseconds(sandbox: Sandbox) -> None:
    times: list[float] = []
    for _ in range(30):
        begun = time.perf_counter()
        await execute(sandbox, "pass")
        times.append(time.perf_counter() - begun)
    assert sorted(times)[5] < 0.05
