"""The way out of sandboxes: listeners that belong to a sandbox's network namespace, served from outside it.

A socket stays in the namespace that it was made in. So the sandbox's init makes two listening ones before user code
runs and hands them over; nothing of ours runs inside, and nothing but these two ports leads out.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from faas_gateway.backends.native.network import resolver
from faas_gateway.backends.native.network.connection import Timing, serve_http, serve_socks
from faas_gateway.backends.native.network.policy import Policy
from faas_gateway.backends.native.network.relay import READ_BYTES

_SOCKET_BYTES = 256 << 10
_AGAIN_S = 0.5
_ACCEPTS = 16


def _total() -> int:
    """A quarter of the descriptors that the gateway may have: a connection takes two."""
    return max(16, min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What all sandboxes, and each, may have of the proxy. Each connection holds at most 200 KB of ours."""

    connections: int = 128
    """Of one sandbox at one time; more wait in its own listener's backlog."""

    total: int = field(default_factory=_total)
    """Of all sandboxes; one more is closed at once."""

    lookups: int = 4
    """Names of one sandbox being looked up at one time; more wait."""

    total_lookups: int = 32

    timing: Timing = field(default_factory=Timing)


@dataclass
class Usage:
    """What one sandbox has had of the network. Bytes are counted between proxy and Internet."""

    connections: int = 0
    """Accepted, in all."""

    open: int = 0
    refused: int = 0
    """Destinations that the policy does not allow."""

    failed: int = 0
    """Destinations that could not be reached, and requests that were none."""

    turned_away: int = 0
    """Connections closed at once, since all sandboxes together had too many."""

    sent_bytes: int = 0
    received_bytes: int = 0
    last_refusal: str = ""


class Outlet:
    """One sandbox's way out. Made by `Proxy.serve`; `close` it with the sandbox, whose namespace it keeps alive."""

    def __init__(
        self, proxy: Proxy, policy: Policy, http: socket.socket, socks: socket.socket, find: resolver.Lookup
    ) -> None:
        self.policy = policy
        self.usage = Usage()
        self.resolve = resolver.Resolver(resolver.Slots(proxy.limits.lookups), proxy.lookups, find)
        self._proxy = proxy
        self._tasks: dict[asyncio.Task[None], socket.socket] = {}
        self._loop = asyncio.get_running_loop()
        self._timers: dict[socket.socket, asyncio.TimerHandle] = {}
        self._serving: dict[socket.socket, Callable[[Outlet, socket.socket], Coroutine[Any, Any, None]]] = {
            http: serve_http,
            socks: serve_socks,
        }
        for listener in self._serving:
            listener.setblocking(False)
            # inherited by what it accepts: fixed, or the kernel would let each grow to megabytes
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                listener.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)
        self._listening = False
        self._listen()

    @property
    def timing(self) -> Timing:
        return self._proxy.limits.timing

    @property
    def buffer(self) -> bytearray:
        return self._proxy.buffer

    def moved(self, sent: int, received: int) -> None:
        self.usage.sent_bytes += sent
        self.usage.received_bytes += received

    def refused(self, reason: str) -> None:
        self.usage.refused += 1
        self.usage.last_refusal = reason

    def failed(self) -> None:
        self.usage.failed += 1

    def close(self) -> None:
        """Stop serving, at once, and end every connection soon. Idempotent."""
        self._unlisten()
        for listener in self._serving:
            listener.close()
        self._serving.clear()
        for task in self._tasks:
            task.cancel()
        self._proxy.forget(self)

    async def aclose(self) -> None:
        """Close, and wait until every connection has ended."""
        tasks = set(self._tasks)
        self.close()
        if tasks:
            await asyncio.wait(tasks)

    def _listen(self) -> None:
        if not self._listening and len(self._tasks) < self._proxy.limits.connections:
            self._listening = True
            for listener in self._serving:
                self._loop.add_reader(listener, self._accept, listener)

    def _unlisten(self) -> None:
        self._listening = False
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for listener in self._serving:
            self._loop.remove_reader(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            if len(self._tasks) >= self._proxy.limits.connections:
                self._unlisten()
                return
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors or no memory: the connection is still there, and so would the event be
                self._loop.remove_reader(listener)
                self._timers[listener] = self._loop.call_later(_AGAIN_S, self._again, listener)
                return
            self.usage.connections += 1
            if not self._proxy.enter():
                self.usage.turned_away += 1
                sock.close()
                continue
            sock.setblocking(False)
            task = self._loop.create_task(self._serving[listener](self, sock))
            self._tasks[task] = sock
            self.usage.open = len(self._tasks)
            task.add_done_callback(self._connection_ended)

    def _again(self, listener: socket.socket) -> None:
        self._timers.pop(listener, None)
        self._loop.add_reader(listener, self._accept, listener)

    def _connection_ended(self, task: asyncio.Task[None]) -> None:
        self._proxy.leave()
        self._tasks.pop(task).close()
        self.usage.open = len(self._tasks)
        if self._serving:
            self._listen()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a sandbox's connection failed", "exception": error})


class Proxy:
    """Serves the listeners of any number of sandboxes on the running loop, until it is left.

        async with Proxy() as proxy:
            outlet = proxy.serve(http, socks, Policy.full())

    Args:
        find: looks up a name; blocks, in a thread.
    """

    def __init__(self, limits: Limits | None = None, *, find: resolver.Lookup = resolver.lookup) -> None:
        self.limits = limits or Limits()
        self.buffer = bytearray(READ_BYTES)
        self._find = find
        self._outlets: set[Outlet] = set()
        self._open = 0

    async def __aenter__(self) -> Proxy:
        self.lookups = resolver.Slots(self.limits.total_lookups)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for outlet in list(self._outlets):
            await outlet.aclose()

    def serve(self, http: socket.socket, socks: socket.socket, policy: Policy) -> Outlet:
        """Serve a sandbox's two listening TCP sockets, which are the outlet's from now on."""
        outlet = Outlet(self, policy, http, socks, self._find)
        self._outlets.add(outlet)
        return outlet

    def enter(self) -> bool:
        if self._open >= self.limits.total:
            return False
        self._open += 1
        return True

    def leave(self) -> None:
        self._open -= 1

    def forget(self, outlet: Outlet) -> None:
        self._outlets.discard(outlet)
