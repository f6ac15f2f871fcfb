"""Variables of a Python session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from contract import Create, execute, pieces, value
from faas import values

from faas_gateway.backends.base import Image, NotTransferable, Sandbox, UnknownVariable

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("conformance-variables")]


@pytest.fixture
async def sandbox(create: Create, python: Image) -> Sandbox:
    return await create(python)


async def pull(sandbox: Sandbox, name: str) -> Any:
    return values.decode(b"".join([chunk async for chunk in sandbox.pull_variable(name)]))


async def test_a_fresh_session_has_none(sandbox: Sandbox) -> None:
    assert await sandbox.list_variables() == []


async def test_the_users_variables_are_listed_and_nothing_else(sandbox: Sandbox) -> None:
    await value(sandbox, "import os\nx = 3\n_hidden = 1\ntext = 'abc'\ndef f(): pass\nclass C: pass\nitems = [1, 2]")
    listed = {v["name"]: v for v in await sandbox.list_variables()}
    assert list(listed) == ["C", "f", "items", "text", "x"]
    assert (listed["x"]["type"], listed["x"]["preview"]) == ("int", "3")
    assert (listed["items"]["shape"], listed["text"]["shape"]) == ([2], [3])
    assert listed["x"]["size_bytes"] > 0


@pytest.mark.parametrize(
    "given", [None, 1.5, 10**50, "ü", b"\0\xff", [1, [2]], {"a": (1, 2)}, {3, 4}, 2 + 1j, range(3)]
)
async def test_a_value_comes_back_as_it_went(sandbox: Sandbox, given: Any) -> None:
    await sandbox.push_variable("x", pieces(*values.encode(given)))
    assert await value(sandbox, "print(type(x).__name__)") == type(given).__name__
    assert await pull(sandbox, "x") == given


async def test_a_large_value_travels_in_chunks(sandbox: Sandbox) -> None:
    await value(sandbox, "x = bytes(range(256)) * (40 << 12)")
    count = 0
    size = 0
    async for chunk in sandbox.pull_variable("x"):
        count += 1
        size += len(chunk)
    assert size > 40 << 20
    assert count > 1
    await sandbox.push_variable("y", pieces(*values.encode(bytes(20 << 20))))
    assert await value(sandbox, "print(len(y))") == str(20 << 20)


async def test_what_is_not_there_or_cannot_travel_is_named(sandbox: Sandbox) -> None:
    await value(sandbox, "f = open('/dev/null'); g = (n for n in range(3))")
    with pytest.raises(UnknownVariable, match="nothing"):
        await pull(sandbox, "nothing")
    for name in ("f", "g"):
        with pytest.raises(NotTransferable, match=name):
            await pull(sandbox, name)
    with pytest.raises(NotTransferable):
        await sandbox.push_variable("x", pieces(b"\x80\x04no encoded value"))
    assert await value(sandbox, "print('x' in globals())") == "False"


async def test_pulling_may_be_given_up(sandbox: Sandbox) -> None:
    await value(sandbox, "x = bytes(30 << 20)\ny = 1")
    chunks = sandbox.pull_variable("x")
    await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    assert await pull(sandbox, "y") == 1
    assert await value(sandbox, "print(y)") == "1"


async def test_a_push_that_is_given_up_changes_nothing(sandbox: Sandbox) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half of "
        raise ConnectionError("gone")

    await value(sandbox, "x = 1")
    with pytest.raises(ConnectionError):
        await sandbox.push_variable("x", broken())
    assert await value(sandbox, "print(x)") == "1"


async def test_a_shell_session_has_no_variables(create: Create, shell: Image) -> None:
    sandbox = await create(shell)
    for call in (sandbox.list_variables(), pull(sandbox, "x"), sandbox.push_variable("x", pieces(b""))):
        with pytest.raises(NotTransferable, match="shell"):
            await call


async def test_looking_at_variables_prints_nothing(sandbox: Sandbox) -> None:
    await value(sandbox, "class Loud:\n  def __repr__(self): print('seen'); return 'loud'\nx = [Loud()]")
    await sandbox.list_variables()
    _, recorder = await execute(sandbox, "pass")
    assert recorder.text() in ("", "seen\n")  # what it prints itself is not lost
