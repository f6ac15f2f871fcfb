"""One cell, from its first line to what it shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faas.errors import ConnectionLostError
from magics_fake import Shell


@pytest.fixture
def shell() -> Iterator[Shell]:
    with Shell() as shell:
        yield shell


def test_output_is_printed_and_the_value_becomes_out(shell: Shell, capsys: pytest.CaptureFixture[str]):
    value = shell.run("%%faas\nprint('hello')\n6 * 7")
    assert repr(value) == "42"
    assert shell.ip.user_ns["_"] is value
    assert "hello\nOut[1]: 42" in capsys.readouterr().out


@pytest.mark.parametrize("code", ["None", "x = 1", "pass"])
def test_a_cell_without_a_value_shows_nothing(shell: Shell, code: str, capsys: pytest.CaptureFixture[str]):
    assert shell.run(f"%%faas\n{code}") is None
    assert capsys.readouterr().out == ""


def test_a_value_keeps_all_its_forms_and_metadata(shell: Shell):
    value = shell.run(
        "%%faas\nemit('execute_result', data={'text/plain': 'fig', 'image/png': 'aGk='}, "
        "metadata={'image/png': {'width': 3}})"
    )
    data, metadata = shell.ip.display_formatter.format(value)
    assert data == {"text/plain": "fig", "image/png": "aGk="}
    assert metadata == {"image/png": {"width": 3}}


def test_output_after_the_value_comes_after_it(shell: Shell, capsys: pytest.CaptureFixture[str]):
    shell.run("%%faas\n5\nprint('later')")
    out = capsys.readouterr().out
    assert out.index("5") < out.index("later")


def test_display_and_its_update_keep_data_and_display_id(shell: Shell):
    shell.run("%%faas\nemit('display_data', data={'image/png': 'aGk='}, metadata={}, transient={'display_id': 'q'})")
    shell.run("%%faas\nemit('update_display_data', data={'text/html': '<b>'}, transient={'display_id': 'q'})")
    first, second = shell.published
    assert (first["data"], first["update"]) == ({"image/png": "aGk="}, False)
    assert (second["data"], second["update"]) == ({"text/html": "<b>"}, True)
    assert first["transient"] == second["transient"] == {"display_id": "q"}


def test_malformed_display_data_from_a_sandbox_is_harmless(shell: Shell):
    shell.run("%%faas\nemit('display_data', data=[1], metadata='x', transient=3)\nemit('comm_open', comm_id='1')")
    assert shell.published[0]["data"] == {}


def test_a_widget_without_its_model_shows_as_text(shell: Shell):
    view = "application/vnd.jupyter.widget-view+json"
    shell.run(f"%%faas\nemit('display_data', data={{'text/plain': 'Bar', '{view}': {{}}}})")
    assert shell.published[0]["data"] == {"text/plain": "Bar"}


def test_a_remote_error_has_its_name_and_shows_its_traceback_once(shell: Shell, capsys: pytest.CaptureFixture[str]):
    error = shell.fail("%%faas\n1 / 0")
    assert type(error).__name__ == "ZeroDivisionError"
    assert str(error) == "division by zero"
    out, err = capsys.readouterr()
    assert out == "remote trace\nZeroDivisionError: division by zero\n"
    assert err == ""
    assert error.__context__ is None


def test_an_error_name_from_a_sandbox_that_is_no_name_is_not_used(shell: Shell):
    from faas.types import CodeError

    from faas_magics.errors import cell_failure

    error = cell_failure(CodeError(code="exception", ename="bad\0name", evalue="x", hint=""))
    assert type(error).__name__ == "RemoteError"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("oom", "OutOfMemory"),
        ("died", "SandboxDied"),
        ("timeout", "CellTimeout"),
        ("disk_full", "DiskFull"),
        ("output_truncated", "OutputTruncated"),
        ("cpu_time", "CPUTimeExceeded"),
        ("pids", "TooManyProcesses"),
        ("killed", "SandboxKilled"),
        ("lost", "SessionLost"),
        ("exit_code", "ExitStatus"),
    ],
)
def test_a_cause_without_a_traceback_is_one_line(
    shell: Shell, code: str, name: str, capsys: pytest.CaptureFixture[str]
):
    error = shell.fail(f"%%faas\nfail({code!r}, 'it went wrong', 'use the API')")
    assert type(error).__name__ == name
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "it went wrong" in out
    assert "use the API" not in out
    assert "Traceback" not in out


def test_a_cause_that_is_not_known_here_keeps_the_gateways_hint(shell: Shell):
    error = shell.fail("%%faas\nfail('meteor_strike', '', 'look up')")
    assert type(error).__name__ == "MeteorStrike"
    assert "Look up" in str(error)


@pytest.mark.parametrize(
    ("code", "hint"), [("oom", "--memory MB"), ("timeout", "--timeout S"), ("output_truncated", "write to a file")]
)
def test_what_to_do_about_a_cause_is_said_in_the_words_of_a_notebook(shell: Shell, code: str, hint: str):
    assert hint in str(shell.fail(f"%%faas\nfail({code!r})"))


def test_a_timeout_names_the_option_and_says_that_the_session_goes_on(shell: Shell):
    error = shell.fail("%%faas --timeout 2\nfail('timeout')")
    assert "--timeout 2 s" in str(error)
    assert "goes on" in str(error)
    assert shell.session.timeouts == [2.0]


def test_the_cell_number_and_the_magic_line_go_with_the_code(shell: Shell):
    shell.run("a = 1")
    shell.run("\n\n%%faas  --env python --timeout 3\n1")
    origin = shell.session.origins[0]
    assert (origin.execution_count, origin.magic_line) == (2, "%%faas  --env python --timeout 3")


def test_code_is_sent_as_it_is(shell: Shell):
    sent: list[str] = []
    shell.run("%%faas\n1")
    run = shell.session.run
    shell.session.run = lambda code, stream: sent.append(code) or run("1", stream)  # type: ignore[method-assign]
    shell.run("%%faas\n\n%%time\nx = 1\n\n")
    assert sent == ["\n%%time\nx = 1\n\n"]


def test_an_empty_cell_says_what_to_do(shell: Shell):
    assert "write the code to run below" in str(shell.fail("%%faas --env python\n\n  \n"))
    assert shell.client.log == []


def test_a_bad_option_runs_nothing(shell: Shell, capsys: pytest.CaptureFixture[str]):
    error = shell.fail("%%faas --evn python\n1")
    assert "did you mean --env?" in str(error)
    assert capsys.readouterr().out.count("\n") == 1
    assert shell.client.log == []


def test_options_may_come_from_variables(shell: Shell):
    shell.run("seconds = 7")
    shell.run("%%faas --timeout {seconds}\n1")
    assert shell.session.timeouts == [7.0]


def test_variables_travel_in_and_out(shell: Shell):
    shell.run("a, b = [1], {'k': 2}")
    shell.run("%%faas --in a,b --out c,d\nc = a + [b['k']]\nd = 'x'")
    assert (shell.ip.user_ns["c"], shell.ip.user_ns["d"]) == ([1, 2], "x")


def test_an_input_that_does_not_exist_is_an_error_before_anything_runs(shell: Shell):
    assert "no variable 'missing'" in str(shell.fail("%%faas --in missing\n1"))
    assert shell.client.log == []


def test_an_input_that_cannot_travel_names_the_variable_and_its_type(shell: Shell):
    shell.run("import io\nfile = io.StringIO()")
    error = shell.fail("%%faas --in file\nprint('ran')")
    assert type(error).__name__ == "TransferError"
    assert "--in file (_io.StringIO)" in str(error)
    assert shell.session.origins == []


def test_outputs_that_are_missing_or_cannot_travel_name_the_variable(shell: Shell):
    assert "--out nope" in str(shell.fail("%%faas --out nope\n1"))
    assert "--out f cannot be copied" in str(shell.fail("%%faas --out f\ndef f(): pass"))


def test_the_value_still_shows_when_an_output_cannot_travel(shell: Shell, capsys: pytest.CaptureFixture[str]):
    shell.fail("%%faas --out nope\n'the value'")
    assert "'the value'" in capsys.readouterr().out


def test_nothing_is_pulled_after_an_error(shell: Shell):
    shell.run("c = 'before'")
    shell.fail("%%faas --out c\nc = 1\n1/0")
    assert shell.ip.user_ns["c"] == "before"


def test_a_lost_connection_is_one_message_and_the_session_goes_on_if_it_lives(shell: Shell):
    shell.run("%%faas\nx = 1")
    shell.client.down = ConnectionLostError("the connection to the gateway broke")
    error = shell.fail("%%faas\nx")
    assert type(error).__name__ == "SessionError"
    assert "the connection to the gateway broke" in str(error)
    shell.client.down = None
    assert repr(shell.run("%%faas\nx")) == "1"
    assert shell.client.log == ["create notebook"]


def test_the_help_lists_the_options(shell: Shell):
    text = shell.ip.find_cell_magic("faas").__doc__
    assert all(flag in text for flag in ("--env NAME", "--timeout S", "--fresh"))


def test_the_line_magic_without_a_session_says_how_to_start_one(shell: Shell, capsys: pytest.CaptureFixture[str]):
    shell.run("%faas")
    assert "%%faas --env python-ai" in capsys.readouterr().out
    assert shell.client.log == []


def test_the_line_magic_shows_limits_and_how_they_hold(shell: Shell):
    shell.run("%%faas --env python\n1")
    shell.run("%faas")
    data = shell.published[-1]["data"]
    for text in (data["text/plain"], data["text/html"]):
        assert "session" in text
        assert "python on host" in text
        assert "memory 1024 MB (cgroup v2)" in text
        assert "⚠ CPU cores 2 (not enforced here)" in text
        assert "host stands in for python:3.11-slim" in text
        assert "⚠ cpus: no cgroup controller" in text


def test_the_line_magic_escapes_what_comes_from_outside(shell: Shell):
    shell.run("%%faas\n1")
    shell.session.info = shell.session.info.model_copy(update={"notes": ["<script>"]})
    shell.run("%faas")
    assert "<script>" not in shell.published[-1]["data"]["text/html"]


def test_the_line_magic_with_an_argument_says_where_options_go(shell: Shell):
    assert "%%faas --env x" in str(shell.fail("%faas --env x"))
