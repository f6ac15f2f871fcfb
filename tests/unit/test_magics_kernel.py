"""The magics in a real ipykernel with a gateway of a few lines in it: messages, Out, interrupts, progress."""

from __future__ import annotations

from collections.abc import Iterator

import notebook_kernel
import pytest
from notebook_kernel import Kernel, kinds


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("kernel")
    with notebook_kernel.kernel(folder, {"PYTHONPATH": str(notebook_kernel.ROOT / "tests")}) as kernel:
        kernel.ok("from magics_fake import install; gateway = install(get_ipython())")
        yield kernel


def test_output_streams_while_the_code_runs_and_the_value_is_out(kernel: Kernel):
    shown = kernel.run("%%faas\nprint(1)\nwait(0.3, False)\nprint(2)\n40 + 2")
    assert kinds(shown) == ["stream", "stream", "execute_result", "reply"]
    assert [content.get("text") for _, content in shown[:2]] == ["1\n", "2\n"]
    result = shown[2][1]
    assert result["data"] == {"text/plain": "42"}
    assert result["execution_count"] == shown[-1][1]["execution_count"]
    assert kernel.run("_")[0][1]["data"] == {"text/plain": "42"}


def test_a_figure_after_the_value_comes_after_it_with_its_bytes_untouched(kernel: Kernel):
    shown = kernel.run("%%faas\n5\nemit('display_data', data={'image/png': 'aGk=', 'text/plain': 'f'}, metadata={})")
    assert kinds(shown) == ["execute_result", "display_data", "reply"]
    assert shown[1][1]["data"] == {"image/png": "aGk=", "text/plain": "f"}


def test_the_value_of_a_figure_is_not_encoded_twice(kernel: Kernel):
    shown = kernel.run("%%faas\nemit('execute_result', data={'image/png': 'aGk=', 'text/plain': 'f'}, metadata={})")
    assert shown[0][1]["data"] == {"image/png": "aGk=", "text/plain": "f"}


def test_a_display_is_updated_from_a_later_cell(kernel: Kernel):
    kernel.run("%%faas\nemit('display_data', data={'text/plain': 'a'}, metadata={}, transient={'display_id': 'd'})")
    shown = kernel.run(
        "%%faas\nemit('update_display_data', data={'text/plain': 'b'}, transient={'display_id': 'd'})\n"
        "emit('clear_output', wait=True)"
    )
    assert kinds(shown) == ["update_display_data", "clear_output", "reply"]
    assert shown[0][1]["transient"] == {"display_id": "d"}
    assert shown[1][1] == {"wait": True}


def test_an_error_is_one_error_message_and_stops_run_all(kernel: Kernel):
    shown = kernel.run("%%faas\n1 / 0")
    assert kinds(shown) == ["error", "reply"]
    assert shown[0][1]["ename"] == "ZeroDivisionError"
    assert shown[0][1]["traceback"] == ["remote trace", "ZeroDivisionError: division by zero"]
    assert shown[1][1]["status"] == "error"


def test_a_remote_magic_below_a_local_one_works(kernel: Kernel):
    shown = kernel.run("%%capture captured\n%%faas\nprint('kept')\n7")
    assert kinds(shown) == ["reply"]
    assert kernel.run("captured.stdout")[0][1]["data"]["text/plain"] == "'kept\\n'"
    assert kernel.run("captured.outputs[0]")[0][1]["data"] == {"text/plain": "7"}


def test_the_stop_button_interrupts_the_code_and_keeps_the_session(kernel: Kernel):
    kernel.run("%%faas\nkept = 5")
    shown = kernel.run("%%faas\nprint('started')\nwait(20, False)\nprint('never')", 0.3)
    assert kinds(shown) == ["stream", "error", "reply"]
    assert shown[1][1]["ename"] == "KeyboardInterrupt"
    assert shown[1][1]["traceback"] == ["remote trace", "KeyboardInterrupt: "]
    assert kernel.run("%%faas\nkept")[0][1]["data"] == {"text/plain": "5"}


def test_a_second_press_stops_waiting_and_says_how_to_go_on(kernel: Kernel):
    shown = kernel.run("%%faas\nwait(20, True)", 0.3, 0.8)
    assert kinds(shown) == ["error", "reply"]
    assert shown[0][1]["ename"] == "Interrupted"
    assert "%%faas --fresh" in shown[0][1]["evalue"]
    shown = kernel.run("%%faas\n1")
    assert "an earlier cell may still run" in shown[0][1]["text"]
    assert kinds(kernel.run("%%faas\n1")) == ["execute_result", "reply"]


def test_progress_shows_when_a_session_takes_long_and_settles(kernel: Kernel):
    kernel.run("gateway.opening_s = 1")
    shown = kernel.run("%%faas --fresh --env python-ai\n1")
    kernel.run("gateway.opening_s = 0")
    assert kinds(shown)[0] == "display_data"
    assert set(kinds(shown)[1:-2]) == {"update_display_data"}
    assert len({content["transient"]["display_id"] for _, content in shown[:-2]}) == 1
    assert "installing numpy" in shown[0][1]["data"]["text/plain"]
    assert "width: " in shown[0][1]["data"]["text/html"]
    assert shown[-3][1]["data"]["text/plain"].startswith("python-ai session ready in 1.")


def test_no_progress_shows_when_a_session_is_there_at_once(kernel: Kernel):
    assert kinds(kernel.run("%%faas --fresh\n1")) == ["execute_result", "reply"]


def test_the_stop_button_while_a_session_is_opened_cancels_it(kernel: Kernel):
    kernel.run("gateway.opening_s = 20; gateway.log.clear()")
    shown = kernel.run("%%faas --fresh\nprint('never')", 0.8)
    kernel.run("gateway.opening_s = 0")
    assert shown[-2][1]["ename"] == "Interrupted"
    assert "the cell was not run" in shown[-2][1]["evalue"]
    assert "stopped after" in shown[-3][1]["data"]["text/plain"]
    assert "cancel" in kernel.run("gateway.log")[0][1]["data"]["text/plain"]
    assert kinds(kernel.run("%%faas\n1"))[-2:] == ["execute_result", "reply"]


def test_completion_in_a_kernel_replaces_the_whole_name(kernel: Kernel):
    content = kernel.complete("%%faas --env python-a\nx", 21)
    assert content["matches"] == ["python-ai"]
    assert (content["cursor_start"], content["cursor_end"]) == (13, 21)


def test_the_private_session_carries_the_id_of_its_kernel(kernel: Kernel):
    shown = kernel.run("gateway.executions.all[-1].info.labels['notebook']")
    assert shown[0][1]["data"]["text/plain"] == "'test'"
