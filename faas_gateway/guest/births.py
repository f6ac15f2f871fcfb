"""A child of a dormant process on its way to become the guest of a sandbox of its own."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass
from typing import Any

from . import linux, wire


@dataclass
class Birth:
    """What came with the order to fork: who the child is to be, and the descriptors that it gets."""

    order: dict[str, Any]
    channel: socket.socket
    out: int
    err: int
    ready: socket.socket
    namespaces: dict[str, int]

    @classmethod
    def of(cls, order: dict[str, Any], fds: list[int]) -> Birth:
        channel, out, err, ready, *namespaces = fds
        names: list[str] = order["namespaces"]
        return cls(
            order,
            socket.socket(fileno=channel),
            out,
            err,
            socket.socket(fileno=ready),
            dict(zip(names, namespaces, strict=True)),
        )

    def close(self) -> None:
        """In the parent: the child has them all."""
        for sock in (self.channel, self.ready):
            sock.close()
        for fd in (self.out, self.err, *self.namespaces.values()):
            os.close(fd)

    def enter(self) -> None:
        """In the child, which is in its pid namespace already: enter the others, with every capability in them."""
        os.setsid()
        order = list(linux.NAMESPACES)
        for name, fd in sorted(self.namespaces.items(), key=lambda item: order.index(item[0])):
            if name != "pid":
                linux.setns(fd, linux.NAMESPACES[name])
            os.close(fd)

    def give_up_rights(self) -> None:
        """Keep nothing but what a fork into further namespaces will need, and that without effect until then."""
        linux.keep_capabilities(*linux.ENTERING, dormant=True)
        # entering a user namespace took it: /proc/self would not be ours. Who shares one with relatives goes without,
        # or they could read it
        if "user" in self.namespaces:
            linux.prctl(linux.PR_SET_DUMPABLE, 1)

    def report(self, about: dict[str, Any]) -> None:
        """Tell the launcher that we are there, and wait until it lets us go on: our limits are set by then."""
        wire.send(self.ready, {"pid": os.getpid(), **wire.fit(about)})
        if wire.receive(self.ready).message is None:
            os._exit(1)
        self.ready.close()

    def fail(self, error: OSError) -> None:
        wire.send(self.ready, wire.failure(error))
        os._exit(1)


class Dormant:
    """Waits for orders of the launcher: to fork, and to tell how the children ended."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._children: dict[int, str] = {}
        self._wake, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup_before = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        # SIGINT too, for the children: one that strikes before they serve must not end them
        self._handlers_before = {n: signal.signal(n, _noted) for n in (signal.SIGCHLD, signal.SIGINT)}

    def serve(self) -> Birth | str:
        """Returns in each child, with its birth; in the dormant process itself, with an order that is not ours."""
        while True:
            m, fds = self._next_order()
            if m["op"] != "fork":
                return str(m["op"])
            birth = self._fork(m, fds)
            if birth is not None:
                return birth

    def _next_order(self) -> tuple[dict[str, Any], list[int]]:
        import select

        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            for fd, _events in poll.poll():
                if fd == self._wake:
                    os.read(self._wake, 4096)
                    self._reap()
                    continue
                received = wire.receive(self._control)
                if received.message is None:
                    os._exit(0)
                return received.message, received.take()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            box = self._children.pop(pid, None)
            if box is not None:
                wire.send(self._control, {"box": box, "status": os.waitstatus_to_exitcode(status)})

    def _fork(self, m: dict[str, Any], fds: list[int]) -> Birth | None:
        birth = Birth.of(m, fds)
        try:
            if "pid" in birth.namespaces:
                linux.setns(birth.namespaces["pid"], linux.NEWPID)
            pid = os.fork()
        except OSError as e:
            linux.setns(self._own, linux.NEWPID)
            wire.send(birth.ready, wire.failure(e))
            birth.close()
            return None
        if pid:
            self._children[pid] = m["box"]
            linux.setns(self._own, linux.NEWPID)
            birth.close()
            return None
        self.end()
        self._control.close()
        return birth

    def end(self) -> None:
        """Be no dormant process any more: give back what only it needs."""
        signal.set_wakeup_fd(self._wakeup_before, warn_on_full_buffer=False)
        for number, handler in self._handlers_before.items():
            if handler is not signal.default_int_handler:  # which would end a child that has no session's handler yet
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        for fd in (self._own, self._wake, self._wake_write):
            os.close(fd)


def _noted(_number: int, _frame: object) -> None:
    """A handler must be there for the wake-up descriptor to be written to."""
