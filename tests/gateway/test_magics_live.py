"""`%%faas` from a real notebook kernel, through the SDK and a live gateway, into real sandboxes.

`gateway_env` holds the environment variables that lead to a live embedded gateway of the test run.
"""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import notebook_kernel
import pytest
from faas import SyncFaaSClient
from live import LiveGateway
from notebook_kernel import Kernel, kinds, text

_numbers = itertools.count()


def start(env: Mapping[str, str], folder: Path) -> Iterator[Kernel]:
    name = f"live-{os.getpid()}-{next(_numbers)}"
    with notebook_kernel.kernel(folder, env, name=name) as kernel:
        kernel.ok("%load_ext faas_magics")
        yield kernel


@pytest.fixture(scope="module")
def kernel(gateway_env: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    for kernel in start(gateway_env, tmp_path_factory.mktemp("live")):
        # The first use of an environment builds it, which shows progress.
        kernel.ok("%%faas\n1")
        yield kernel


@pytest.fixture
def another_kernel(gateway_env: Mapping[str, str], tmp_path: Path) -> Iterator[Kernel]:
    yield from start(gateway_env, tmp_path)


def remote(kernel: Kernel, code: str) -> str:
    return kernel.value(f"%%faas\n{code}")


def test_output_streams_while_the_code_runs(kernel: Kernel):
    shown = kernel.ok("%%faas\nimport sys, time\nprint('one')\ntime.sleep(0.5)\nprint('two', file=sys.stderr)\n6 * 7")
    assert set(kinds(shown)[:-2]) == {"stream"}
    assert (text(shown), text(shown, "stderr")) == ("one\n", "two\n")
    assert kinds(shown)[-2:] == ["execute_result", "reply"]
    assert shown[-2][1]["data"] == {"text/plain": "42"}
    (two,) = [index for index, (_, content) in enumerate(shown) if "two" in content.get("text", "")]
    assert kernel.times[two] - kernel.times[0] > 0.4


def test_a_cell_runs_in_a_sandbox_and_not_here(kernel: Kernel):
    here = kernel.value("import os; os.getpid()")
    assert remote(kernel, "import os; (os.getcwd(), os.getpid())") != f"('/workspace', {here})"
    assert remote(kernel, "os.getcwd()") == "'/workspace'"


def test_output_of_child_processes_shows(kernel: Kernel):
    shown = kernel.ok("%%faas\nimport subprocess\nsubprocess.run(['echo', 'from a child'])\nNone")
    assert text(shown) == "from a child\n"


@pytest.mark.parametrize("code", ["None", "x = 3", "x;", "x;  # quiet"])
def test_no_value_shows_for_none_or_a_semicolon(kernel: Kernel, code: str):
    kernel.ok("%%faas\nx = 3")
    assert kinds(kernel.ok(f"%%faas\n{code}")) == ["reply"]


def test_a_data_frame_shows_as_a_table_and_stays_in_out(kernel: Kernel):
    shown = kernel.ok("%%faas\nimport pandas as pd\npd.DataFrame({'a': [1, 2]})")
    assert kinds(shown) == ["execute_result", "reply"]
    assert "<table" in shown[0][1]["data"]["text/html"]
    assert "text/html" in kernel.ok("_")[0][1]["data"]


def test_a_figure_shows_after_the_value_as_one_good_png(kernel: Kernel):
    shown = kernel.ok("%%faas\nimport matplotlib.pyplot as plt\nplt.plot([1, 2, 1])")
    assert kinds(shown) == ["execute_result", "display_data", "reply"]
    assert base64.b64decode(shown[1][1]["data"]["image/png"]).startswith(b"\x89PNG\r\n")


def test_display_html_and_update_across_cells_and_clear_output(kernel: Kernel):
    shown = kernel.ok("%%faas\nfrom IPython.display import *\nhandle = display(HTML('<b>hi</b>'), display_id=True)")
    display_id = shown[0][1]["transient"]["display_id"]
    assert shown[0][1]["data"]["text/html"] == "<b>hi</b>"
    shown = kernel.ok("%%faas\nhandle.update(HTML('<i>ho</i>'))\nclear_output(wait=True)")
    assert kinds(shown) == ["update_display_data", "clear_output", "reply"]
    assert shown[0][1]["data"]["text/html"] == "<i>ho</i>"
    assert shown[0][1]["transient"]["display_id"] == display_id


def test_a_traceback_shows_once_and_points_at_the_lines_of_the_cell(kernel: Kernel):
    shown = kernel.run("%%faas\nx = 1\n\ndef f():\n    return x / 0\n\nf()")
    assert kinds(shown) == ["error", "reply"]
    trace = notebook_kernel.plain("\n".join(shown[0][1]["traceback"]))
    assert shown[0][1]["ename"] == "ZeroDivisionError"
    assert "----> 7 f()" in trace
    assert "----> 5     return x / 0" in trace
    assert f"In[{shown[1][1]['execution_count']}]" in trace.replace("In [", "In[")
    assert "faas_magics" not in trace
    assert trace.count("ZeroDivisionError: division by zero") == 1


def test_a_syntax_error_points_at_its_line(kernel: Kernel):
    shown = kernel.run("%%faas\nx = 1\ny = = 2")
    assert kinds(shown) == ["error", "reply"]
    assert shown[0][1]["ename"] == "SyntaxError"
    assert "line 3" in notebook_kernel.plain("\n".join(shown[0][1]["traceback"]))


def test_a_remote_cell_magic_below_the_magic_works(kernel: Kernel):
    assert "Wall time" in text(kernel.ok("%%faas\n%%time\ny = 1"))
    assert remote(kernel, "y") == "1"


def test_top_level_await_works(kernel: Kernel):
    assert remote(kernel, "import asyncio\nawait asyncio.sleep(0.01, 'slept')") == "'slept'"


def test_the_stop_button_interrupts_the_code_and_keeps_the_session(kernel: Kernel):
    shown = kernel.run("%%faas\nkept = 5\nimport time\nprint('started')\ntime.sleep(60)\nprint('never')", 1.0)
    assert [k for k in kinds(shown) if k != "stream"] == ["error", "reply"]
    assert shown[-2][1]["ename"] == "KeyboardInterrupt"
    assert kernel.times[-1] < 5
    assert remote(kernel, "kept") == "5"


def test_the_stop_button_reaches_a_busy_loop(kernel: Kernel):
    shown = kernel.run("%%faas\nwhile True: pass", 0.5)
    assert shown[0][1]["ename"] == "KeyboardInterrupt"
    assert remote(kernel, "kept") == "5"


def test_code_that_ignores_the_stop_button_is_left_at_the_second_press(kernel: Kernel):
    code = (
        "import time\nwhile True:\n    try:\n        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n        print('no', flush=True)"
    )
    kernel.ok(f"%%faas --name deaf-{os.getpid()} --env python\n1")
    shown = kernel.run(f"%%faas --name deaf-{os.getpid()}\n{code}", 1.0, 2.0)
    assert shown[-2][1]["ename"] == "Interrupted"
    assert "%%faas --fresh" in shown[-2][1]["evalue"]
    shown = kernel.ok(f"%%faas --name deaf-{os.getpid()} --fresh\n1")
    assert kinds(shown) == ["execute_result", "reply"]


def test_arrays_and_data_frames_travel_without_loss(kernel: Kernel):
    kernel.ok(
        "import numpy as np, pandas as pd\n"
        "array = np.arange(12, dtype='float32').reshape(3, 4)\n"
        "frame = pd.DataFrame({'when': pd.date_range('2024-01-01', periods=3, tz='UTC'), 'kind': "
        "pd.Categorical(['a', 'b', 'a']), 'n': [1, None, 3]}, index=pd.Index([10, 20, 30], name='id'))"
    )
    kernel.ok("%%faas --in array,frame --out array2,frame2\narray2 = array.T * 2\nframe2 = frame.copy()")
    assert kernel.value("(array2.dtype.str, array2.shape, bool((array2 == array.T * 2).all()))") == (
        "('<f4', (4, 3), True)"
    )
    kernel.ok("pd.testing.assert_frame_equal(frame, frame2)")


def test_values_that_cannot_travel_name_the_variable(kernel: Kernel):
    kernel.ok("lock = __import__('threading').Lock()")
    shown = kernel.run("%%faas --in lock\nprint('ran')")
    assert kinds(shown) == ["error", "reply"]
    assert "--in lock (_thread.lock)" in shown[0][1]["evalue"]
    shown = kernel.run("%%faas --out lock\nimport threading; lock = threading.Lock()")
    assert shown[0][1]["ename"] == "TransferError"
    assert "--out lock" in shown[0][1]["evalue"]
    assert "lock" in shown[0][1]["evalue"].replace("--out lock", "")


def test_a_timeout_is_one_message_and_the_session_goes_on(kernel: Kernel):
    shown = kernel.run("%%faas --timeout 1\nimport time\ntime.sleep(30)")
    assert kinds(shown) == ["error", "reply"]
    assert shown[0][1]["ename"] == "CellTimeout"
    assert len(shown[0][1]["traceback"]) == 1
    assert kernel.times[-1] < 8
    assert remote(kernel, "kept") == "5"


def test_options_that_differ_from_the_session_name_both(kernel: Kernel):
    shown = kernel.run("%%faas --env python\n1")
    assert shown[0][1]["ename"] == "SessionError"
    assert all(part in shown[0][1]["evalue"] for part in ("--env notebook", "--env python", "--fresh"))


def test_an_unknown_environment_is_one_message(kernel: Kernel):
    shown = kernel.run("%%faas --name other --env pyton-ai\n1")
    assert kinds(shown) == ["error", "reply"]
    assert "pyton-ai" in shown[0][1]["evalue"]
    assert len(shown[0][1]["traceback"]) == 1


def test_the_line_magic_shows_the_session(kernel: Kernel):
    kernel.ok("%%faas\n1")
    shown = kernel.ok("%faas")
    plain = shown[0][1]["data"]["text/plain"]
    assert "session 'default'" in plain
    assert "notebook" in plain
    assert "memory" in plain
    assert "<table" in shown[0][1]["data"]["text/html"]


def test_names_complete_from_the_gateway(kernel: Kernel):
    name = f"complete-{os.getpid()}"
    kernel.ok(f"%%faas --name {name} --env python\n1")
    found = kernel.complete(f"%%faas --name {name[:9]}", 23)["matches"]
    assert name in found
    assert "notebook" in kernel.value(
        "from faas_magics.probe import ask; [e['name'] for e in ask('/api/v1/environments')]"
    )
    found = kernel.complete("%%faas --env python-", 20)["matches"]
    assert found == ["python-ai"]


def test_a_shell_session_keeps_its_state_and_reports_an_exit_status(another_kernel: Kernel):
    assert text(another_kernel.ok("%%faas --env alpine-fast\nx=5; echo hello; echo world >&2; pwd")) == (
        "hello\n/workspace\n"
    )
    assert text(another_kernel.ok("%%faas\necho $x")) == "5\n"
    shown = another_kernel.run("%%faas\necho before\n(exit 3)")
    assert [k for k in kinds(shown) if k != "stream"] == ["error", "reply"]
    assert shown[-2][1]["ename"] == "ExitStatus"
    assert "3" in shown[-2][1]["evalue"]


def test_a_named_session_is_found_from_another_notebook(kernel: Kernel, another_kernel: Kernel):
    name = f"shared-{os.getpid()}"
    kernel.ok(f"%%faas --name {name} --env python\nx = 'from the first'")
    shown = another_kernel.ok(f"%%faas --name {name}\nx")
    assert f"joined session '{name}'" in text(shown, "stderr")
    assert shown[-2][1]["data"]["text/plain"] == "'from the first'"
    kernel.ok(f"%%faas --name {name} --fresh\n1")


@pytest.mark.parametrize(
    ("code", "ename"),
    [
        ("import os; os._exit(0)", "SandboxDied"),
        ("b = bytearray(2 << 30); b[::4096] = b'x' * len(b[::4096])", "OutOfMemory"),
    ],
)
def test_a_session_that_ends_says_why_and_the_next_cell_says_that_it_is_new(
    another_kernel: Kernel, code: str, ename: str
):
    another_kernel.ok("%%faas --env python --memory 256\nx = 1")
    shown = another_kernel.run(f"%%faas\n{code}")
    assert shown[-2][1]["ename"] == ename, shown
    assert len(shown[-2][1]["traceback"]) == 1
    shown = another_kernel.ok("%%faas\n'x' in globals()")
    kept = shown[-2][1]["data"]["text/plain"] == "True"
    # without a cgroup the memory limit is an ordinary MemoryError, which the session outlives
    assert kept == ("new session 'default' (python)" not in text(shown, "stderr"))
    assert not kept or ename == "OutOfMemory"


def test_leaving_the_notebook_ends_its_private_session(
    gateway_env: Mapping[str, str], tmp_path: Path, client: SyncFaaSClient
):
    for kernel in start(gateway_env, tmp_path):
        kernel.ok("%%faas --env python\n1")
        name = kernel.manager.connection_file.rpartition("kernel-")[2].removesuffix(".json")
        (before,) = client.executions.list(label=f"notebook:{name}")
        assert before.status in ("idle", "busy")
    after = client.executions.get(before.id)
    assert after.status == "terminated"


def test_a_gateway_that_is_killed_while_a_cell_runs_is_one_message_and_the_notebook_goes_on(
    own_gateway: LiveGateway, tmp_path: Path
):
    for kernel in start(own_gateway.env, tmp_path):
        kernel.ok("%%faas --env python\nx = 1")
        pid = own_gateway.gateway().pid
        kernel.ok(f"import os, signal, threading; threading.Timer(1, os.kill, ({pid}, signal.SIGKILL)).start()")
        shown = kernel.run("%%faas\nimport time\nprint('started')\ntime.sleep(30)")
        assert text(shown) == "started\n"
        assert kinds(shown)[-2:] == ["error", "reply"]
        assert kinds(shown).count("error") == 1
        assert len(shown[-2][1]["traceback"]) == 1
        shown = kernel.ok("%%faas\n1")
        assert "new session 'default'" in text(shown, "stderr")
        assert shown[-2][1]["data"]["text/plain"] == "1"


def test_a_gateway_that_is_killed_between_cells_is_found_by_the_next_cell_once(
    own_gateway: LiveGateway, tmp_path: Path
):
    for kernel in start(own_gateway.env, tmp_path):
        kernel.ok("%%faas --env python\nx = 1")
        gateway = own_gateway.gateway()
        gateway.kill()
        gateway.wait(10)
        shown = kernel.run("%%faas\nx")
        assert shown[-2][1]["ename"] == "SessionError", shown
        assert "variables and files are gone" in shown[-2][1]["evalue"].lower()
        shown = kernel.ok("%%faas\n1")
        assert "new session 'default'" in text(shown, "stderr")
