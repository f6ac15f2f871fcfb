"""Live snapshots: a running sandbox is frozen where it is, and its session goes on in a new one below it.

The parked guest keeps memory and files as they were; whoever branches from it, or goes on, is in a pid namespace below,
where no dormant process can be named, listed, read or signalled. Past the depth to which namespaces nest they are
beside it: it is not listed and cannot be read there, but who guesses its number can signal it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import boxes
import processes
import schedule
import wire
from sandboxes import DEPTH_LIMIT, Made, Sandboxes, Steps, set_process_limit
from templates import START_S

MOUNTING_S = 0.005
"""Between two looks at whether files that are to be moved are still being mounted by their path, seconds."""

MAX_STATUS = 255


class Refused(Exception):
    """The guest has something that cannot be forked, and goes on; `losses` names it."""

    def __init__(self, losses: object) -> None:
        super().__init__("the guest cannot be forked")
        self.losses = losses


class Freezer:
    """Freezes sandboxes of one launcher. on_exit: how the guest of a box ended. on_gone: a dormant one has ended."""

    def __init__(
        self,
        loop: schedule.Loop,
        run: boxes.Run,
        sandboxes: Sandboxes,
        on_exit: Callable[[boxes.Box, int], None],
        on_gone: Callable[[boxes.Box], None],
    ) -> None:
        self._loop = loop
        self._run = run
        self._sandboxes = sandboxes
        self._on_exit = on_exit
        self._on_gone = on_gone

    def freeze(self, m: wire.Message, control: socket.socket | None) -> Made:
        """Freeze box m["box"] as m["as"] and make m["next"] for its session, under its old name.

        control: to the guest, which is parking meanwhile; None for a sandbox without one. Raises Refused, and OSError:
        then the sandbox goes on as it was.
        """
        box = self._sandboxes.get(m["box"])
        self._sandboxes.rename(m["box"], m["as"])
        box.control = control
        try:
            about, fds = yield from self._go_on(box, m["next"])
        except (OSError, Refused):
            if control is not None:
                with contextlib.suppress(OSError):
                    wire.send(control, {"op": "resume"})
                control.close()
            box.control = None
            with contextlib.suppress(
                OSError
            ):  # it was closed meanwhile; one that has only died is to be closed by its name
                self._sandboxes.rename(m["as"], m["box"])
            raise
        if control is not None:
            with contextlib.suppress(OSError):  # it has died just now: seen below
                wire.send(control, {"op": "settle"})
            self._loop.watch(control.fileno(), lambda: self._spoke(box, control))
            box.clear(keep=processes.number_inside(box.guest_pid))  # nothing may go on writing to frozen files
        if box.group is not None:
            box.group.unlimit()
        assert box.layer is not None
        box.layer.name = m["layer"]
        return about | {"holds_files": box.branch_layers() is not box.lowers}, fds

    def _go_on(self, box: boxes.Box, order: wire.Message) -> Made:
        if box.control is None:
            return (yield from self._sandboxes.make(order, box))
        if box.depth < DEPTH_LIMIT:
            yield from self._sandboxes.user_namespace(box)  # while the guest prepares
        received = yield box.control, START_S
        received.close()  # nobody asked for descriptors
        if received.message is None:
            raise OSError(32, "the guest ended")
        parked = wire.fit(received.message)
        if "refused" in parked:
            raise Refused(parked["refused"])
        set_process_limit(box.guest_pid)
        about, fds = yield from self._sandboxes.make(order | {"continuing": True}, box)
        return about | {"parked": parked}, fds

    def _spoke(self, box: boxes.Box, control: socket.socket) -> None:
        """A dormant guest tells how its children ended. User code ran in it: nothing it says is believed unchecked, and
        one that says what it cannot know is not listened to any more.
        """
        try:
            received = wire.receive(control)
        except OSError:
            received = wire.Received(None, [], 0)
        received.close()
        m = received.message
        status = None if m is None else m.get("status")
        if m is None or not isinstance(status, int) or abs(status) > MAX_STATUS or not box.unreported:
            self._loop.unwatch(control.fileno())
            if box.control is control:
                control.close()
                box.control = None
                self._on_gone(box)
            return
        box.unreported -= 1
        child = self._sandboxes.made_as(str(m.get("box")))
        if child is not None and child.below in (box, box.below):
            self._on_exit(child, status)

    def keep(self, name: str) -> Steps:
        """Move a frozen sandbox's files to where they outlast us, and those under them that are still ours."""
        box = self._sandboxes.get(name)
        while any(layer.mounting for layer in box.branch_layers()):
            yield from schedule.pause(MOUNTING_S)
        for layer in box.branch_layers():
            if not layer.kept:
                self._run.move(layer, f"kept/{layer.name}")
                layer.kept = True
                self._run.note_kept(layer)

    def unkeep(self, folder: str) -> bool:
        """Let the files go with the last that uses them. False: nobody does."""
        return self._run.unkeep(folder)
