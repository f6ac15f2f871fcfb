"""What cannot be generated, sync: waiting, interrupts. `faas/_async/_io.py` is its twin."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import httpx

from faas._calls import Body
from faas._config import Config
from faas._http import client_options, transport_options
from faas._sync._unix import unix_transport

__all__ = ["HttpPool", "body", "cancelled", "for_each", "run_blocking", "shielded", "sleep"]

T = TypeVar("T")
_CLOSE_TIMEOUT_S = 1.0


def cancelled() -> type[BaseException]:
    """What is raised when the caller stops waiting."""
    return KeyboardInterrupt


def shielded(seconds: float, func: Callable[[], object]) -> None:
    """Do this after an interrupt. The calls in it have deadlines, and a second interrupt ends the wait."""
    func()


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def run_blocking(func: Callable[..., T], *args: object) -> T:
    return func(*args)


def for_each(func: Callable[[T], object], items: Iterable[T], at_once: int) -> None:
    """Call a function for each item, one after another: an interrupt then knows where it strikes."""
    for item in items:
        func(item)


def body(content: Body | None) -> bytes | Iterator[bytes] | None:
    """A request's body as httpx takes it."""
    return content if content is None or isinstance(content, bytes) else content()


class HttpPool:
    """The HTTP connections of one client, shared by its threads.

    A KeyboardInterrupt can strike between any two bytecodes, also where httpcore has just taken a lock of its
    pool, and would leave it locked for good. So after an interrupt the pool is replaced, and the old one is
    closed, aside, when no other thread uses it.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._users: dict[httpx.Client, int] = {}
        self._retired: set[httpx.Client] = set()
        self._current = self._make()
        self._used = False

    def acquire(self) -> httpx.Client:
        """The HTTP client to send one request with; `release` it when its answer has been read."""
        http = self._current
        self._used = True
        self._users[http] = self._users.get(http, 0) + 1
        return http

    def release(self, http: httpx.Client, response: httpx.Response | None) -> None:
        """The counterpart of `acquire`; closes the response."""
        if response is not None and http not in self._retired:
            response.close()
        users = self._users.pop(http, 1) - 1
        if users > 0:
            self._users[http] = users
        elif http in self._retired:
            self._close(http)

    def interrupted(self) -> None:
        """Say that a request was interrupted."""
        if self._used:
            self._retired.add(self._current)
            self._current = self._make()
            self._used = False

    def close(self) -> None:
        """Close all connections."""
        self._retired.add(self._current)
        for http in list(self._retired):
            self._close(http)

    def _make(self) -> httpx.Client:
        options = transport_options(self._config)
        transport = unix_transport(options) if self._config.socket else httpx.HTTPTransport(**options)
        return httpx.Client(transport=transport, **client_options(self._config))

    def _close(self, http: httpx.Client) -> None:
        self._retired.discard(http)
        self._users.pop(http, None)
        # Its lock may be held for ever, see above: never wait for it without a deadline.
        thread = threading.Thread(target=http.close, name="faas-http-close", daemon=True)
        thread.start()
        thread.join(_CLOSE_TIMEOUT_S)
