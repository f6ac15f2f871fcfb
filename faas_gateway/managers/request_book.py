"""The requests of one execution: which run, which have a result that is still kept, which ids were used."""

from __future__ import annotations

import time

from faas_gateway.errors import RequestExistsError, UnknownRequestError
from faas_gateway.managers.requests import Request
from faas_gateway.settings import Settings

IDS_REMEMBERED = 10_000


class RequestBook:
    """Keeps finished requests within the limits of the settings."""

    def __init__(self, settings: Settings) -> None:
        self.running: dict[str, Request] = {}
        self._settings = settings
        self._finished: dict[str, Request] = {}
        self._used_ids: dict[str, None] = {}

    def check_new(self, request_id: str) -> None:
        """Raises RequestExistsError."""
        if request_id in self._used_ids:
            raise RequestExistsError(
                f"The execution has had a request {request_id!r} already.",
                hint="Choose another request_id, or read the result of that one.",
            )

    def add(self, request: Request) -> None:
        if len(self._used_ids) >= IDS_REMEMBERED:
            del self._used_ids[next(iter(self._used_ids))]
        self._used_ids[request.id] = None
        self.running[request.id] = request

    def finish(self, request: Request) -> None:
        del self.running[request.id]
        self._finished[request.id] = request
        self.trim(self._settings.logs_kept_bytes)

    def get(self, request_id: str) -> Request:
        """One that runs, or whose result is still kept. Raises UnknownRequestError."""
        request = self.running.get(request_id) or self._finished.get(request_id)
        if request is None:
            raise UnknownRequestError(
                f"The execution has no request {request_id!r}, or its output is no longer kept.",
                hint=f"The last {self._settings.logs_kept} requests of an execution are kept.",
            )
        return request

    def trim(self, size_limit: int) -> None:
        """Drop the oldest outputs beyond the limits; the newest stays in any case."""
        size = sum(r.size for r in self._finished.values())
        while len(self._finished) > 1 and (len(self._finished) > self._settings.logs_kept or size > size_limit):
            oldest = self._finished.pop(next(iter(self._finished)))
            size -= oldest.size
            oldest.discard()

    def forget(self) -> None:
        """Give the kept outputs back; readers that are at it may finish."""
        for request in self._finished.values():
            request.discard()
        self._finished.clear()

    def what_runs(self) -> str:
        """The code that has the turn, in words."""
        for request in self.running.values():
            if request.kind == "code" and request.started_at is not None:
                return f"request {request.id}, for {time.time() - request.started_at:.0f} s"
        return "its variables are read or written, or a snapshot is being taken"
