"""Which session a cell runs in, and what happens when it has ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from magics_fake import FakeClient, Shell, install

from faas_magics.sessions import kernel_id


@pytest.fixture
def shell() -> Iterator[Shell]:
    with Shell() as shell:
        yield shell


def test_state_stays_from_cell_to_cell(shell: Shell):
    shell.run("%%faas --env python\nx = 1")
    assert repr(shell.run("%%faas\nx + 1")) == "2"
    assert shell.client.log == ["create python"]


def test_the_default_environment_is_the_notebooks_own(shell: Shell):
    shell.run("%%faas\n1")
    assert shell.session.environment == "notebook"


def test_the_private_session_has_a_name_and_labels_of_its_own(shell: Shell):
    shell.run("%%faas\n1")
    with Shell() as other:
        install(other.ip, shell.client)
        other.run("%%faas\n1")
    first, second = shell.client.executions.all
    assert first.name != second.name
    assert first.info.labels["notebook"] == kernel_id(shell.ip)
    assert first.info.labels["session"] == "default"


def test_a_named_session_is_found_again_from_another_notebook(shell: Shell, capsys: pytest.CaptureFixture[str]):
    shell.run("%%faas --name shared --env python\nx = 1")
    with Shell() as other:
        install(other.ip, shell.client)
        assert repr(other.run("%%faas --name shared\nx")) == "1"
        assert "joined session 'shared' (python)" in capsys.readouterr().err
        error = other.fail("%%faas --name shared --env python-ai\nx")
    assert "--env python," in str(error)
    assert "--env python-ai" in str(error)


def test_a_session_that_is_named_by_its_id_is_joined_without_a_remark(shell: Shell, capsys: pytest.CaptureFixture[str]):
    branch = shell.client.executions.create("python", name="branch")
    branch.names["x"] = 5
    assert repr(shell.run(f"%%faas --name {branch.id}\nx")) == "5"
    assert capsys.readouterr().err == ""


def test_no_new_session_takes_the_id_of_one_that_has_ended(shell: Shell):
    branch = shell.client.executions.create("python", name="branch")
    branch.end("oom")
    error = shell.fail(f"%%faas --name {branch.id}\n1")
    assert f"session '{branch.id}' (python) ran out of memory" in str(error)
    assert len(shell.client.executions.all) == 1


def test_a_name_that_another_notebook_takes_meanwhile_is_joined(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from faas.errors import NameTakenError

    def create(*args: object, **more: object) -> None:
        monkeypatch.undo()
        with Shell() as other:
            install(other.ip, shell.client)
            other.run("%%faas --name both --env python\nx = 1")
        raise NameTakenError("taken", code="name_taken", status=409)

    monkeypatch.setattr(shell.client.executions, "create", create)
    assert repr(shell.run("%%faas --name both\nx")) == "1"
    assert "joined session 'both'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "then", "parts"),
    [
        ("--env python", "--env python-ai", ["--env python,", "--env python-ai"]),
        ("--memory 512", "--memory 2048", ["--memory 512 MB", "--memory 2048 MB"]),
        ("--cpus 1", "--cpus 0.5", ["--cpus 1,", "--cpus 0.5."]),
    ],
)
def test_an_option_that_differs_from_the_open_session_names_both_and_the_way_out(
    shell: Shell, first: str, then: str, parts: list[str]
):
    shell.run(f"%%faas {first}\nx = 1")
    error = str(shell.fail(f"%%faas {then}\nx"))
    assert all(part in error for part in [*parts, "--fresh", "--name"]), error
    assert repr(shell.run(f"%%faas {first}\nx")) == "1"


def test_fresh_replaces_the_session_and_keeps_its_settings(shell: Shell):
    shell.run("%%faas --env python --memory 512\nx = 1")
    old = shell.session.name
    assert type(shell.fail("%%faas --fresh\nx")).__name__ == "NameError"
    assert shell.client.log == ["create python", "create python", f"close {old}"]
    assert shell.session.info.resources.memory_mb == 512


@pytest.mark.parametrize("name", ["", " --name kept"])
def test_fresh_with_a_misspelt_environment_keeps_the_session(shell: Shell, name: str):
    shell.run(f"%%faas --env python{name}\nx = 1")
    assert "no environment is called 'pythn'" in str(shell.fail(f"%%faas --env pythn{name} --fresh\nx"))
    shell.run(f"%%faas{name}\nassert x == 1")


def test_a_misspelt_environment_is_told_so_also_with_a_session_open(shell: Shell):
    shell.run("%%faas --env python\nx = 1")
    assert "no environment is called 'pythn'" in str(shell.fail("%%faas --env pythn\nx"))


def test_fresh_takes_other_settings(shell: Shell, capsys: pytest.CaptureFixture[str]):
    shell.run("%%faas --env python\n1")
    shell.run("%%faas --fresh --env python-ai\n1")
    assert shell.session.environment == "python-ai"
    assert capsys.readouterr().err == ""


def test_fresh_replaces_a_named_session_of_another_notebook(shell: Shell):
    shell.run("%%faas --name shared --env python\n1")
    with Shell() as other:
        install(other.ip, shell.client)
        other.run("%%faas --name shared --fresh\n1")
    assert shell.client.log == ["create python", "close shared", "create python"]


def test_a_session_that_ends_with_its_cell_says_why_and_the_next_cell_says_that_it_is_new(
    shell: Shell, capsys: pytest.CaptureFixture[str]
):
    shell.run("%%faas --env python\nx = 1")
    error = shell.fail("%%faas\nfail('oom', 'the code used more than 1024 MB', ends=True)")
    assert "more than 1024 MB" in str(error)
    assert "variables and files are gone" in str(error)
    capsys.readouterr()
    shell.run("%%faas\n1")
    err = capsys.readouterr().err
    assert err == (
        "faas: new session 'default' (python): the last one ran out of memory, its variables and files are gone\n"
    )
    shell.run("%%faas\n1")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("code", "why"), [("idle", "idle"), ("died", "died"), ("lost", "gateway"), ("odd", "odd")])
def test_the_cell_that_finds_its_session_ended_fails_once_and_says_why(
    shell: Shell, code: str, why: str, capsys: pytest.CaptureFixture[str]
):
    shell.run("%%faas\nx = 1")
    shell.session.end(code)
    error = shell.fail("%%faas\nx")
    assert type(error).__name__ == "SessionError"
    assert why in str(error)
    assert "run the cell again" in str(error).lower()
    shell.run("%%faas\n1")
    assert "new session 'default'" in capsys.readouterr().err


def test_a_session_that_the_gateway_forgot_counts_as_lost(shell: Shell):
    from faas.errors import UnknownExecutionError

    shell.run("%%faas\n1")
    shell.client.down = UnknownExecutionError("no such execution", code="unknown_execution", status=404)
    assert "lost with the gateway" in str(shell.fail("%%faas\n1"))
    shell.client.down = None
    shell.run("%%faas\n1")


def test_an_environment_that_does_not_exist_is_one_message_and_opens_nothing(shell: Shell):
    error = shell.fail("%%faas --env pythn\n1")
    assert "pythn" in str(error)
    shell.run("%%faas --env python\n1")
    assert shell.client.log == ["create python"]


def test_leaving_ends_the_private_session_and_keeps_the_named_one(shell: Shell):
    shell.run("%%faas\n1")
    shell.run("%%faas --name kept\n1")
    magics = shell.ip.magics_manager.registry["FaaSMagics"]
    assert magics.sessions.close() == ["default"]
    assert [execution.status for execution in shell.client.executions.all] == ["terminated", "idle"]
    assert shell.client.closed
    assert magics.sessions.close() == []


def test_sessions_that_a_killed_life_of_this_kernel_left_are_ended(shell: Shell):
    shell.run("%%faas\n1")
    left = shell.session
    shell.run("%%faas --name kept\n1")
    with Shell() as reborn:
        install(reborn.ip, shell.client)
        reborn.run("%%faas\n1")
    assert left.status == "terminated"
    assert shell.client.executions.get("kept").status == "idle"


def test_loading_and_unloading_leave_the_shell_as_it_was(shell: Shell):
    import faas_magics

    before = list(shell.ip.Completer.custom_matchers)
    shell.ip.Completer.custom_matchers.clear()
    faas_magics.load_ipython_extension(shell.ip)
    assert shell.ip.find_cell_magic("faas") is not None
    assert len(shell.ip.Completer.custom_matchers) == 1
    faas_magics.unload_ipython_extension(shell.ip)
    assert shell.ip.find_cell_magic("faas") is None
    assert shell.ip.Completer.custom_matchers == []
    shell.ip.Completer.custom_matchers.extend(before)


def test_a_client_is_made_at_the_first_cell_only():
    made: list[FakeClient] = []
    with Shell() as shell:
        magics = shell.ip.magics_manager.registry["FaaSMagics"]
        magics.sessions._connect = lambda: made.append(shell.client) or shell.client
        shell.run("%faas")
        assert made == []
        shell.run("%%faas\n1")
        shell.run("%%faas\n1")
        assert len(made) == 1
