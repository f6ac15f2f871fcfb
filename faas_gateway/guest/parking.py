"""A snapshot from inside: the session's process goes dormant for good, and the session goes on in a child of it.

Between two requests, in the middle of the one that asked for it: the parent waits for orders where the child returns.
So every object, frame and task of the interpreter is in the child as it was; what the kernel shares between the two
(open files, pipes, mappings, the event loop's descriptors) is made anew there. See inventory.py and carry.py.
"""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import socket
from time import monotonic
from typing import Any

from . import carry, inventory, libraries, linux, runtimes, wire
from .births import Birth, Dormant
from .streams import Standard

_NOT_NEEDED = "resume"


class Refused(Exception):
    """The session has something that cannot be forked; `losses` names it."""

    def __init__(self, losses: list[dict[str, Any]]) -> None:
        super().__init__("the session cannot be forked")
        self.losses = losses


def losses(channel: socket.socket, standard: Standard) -> list[dict[str, Any]]:
    """What would not survive a snapshot taken now."""
    return inventory.look(_ours(asyncio.get_running_loop(), channel, standard)).losses


def park(control: socket.socket, channel: socket.socket, standard: Standard, namespace: dict[str, Any]) -> Birth | None:
    """Go dormant. Returns in each child with what it was born with, in the parent only when nothing came of it.

    Raises Refused.
    """
    began = monotonic()
    loop: Any = asyncio.get_running_loop()
    paused = runtimes.prepare()
    libraries.merge()
    found = inventory.look(_ours(loop, channel, standard) | {control.fileno()})
    if not found.can_fork:
        raise Refused([loss for loss in found.losses if loss["effect"] == "portable_only"])
    folder = _folder()
    state = carry.save_random()
    carry.hold(found)
    linux.raise_capabilities(*linux.ENTERING)
    dumpable = linux.prctl(linux.PR_GET_DUMPABLE)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    dormant = Dormant(control)
    wire.send(control, {"parked": began, "paused_runtimes": paused[:100]})
    while True:
        turn = dormant.serve()
        if isinstance(turn, Birth):
            try:
                _revive(turn, loop, standard, found, folder, state, namespace)
            except OSError as e:
                turn.fail(e)
            return turn
        if turn == _NOT_NEEDED:
            dormant.end()
            carry.unhold(found)
            linux.keep_capabilities(*linux.ENTERING, dormant=True)
            linux.prctl(linux.PR_SET_DUMPABLE, dumpable)
            return None
        _let_go(channel, standard, found)  # settled: the session goes on in a child


def _revive(
    birth: Birth,
    loop: Any,
    standard: Standard,
    found: inventory.Inventory,
    folder: str,
    random_state: Any,
    namespace: dict[str, Any],
) -> None:
    """In a child: make what is shared with relatives our own, and report it."""
    continuing = bool(birth.order["continuing"])
    carry.restore_random(random_state)
    birth.enter()
    lost: list[dict[str, Any]] = []
    try:
        os.chdir(folder)
    except OSError as e:
        os.chdir("/")
        lost.append({"kind": "file", "name": folder, "reason": f"working directory: {e.strerror}", "effect": "lost"})
    standard.rebind(birth.out, birth.err, birth.order["token"])
    receipt = carry.carry(found, continuing)
    renew_loop(loop)
    if not continuing:
        gc.freeze()  # a collection in a branch then never walks, and so never copies, the heap of its parent
    if birth.order["reseed"]:
        receipt["reseeded"] = carry.reseed(namespace)
    birth.give_up_rights()
    receipt["lost"] += lost
    birth.report({"receipt": {key: value[:100] for key, value in receipt.items()}, "at": monotonic()})


def _let_go(channel: socket.socket, standard: Standard, found: inventory.Inventory) -> None:
    """The parent keeps no end of what its child goes on with: peers must see the child's end as the end."""
    channel.close()
    standard.release()
    carry.release(found)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/workspace"


def _ours(loop: Any, channel: socket.socket, standard: Standard) -> set[int]:
    return {channel.fileno(), *standard.descriptors(), *loop_descriptors(loop)}


def loop_descriptors(loop: Any) -> set[int]:
    """What asyncio's own event loop holds: its epoll instance and the socket pair that wakes it."""
    return {loop._selector.fileno(), loop._ssock.fileno(), loop._csock.fileno()}


def renew_loop(loop: Any) -> None:
    """Give the running loop an epoll instance and a wake-up of its own: tasks, timers and readers go on as they were.

    There is no public way (asyncio/selector_events.py); closing it would end the tasks of the user.
    """
    old, wake = loop._selector, loop._ssock.fileno()
    keys = [key for key in old.get_map().values() if key.fd != wake]
    loop._selector = selectors.DefaultSelector()
    for key in keys:
        try:
            loop._selector.register(key.fd, key.events, key.data)
        except (OSError, ValueError, KeyError):
            continue  # it is closed, or nothing that can be waited for any more
    old.close()
    loop._ssock.close()
    loop._csock.close()
    loop._internal_fds -= 1
    loop._make_self_pipe()
    asyncio._set_running_loop(None)
    asyncio._set_running_loop(loop)  # it is remembered together with the process id
