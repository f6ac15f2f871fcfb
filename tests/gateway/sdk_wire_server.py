"""A server that speaks the wire and misbehaves on demand: what a real gateway does only when it fails.

Code that it is given is a line of commands: `print N` (N events), `big BYTES` (an event of that size), `sleep S`,
`drop` (break the connection of whoever listens), `hang` (until interrupted), `ignore` (hang through interrupts),
`problem CODE`, `end` (the process exits).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from sdk_wire_snapshots import Snapshots

NOW = "2026-01-01T00:00:00Z"
PROBLEM_STATUS = {
    "invalid_request": 422,
    "unknown_environment": 404,
    "unknown_execution": 404,
    "unknown_request": 404,
    "unknown_variable": 404,
    "unknown_file": 404,
    "unknown_snapshot": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "name_taken": 409,
    "request_running": 409,
    "request_exists": 409,
    "no_checkpoint": 409,
    "not_portable": 409,
    "execution_ended": 410,
    "snapshot_gone": 410,
    "cannot_fork": 422,
    "script_failed": 422,
    "not_transferable": 422,
    "file_error": 422,
    "too_large": 413,
    "build_failed": 502,
    "sandbox_unavailable": 503,
    "start_failed": 503,
    "capacity": 503,
    "storage_unavailable": 503,
    "timeout": 504,
    "internal": 500,
}


def abort(send: Any) -> None:
    """Break the connection. ASGI has no word for it, so this takes uvicorn's transport."""
    send.__self__.transport.abort()


class Running:
    """One request: its events so far, and how it ended."""

    def __init__(self, rid: str, code: str) -> None:
        self.rid = rid
        self.events: list[dict[str, Any]] = []
        self.result: dict[str, Any] | None = None
        self.problem: str | None = None
        self.interrupted = asyncio.Event()
        self.changed = asyncio.Event()
        self.drops = 0
        self.task = asyncio.create_task(self._run(code))

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def drop(self) -> None:
        """Break the connection of whoever listens."""
        self.drops += 1
        self._tell()

    async def _run(self, code: str) -> None:
        status, error = "success", None
        for command in code.split(";"):
            verb, _, argument = command.strip().partition(" ")
            if verb == "print":
                for _ in range(int(argument)):
                    text = f"line {len(self.events)}\n"
                    self.events.append({"msg_type": "stream", "content": {"name": "stdout", "text": text}})
                    self._tell()
                    await asyncio.sleep(0)
            elif verb == "sleep":
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.interrupted.wait(), float(argument))
                    status = "cancelled"
            elif verb == "big":
                text = "x" * 99 + "\n"
                text *= int(argument) // len(text)
                self.events.append({"msg_type": "stream", "content": {"name": "stdout", "text": text}})
                self._tell()
                await asyncio.sleep(0)
            elif verb == "drop":
                await asyncio.sleep(0.05)  # what was printed before goes out first
                self.drop()
            elif verb == "hang":
                await self.interrupted.wait()
                status = "cancelled"
            elif verb == "ignore":
                await asyncio.sleep(3600)
            elif verb == "end":
                os._exit(9)
            elif verb == "problem":
                self.problem = argument
            if status == "cancelled":
                error = {"code": "cancelled", "ename": "KeyboardInterrupt"}
                break
        self.result = {"request_id": self.rid, "execution_id": "x1", "status": status, "error": error}
        self._tell()

    def whole(self) -> dict[str, Any]:
        assert self.result is not None
        return {**self.result, "stdout": "".join(event["content"]["text"] for event in self.events)}


class WireServer:
    """The ASGI app. Attributes are for tests: what came in, and what is to go wrong next."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.calls: list[tuple[str, str, dict[str, str]]] = []
        self.running: dict[str, Running] = {}
        self.bodies: list[dict[str, Any]] = []
        self.variables: dict[str, tuple[str, bytes]] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        self.accept_delay_s = 0.0
        self.loop: asyncio.AbstractEventLoop
        self.put_delay_s = 0.0
        self.drop_next = 0
        self.disconnected: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.loop = asyncio.get_running_loop()
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        raw = scope["raw_path"].decode()
        self.calls.append((scope["method"], raw, headers))
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if self.drop_next:
            self.drop_next -= 1
            abort(send)
            return
        self.queries.append(scope["query_string"].decode())
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        parts = scope["path"].removeprefix("/api/v1/").split("/")
        await Answer(self, send, receive, query, headers).route(scope["method"], parts, body)


class Answer:
    def __init__(self, server: WireServer, send: Any, receive: Any, query: Any, headers: Any) -> None:
        self.server, self.send, self.receive = server, send, receive
        self.query, self.headers = query, headers

    async def route(self, method: str, parts: list[str], body: bytes) -> None:
        match method, parts:
            case "GET", ["", "healthz"]:
                await self.json(200, {"version": "9.9.9", "pid": os.getpid(), "backend": "wire"})
            case "POST", ["executions"]:
                await self.create(json.loads(body))
            case (("GET" | "DELETE"), ["executions", _]):
                await self.json(200, INFO | {"status": "terminated" if method == "DELETE" else "idle"})
            case "GET", ["executions"]:
                start = int(self.query.get("cursor", "0"))
                end = start + min(int(self.query["limit"]), 2)
                items = [INFO | {"id": f"x{n}"} for n in range(start, min(end, 5))]
                await self.json(200, {"items": items, "next_cursor": str(end) if end < 5 else None})
            case "POST", ["executions", _, "execute"] | ["executions", _, "run"] | ["execute"]:
                await self.execute(json.loads(body), one_shot=parts == ["execute"])
            case "GET", ["executions", _, "requests", rid]:
                await self.result(rid)
            case "DELETE", ["executions", _, "requests", rid]:
                if rid not in self.server.running:
                    await self.problem("unknown_request")
                else:
                    self.server.running[rid].interrupted.set()
                    await self.json(202, {})
            case "GET", ["executions", _, "requests", rid, "events"]:
                if rid not in self.server.running:
                    await self.problem("unknown_request")
                else:
                    after = int(self.headers.get("last-event-id", "-1"))
                    await self.follow(self.server.running[rid], after + 1)
            case "POST", ["executions", "batch"]:
                await self.batch(json.loads(body))
            case "POST", ["executions", _, "rewind"]:
                await self.rewind(json.loads(body))
            case _, ["snapshots", *rest]:
                await Snapshots(self).route(method, rest, body)
            case _, ["executions", _, "files", *path]:
                await self.stored(self.server.files, "unknown_file", method, "/".join(path), body)
            case _, ["executions", _, "variables", name]:
                await self.stored(self.server.variables, "unknown_variable", method, name, body)
            case _:
                await self.problem("not_found")

    async def create(self, body: dict[str, Any]) -> None:
        self.server.bodies.append(body)
        await self.start(200, "text/event-stream")
        await self.event("progress", {"stage": "start", "message": "starting", "fraction": 0.5})
        if body["environment"] in PROBLEM_STATUS:
            await self.event("problem", problem(body["environment"]))
        else:
            await self.event("execution", INFO | {"environment": body["environment"]})
        await self.end()

    async def execute(self, body: dict[str, Any], one_shot: bool) -> None:
        self.server.bodies.append(body)
        code = body.get("code") or "; ".join(body["command"])
        if code.startswith("problem "):
            await self.problem(code.split()[1])
            return
        await asyncio.sleep(self.server.accept_delay_s)
        running = self.server.running[body["request_id"]] = Running(body["request_id"], code)
        if self.query.get("stream") == "true":
            await self.follow(running, 0, accepted=True)
            return
        gone = asyncio.create_task(self.receive())
        await asyncio.wait({running.task, gone}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        if not running.task.done():
            self.server.disconnected.append(running.rid)
            if one_shot:
                running.task.cancel()
            return
        gone.cancel()
        if running.drops:
            abort(self.send)
            return
        await self.json(200, running.whole())

    async def batch(self, body: dict[str, Any]) -> None:
        self.server.bodies.append(body)
        items: list[dict[str, Any]] = []
        for index, request in enumerate(body["requests"]):
            if request["code"].startswith("problem "):
                items.append({"index": index, "problem": problem(request["code"].split()[1])})
            elif request["code"] != "missing":
                running = Running(request["request_id"], request["code"])
                await asyncio.wait({running.task}, timeout=10)
                items.append({"index": index, "result": running.whole()})
        await self.json(200, {"items": items[::-1]})

    async def rewind(self, body: dict[str, Any]) -> None:
        self.server.bodies.append(body)
        if body["request_id"] in PROBLEM_STATUS:
            await self.problem(body["request_id"])
        else:
            await self.json(200, INFO | {"checkpoints": [body["request_id"]]})

    async def result(self, rid: str) -> None:
        running = self.server.running.get(rid)
        if running is None:
            await self.problem("unknown_request")
            return
        await asyncio.wait({running.task}, timeout=min(0.2, float(self.query["wait"])))
        if running.result is None:
            await self.problem("request_running")
        else:
            await self.json(200, running.whole())

    async def follow(self, running: Running, at: int, accepted: bool = False) -> None:
        await self.start(200, "text/event-stream")
        if accepted:
            await self.event("accepted", {"request_id": running.rid, "execution_id": "x1"})
        drops = running.drops
        while True:
            changed = running.changed
            while at < len(running.events):
                await self.event("stream", running.events[at], at)
                at += 1
            if running.drops > drops:
                abort(self.send)
                return
            if running.problem is not None:
                await self.event("problem", problem(running.problem))
                break
            if running.result is not None:
                await self.event("result", running.result)
                break
            try:
                await asyncio.wait_for(changed.wait(), 0.2)
            except TimeoutError:
                await self.body(b": ping\n\n")
        await self.end()

    async def stored(
        self, store: dict[str, tuple[str, bytes]], unknown: str, method: str, name: str, body: bytes
    ) -> None:
        if method == "PUT":
            await asyncio.sleep(self.server.put_delay_s)
            store[name] = (self.headers["content-type"], body)
            await self.json(204, None)
        elif name not in store:
            await self.problem(unknown)
        else:
            content_type, content = store[name]
            await self.start(200, content_type)
            for start in range(0, len(content), 10_000):
                await self.body(content[start : start + 10_000])
            await self.end()

    def problem_body(self, code: str) -> dict[str, Any]:
        return problem(code)

    async def problem(self, code: str) -> None:
        content = problem(code)
        await self.json(content["status"], content, "application/problem+json")

    async def json(self, status: int, content: Any, content_type: str = "application/json") -> None:
        await self.start(status, content_type)
        await self.body(b"" if content is None else json.dumps(content).encode())
        await self.end()

    async def start(self, status: int, content_type: str) -> None:
        headers = [(b"content-type", content_type.encode()), (b"x-request-id", b"http-1")]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def event(self, name: str, data: Any, event_id: int | None = None) -> None:
        lines = f"event: {name}\n" + (f"id: {event_id}\n" if event_id is not None else "")
        await self.body(f"{lines}data: {json.dumps(data)}\n\n".encode())

    async def body(self, data: bytes) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self.send({"type": "http.response.body", "body": b""})


INFO: dict[str, Any] = {"id": "x1", "status": "idle", "environment": "python", "created_at": NOW}


def problem(code: str) -> dict[str, Any]:
    return {
        "title": f"title of {code}",
        "status": PROBLEM_STATUS.get(code, 500),
        "detail": f"detail of {code}",
        "code": code,
        "hint": f"hint of {code}",
    }


class Served:
    """The app on a Unix socket, in a thread of the test."""

    def __init__(self, path: Path) -> None:
        self.app = WireServer()
        self.endpoint = f"unix://{path}"
        config = uvicorn.Config(self.app, uds=str(path), log_level="critical", timeout_graceful_shutdown=1, ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="wire-server")

    def __enter__(self) -> Served:
        self._thread.start()
        for _ in range(500):
            if self._server.started:
                return self
            threading.Event().wait(0.01)
        raise TimeoutError("the wire server did not start")

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()


def main(socket: str, ready_fd: int) -> None:
    """As the embedded gateway: serve in this process until it is killed."""
    server = uvicorn.Server(uvicorn.Config(WireServer(), uds=socket, log_level="critical", ws="none"))

    def report() -> None:
        while not server.started:
            threading.Event().wait(0.01)
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)

    threading.Thread(target=report, daemon=True).start()
    server.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
