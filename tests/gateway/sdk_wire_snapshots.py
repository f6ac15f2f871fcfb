"""The part of the wire server that is about snapshots.

A snapshot is named after what is to happen: `problem CODE` in its name's place answers with that problem; `full` has
room for two branches; `hang` never answers; `missing` forgets a branch. A branch whose label or variable `fail` is a
code is not made, for that reason.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdk_wire_server import Answer

NOW = "2026-01-01T00:00:00Z"
SNAPSHOT: dict[str, Any] = {
    "id": "s1",
    "name": "base",
    "execution_id": "x1",
    "environment": "python",
    "forms": ["live", "portable"],
    "created_at": NOW,
    "receipt": {"stopped_s": 0.004, "lost": [{"kind": "thread", "name": "worker", "reason": "threads stay behind"}]},
}
#: id, parent, seconds at which it was made
TREE = [("s5", "s9", 5), ("s4", "s2", 4), ("s3", "s1", 3), ("s2", "s1", 2), ("s1", None, 1)]


class Snapshots:
    """Answers to /snapshots/..."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.server = answer.server

    async def route(self, method: str, parts: list[str], body: bytes) -> None:
        name = parts[0] if parts else ""
        if name.startswith("problem "):
            await self.answer.problem(name.split()[1])
            return
        match method, parts:
            case "POST", []:
                await self.create(json.loads(body))
            case "GET", []:
                await self.list()
            case "POST", ["check"]:
                self.server.bodies.append(json.loads(body))
                loss = {"kind": "library", "name": "polars", "reason": "has threads", "effect": "portable_only"}
                await self.answer.json(200, {"execution_id": "x1", "live": False, "losses": [loss]})
            case "POST", ["import"]:
                self.server.files["import"] = (self.answer.headers["content-type"], body)
                await self.answer.json(201, SNAPSHOT | {"name": self.answer.query.get("name", "base")})
            case "GET", [_]:
                await self.answer.json(200, SNAPSHOT | {"name": name, "portable_status": "ready"})
            case "PATCH", [_]:
                await self.answer.json(200, SNAPSHOT | json.loads(body))
            case "DELETE", [_]:
                await self.answer.json(204, None)
            case "GET", [_, "diff", other]:
                change = {"name": other, "change": "changed", "before": "int 1", "after": "int 2"}
                await self.answer.json(200, {"variables": [change]})
            case "POST", [_, "restore"]:
                given = json.loads(body)
                self.server.bodies.append(given)
                fields = {"labels": given["labels"]}
                await self.branches(name, [fields] * given["branch_count"])
            case "POST", [_, "branch"]:
                given = json.loads(body)
                self.server.bodies.append(given)
                await self.branches(name, given["branches"])
            case "GET", [_, "export"]:
                await self.export(name)
            case _:
                await self.answer.problem("not_found")

    async def create(self, body: dict[str, Any]) -> None:
        self.server.bodies.append(body)
        if "script" not in body:
            await self.answer.json(201, SNAPSHOT | {"name": body.get("name")})
            return
        answer = self.answer
        await answer.start(200, "text/event-stream")
        await answer.event("progress", {"stage": "script", "message": "Collecting pytest"})
        if body["script"].startswith("problem "):
            await answer.event(
                "problem",
                {**self.answer.problem_body(body["script"].split()[1]), "detail": "exit code 1: no such file"},
            )
        else:
            await answer.event("snapshot", SNAPSHOT | {"name": body.get("name")})
        await answer.end()

    async def list(self) -> None:
        start = int(self.answer.query.get("cursor", "0"))
        end = start + min(int(self.answer.query["limit"]), 2)
        items = [
            SNAPSHOT | {"id": id_, "name": None, "parent_id": parent, "created_at": f"2026-01-01T00:00:0{at}Z"}
            for id_, parent, at in TREE[start:end]
        ]
        await self.answer.json(200, {"items": items, "next_cursor": str(end) if end < len(TREE) else None})

    async def branches(self, name: str, asked: list[dict[str, Any]]) -> None:
        if name == "hang":
            await asyncio.wait_for(self.answer.receive(), 60)
            self.server.disconnected.append(name)
            return
        items: list[dict[str, Any]] = []
        for index, branch in enumerate(asked):
            marks = {**branch.get("labels", {}), **branch.get("variables", {})}
            if name == "full" and index >= 2:
                items.append({"index": index, "problem": self.answer.problem_body("capacity")})
            elif marks.get("fail"):
                items.append({"index": index, "problem": self.answer.problem_body(marks["fail"])})
            elif name != "missing":
                info = {
                    "id": f"b{index}",
                    "name": branch.get("name"),
                    "status": "idle",
                    "environment": "python",
                    "created_at": NOW,
                    "snapshot_id": "s1",
                    "branch_index": index,
                    "restored_from": "live",
                    "receipt": {"reseeded": ["random"]},
                    "labels": branch.get("labels", {}),
                }
                items.append({"index": index, "execution": info})
        await self.answer.json(201, {"snapshot_id": "s1", "form": "live", "items": items[::-1]})

    async def export(self, name: str) -> None:
        await self.answer.start(200, "application/octet-stream")
        for number in range(300):
            await self.answer.body(bytes([number % 256]) * 10_000)
        if name == "broken":
            self.answer.send.__self__.transport.abort()
            return
        await self.answer.end()
