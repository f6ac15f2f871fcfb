"""Names to addresses, by the C library in threads of our own, each waited for only so long.

getaddrinfo(3) cannot be interrupted, and the name servers of a hostile name can make it take half a minute. So a lookup
counts until its thread has ended, not until nobody waits any more; and the threads are daemons: a gateway that ends
does not wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from typing import Any

from faas_gateway.backends.native.network.addresses import Address, parse_address
from faas_gateway.backends.native.network.policy import MOST_ADDRESSES

Lookup = Callable[[str, int], list[str]]


def lookup(name: str, port: int) -> list[str]:
    """The addresses of a name, best first (RFC 6724). Blocks; raises OSError."""
    # bytes: a str would go through Python's IDNA codec, which has errors of its own
    found = socket.getaddrinfo(name.encode("ascii"), port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(entry[4][0]) for entry in found]


class Slots:
    """So many lookups at one time; the others wait in order. A sandbox has its own, below those of all."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    async def take(self) -> None:
        await self._free.acquire()

    def give(self) -> None:
        self._free.release()


class Resolver:
    """Looks up names for one sandbox.

    Args:
        own, shared: the slots of this sandbox, and those of all.
        find: what is done in the thread.
    """

    def __init__(self, own: Slots, shared: Slots, find: Lookup = lookup) -> None:
        self._own = own
        self._shared = shared
        self._find = find

    async def __call__(self, name: str, port: int) -> list[Address]:
        """Raises OSError when the name does not resolve. The caller sets the deadline."""
        await self._own.take()
        try:
            await self._shared.take()
        except BaseException:
            self._own.give()
            raise
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def settle(found: list[str] | OSError) -> None:
            self._own.give()
            self._shared.give()
            if answer.done():
                return
            if isinstance(found, OSError):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        try:
            _start(self._find, name, port, lambda found: _tell(loop, settle, found))
        except RuntimeError as e:  # no more threads
            settle(OSError(errno.EAGAIN, str(e)))
        addresses = [parse_address(text) for text in (await answer)[:MOST_ADDRESSES]]
        # what is no address without a scope could only be a link-local one: then the answer as a whole is none
        if not addresses or None in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [address for address in addresses if address is not None]


def _start(find: Lookup, name: str, port: int, done: Callable[[list[str] | OSError], None]) -> None:
    def run() -> None:
        try:
            found: list[str] | OSError = find(name, port)
        except (OSError, UnicodeError) as e:
            found = e if isinstance(e, OSError) else socket.gaierror(socket.EAI_NONAME, str(e))
        done(found)

    threading.Thread(target=run, name="faas-lookup", daemon=True).start()


def _tell(loop: asyncio.AbstractEventLoop, settle: Callable[..., Any], found: list[str] | OSError) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
        loop.call_soon_threadsafe(settle, found)
