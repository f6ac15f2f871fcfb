"""`faas_magics.session()`: the notebook's own code gets hold of the session that its cells run in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from magics_fake import FakeClient, Shell

from faas_magics.errors import SessionError

SESSION = "from faas_magics import session\n"


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    with Shell() as shell:
        monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: shell.ip)
        yield shell


def test_it_is_the_session_of_the_cells_without_a_name(shell: Shell):
    shell.run("%%faas --env python\nx = 1")
    shell.run("%%faas --env python --name other\nx = 2")
    assert shell.run(SESSION + "session().variables.pull('x')") == 1
    assert shell.run("session() is session()") is True
    assert shell.run("session('other').variables.pull('x')") == 2


def test_a_session_of_another_notebook_is_found_by_its_name(shell: Shell):
    shell.client.executions.create("python", name="elsewhere")
    assert shell.run(SESSION + "session('elsewhere').name") == "elsewhere"


def test_after_fresh_it_is_the_new_one(shell: Shell):
    shell.run("%%faas --env python\nx = 1")
    before = shell.run(SESSION + "session().id")
    shell.run("%%faas --fresh\nx = 1")
    assert shell.run("session().id") != before


@pytest.mark.parametrize(("name", "cell"), [("default", "a %%faas cell"), ("other", "a %%faas --name other cell")])
def test_where_none_is_open_it_says_which_cell_opens_one(shell: Shell, name: str, cell: str):
    error = shell.fail(SESSION + f"session({name!r})")
    assert isinstance(error, SessionError)
    assert f"no session '{name}' is open" in str(error)
    assert cell in str(error)


def test_one_that_has_ended_is_not_handed_out(shell: Shell):
    shell.run("%%faas --env python\nx = 1")
    shell.session.end("oom")
    error = shell.fail(SESSION + "session()")
    assert isinstance(error, SessionError)
    assert "ran out of memory" in str(error)
    assert repr(shell.fail("%%faas\nx")) != repr(error)
    shell.run("%%faas\ny = 1")
    assert shell.run("session().variables.pull('y')") == 1


def test_a_gateway_that_is_down_is_a_session_error(shell: Shell):
    from faas.errors import ConnectError

    shell.run("%%faas --env python\nx = 1")
    client: FakeClient = shell.client
    client.down = ConnectError("nobody listens")
    error = shell.fail(SESSION + "session()")
    assert isinstance(error, SessionError)
    assert "nobody listens" in str(error)


def test_without_the_magics_it_says_how_to_load_them(monkeypatch: pytest.MonkeyPatch):
    from faas_magics import session

    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: None)
    with pytest.raises(SessionError, match="load_ext faas_magics"):
        session()
