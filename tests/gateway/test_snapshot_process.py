"""Snapshots over the life of the gateway's process: killed, stopped, idle."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_gateway import Process, short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def create(client: httpx.Client, code: str) -> str:
    execution = client.post("/executions", json={}).json()["id"]
    assert client.post(f"/executions/{execution}/execute", json={"code": code}).json()["status"] == "success"
    return execution


def snapshot(client: httpx.Client, execution: str, **body: Any) -> dict[str, Any]:
    response = client.post(f"/executions/{execution}/snapshot", json=body)
    assert response.status_code == 201, response.text
    return response.json()


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_what_is_portable_outlives_the_gateway_and_what_was_live_only_is_said_to_be_gone(
    folder: Path, how: str
) -> None:
    with Process(folder) as first:
        assert first.ready_line() == "ready"
        with first.client() as client:
            execution = create(client, "set x 1\nwrite f.txt text")
            snapshot(client, execution, name="kept", portable="now")
            snapshot(client, execution, name="lost", portable="never")
        if how == "kill":
            first.kill()
        else:
            assert first.terminate() == 0
    with Process(folder) as second:
        assert second.ready_line() == "ready"
        with second.client() as client:
            assert client.get("/snapshots/kept").json()["forms"] == ["portable"]
            gone = client.post("/snapshots/lost/restore", json={})
            assert (gone.status_code, gone.json()["code"]) == (410, "snapshot_gone")
            assert "live only, and the gateway stopped" in gone.json()["detail"]
            page = client.post("/snapshots/kept/restore", json={"branch_count": 2}).json()
            branch = page["items"][1]["execution"]["id"]
            result = client.post(f"/executions/{branch}/execute", json={"code": "show x\ncat f.txt"}).json()
            assert result["stdout"] == "1\ntext\n"
        assert second.terminate() == 0


def test_a_gateway_that_is_killed_while_it_branches_starts_again(folder: Path) -> None:
    faults = {"FAAS_FAKE": json.dumps({"branch_s": 30})}
    with Process(folder, env=faults) as first:
        assert first.ready_line() == "ready"
        failures: list[Exception] = []
        with first.client() as client:
            execution = create(client, "set x 1")
            found = snapshot(client, execution, portable="never")

            def branch() -> None:
                try:
                    client.post(f"/snapshots/{found['id']}/restore", json={"branch_count": 8})
                except httpx.TransportError as exc:
                    failures.append(exc)

            thread = threading.Thread(target=branch)
            thread.start()
            time.sleep(0.3)
            first.kill()
            thread.join(10)
        assert failures
    with Process(folder) as second:
        assert second.ready_line() == "ready"
        with second.client() as client:
            statuses = {item["status"] for item in client.get("/executions").json()["items"]}
            assert statuses == {"lost"}
            assert client.get("/snapshots").json()["items"] == []
        assert second.terminate() == 0


def test_a_live_only_snapshot_keeps_an_idle_gateway_and_a_portable_one_does_not(folder: Path) -> None:
    with Process(folder, idle_timeout=0.5) as gateway:
        assert gateway.ready_line() == "ready"
        with gateway.client() as client:
            execution = create(client, "set x 1")
            found = snapshot(client, execution, portable="never")
            snapshot(client, execution, name="kept", portable="now")
            client.delete(f"/executions/{execution}")
            time.sleep(1.2)
            assert gateway.process.poll() is None
            assert client.delete(f"/snapshots/{found['id']}").status_code == 204
        assert gateway.process.wait(10) == 0
    with Process(folder) as again:
        assert again.ready_line() == "ready"
        with again.client() as client:
            assert client.get("/snapshots/kept").json()["forms"] == ["portable"]
        assert again.terminate() == 0
