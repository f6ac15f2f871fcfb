"""Snapshots through the SDK against the real gateway: what a user does with them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from faas import Execution, FaaSClient, SyncExecution, SyncFaaSClient, errors

pytestmark = pytest.mark.anyio


@pytest.fixture
def session(client: SyncFaaSClient) -> Iterator[SyncExecution]:
    with client.executions.create("python", checkpoint="every-request") as session:
        yield session


@pytest.fixture
async def asession(aclient: FaaSClient) -> AsyncIterator[Execution]:
    async with await aclient.executions.create("python") as session:
        yield session


@pytest.fixture
def name() -> str:
    """One that no other test of the shared gateway has."""
    return f"sdk-{uuid.uuid4().hex[:12]}"


async def test_documented_program_works_as_it_stands(aclient: FaaSClient, name: str):
    base = await aclient.snapshots.create_from_script("""
        mkdir tests
        for i in 0 1 2 3; do echo "module $i" > tests/test_module_$i.py; done
    """, name=name, network="none")  # fmt: skip
    branches = await aclient.snapshots.restore(base.id, branch_count=4)
    results = await asyncio.gather(*[
        branch.execute(f"cat tests/test_module_{i}.py") for i, branch in enumerate(branches)])  # fmt: skip
    assert [result.stdout for result in results] == [f"module {i}\n" for i in range(4)]
    assert [branch.branch_index for branch in branches] == [0, 1, 2, 3]
    assert {branch.snapshot_id for branch in branches} == {base.id}
    await asyncio.gather(*(branch.close() for branch in branches))
    await base.delete()
    with pytest.raises((errors.UnknownSnapshotError, errors.SnapshotGoneError)):
        await aclient.snapshots.restore(base)


async def test_script_that_fails_says_how(aclient: FaaSClient):
    with pytest.raises(errors.ScriptFailedError, match="no luck"):
        await aclient.snapshots.create_from_script("echo no luck; false", network="none")


async def test_branches_have_their_own_variables_and_are_apart(aclient: FaaSClient, asession: Execution):
    await asession.execute("data = list(range(1000)); open('f', 'w').write('source')")
    base = await asession.snapshot()
    assert base.receipt.stopped_s is not None
    branches = await base.branch(variables=[{"lr": 0.1, "shape": (2, 3)}, {"lr": 0.2, "shape": (4,)}])
    code = "data.append(lr); open('f', 'w').write(str(shape)); print(len(data), data[-1], open('f').read())"
    outputs = [(await branch.execute(code)).stdout for branch in branches]
    assert outputs == ["1001 0.1 (2, 3)\n", "1001 0.2 (4,)\n"]
    assert (await asession.execute("print(len(data), open('f').read())")).stdout == "1000 source\n"
    assert [branch.restored_from for branch in branches] == ["live", "live"]
    assert all(branch.receipt is not None for branch in branches)
    await asyncio.gather(*(branch.close() for branch in branches))
    await base.delete()


async def test_branch_that_cannot_take_a_value_does_not_cost_the_others(aclient: FaaSClient, asession: Execution):
    base = await asession.snapshot(portable="never")
    with pytest.raises(errors.BranchError, match="1 of 2 branches") as caught:
        await base.branch(variables=[{"x": object()}, {"x": 5}])
    assert isinstance(caught.value.errors[0], errors.NotTransferableError)
    (branch,) = caught.value.branches
    assert (await branch.execute("print(x)")).stdout == "5\n"
    await branch.close()
    await base.delete()


def test_rewind_takes_variables_and_files_back(session: SyncExecution):
    first = session.execute("x = 1; open('f', 'w').write('one')")
    session.execute("x = 2; open('f', 'w').write('two')")
    assert first.request_id in session.rewind(first).checkpoints
    assert session.execute("print(x, open('f').read())").stdout == "1 one\n"
    session.rewind("start")
    assert session.execute("print('x' in dir())").stdout == "False\n"
    with pytest.raises(errors.UnknownRequestError, match="no-such-request"):
        session.rewind("no-such-request")


def test_session_without_checkpoints_says_so(client: SyncFaaSClient):
    with client.executions.create("python") as session:
        done = session.execute("x = 1")
        with pytest.raises(errors.NoCheckpointError, match="checkpoint"):
            session.rewind(done)


def test_portable_form_goes_through_a_file(client: SyncFaaSClient, session: SyncExecution, name: str, tmp_path: Path):
    session.execute("x = {'a': [1, 2.5]}; open('f', 'w').write('text')")
    base = session.snapshot(name, portable="now")
    assert base.portable_status == "ready"
    path = base.export(tmp_path)
    assert path == tmp_path / f"{name}.faas-snapshot"
    copy = client.snapshots.import_(path, f"{name}-copy")
    assert copy.forms == ["portable"]
    with copy.restore() as branch:
        assert branch.execute("print(x, open('f').read())").stdout == "{'a': [1, 2.5]} text\n"
        assert branch.restored_from == "portable"
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(errors.APIError) as caught:
        client.snapshots.import_(tmp_path / "junk")
    assert caught.value.status < 500
    for snapshot in (copy, base):
        snapshot.delete()


def test_snapshots_are_found_renamed_compared_and_drawn(client: SyncFaaSClient, session: SyncExecution, name: str):
    session.execute("x = 1; y = 2")
    before = session.snapshot(name, labels={"of": name})
    session.execute("x = 3")
    after = session.snapshot(portable="never")
    assert [entry.name for entry in before.diff(after).variables if entry.name in ("x", "y")] == ["x"]
    assert {before.id, after.id} <= {snapshot.id for snapshot in client.snapshots.list()}
    (root,) = (node for node in client.snapshots.tree() if node.snapshot.id == before.id)
    assert [child.snapshot.id for child in root.children] == [after.id]
    assert before.rename(f"{name}-2") is before
    assert client.snapshots.get(f"{name}-2").labels == {"of": name}
    with pytest.raises(errors.NameTakenError):
        client.snapshots.rename(after, f"{name}-2")
    assert client.snapshots.update(after, keep=True).keep
    for snapshot in (after, before):
        snapshot.delete()


def test_check_names_a_thread(client: SyncFaaSClient, session: SyncExecution):
    assert client.snapshots.check(session).live
    session.execute(
        "import threading; t = threading.Thread(target=threading.Event().wait, name='mine', daemon=True); t.start()"
    )
    assert "thread" in {loss.kind for loss in client.snapshots.check(session).losses}


async def test_batch_runs_at_once_and_keeps_the_order(aclient: FaaSClient):
    results = await aclient.executions.run_batch([f"sleep 0.{9 - i}; echo {i}" for i in range(8)])
    assert [result.stdout for result in results] == [f"{i}\n" for i in range(8)]


async def test_unknown_snapshot_is_named(aclient: FaaSClient):
    for act in (aclient.snapshots.get, aclient.snapshots.restore, aclient.snapshots.delete):
        with pytest.raises(errors.UnknownSnapshotError, match="no-such-snapshot"):
            await act("no-such-snapshot")


async def test_cancelled_restore_leaves_no_execution_behind(aclient: FaaSClient, asession: Execution):
    base = await asession.snapshot(portable="never")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(aclient.snapshots.restore(base, 50, labels={"of": base.id}), 0.05)
    deadline = asyncio.get_running_loop().time() + 20
    while left := [
        info
        for info in await aclient.executions.list(label=f"of:{base.id}")
        if info.status in ("idle", "busy", "starting")
    ]:
        assert asyncio.get_running_loop().time() < deadline, left
        await asyncio.sleep(0.05)
    await base.delete()
