"""The launcher: one single-threaded process, apart from the gateway, that makes sandboxes on request.

It is started by `python -I -S` with an empty environment and a bare command line, because every init is a fork of it:
/proc/1/environ and /proc/1/cmdline of a sandbox are the launcher's. Its modules, the guest's that are shared with it
and the seccomp filter's are top-level ones (link.py sets the path). When the gateway goes, it ends every sandbox, takes
away what they held, and exits.
"""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import signal
import socket
from collections.abc import Generator

import boxes
import cgroups
import freezing
import linux
import sandboxes
import schedule
import templates
import wire

FIRST_PID, PID_SPAN = 300, 4_000_000

Answering = Generator[schedule.Wait, wire.Received, tuple[wire.Message, list[int]]]


class Launcher:
    def __init__(self, gateway: socket.socket, store: str, host_uid: int) -> None:
        self.loop = schedule.Loop()
        self._gateway = gateway
        self._run = boxes.Run(store, host_uid)
        self._groups = cgroups.detect(f"faas-{self._run.name}")
        self._run.note_groups(self._groups)
        self._templates = templates.Templates(
            self.loop, self._run, host_uid, self._next_pid, self._guest_exit, self._template_gone
        )
        self._sandboxes = sandboxes.Sandboxes(self.loop, self._run, self._groups, self._templates, self._next_pid)
        self._freezer = freezing.Freezer(self.loop, self._run, self._sandboxes, self._box_exit, self._frozen_gone)
        with open("/proc/sys/kernel/pid_max") as f:
            self._pid_max = min(PID_SPAN, int(f.read()) - 1000)
        self._counter = secrets.randbelow(1000)

    def serve(self) -> None:
        hello = {"event": "ready", "cgroups": self._groups.version, "controllers": list(self._groups.parents)}
        wire.send(self._gateway, hello)
        self.loop.watch(self._gateway.fileno(), self._request)
        self.loop.run()

    def _request(self) -> None:
        received = wire.receive(self._gateway)
        m = received.message
        if m is None:
            self.loop.stopping = True
        elif m["op"] == "agent":
            self._sandboxes.agent(m["box"], received)
        else:
            self.loop.start(self._answered(m, received.take()))
        received.close()

    def _answered(self, m: wire.Message, given: list[int]) -> schedule.Task:
        """Run a call and answer it; an error is an answer too, with the system call that failed."""
        fds: list[int] = []
        try:
            answer, fds = yield from self._call(m, given)
        except freezing.Refused as e:
            answer = {"refused": e.losses}
        except OSError as e:
            answer = wire.failure(e)
        except ValueError as e:
            answer = wire.failure(OSError(22, str(e)))
        self._tell({"call": m["call"], **answer}, fds)
        for fd in fds:
            os.close(fd)

    def _call(self, m: wire.Message, given: list[int]) -> Answering:
        op = m["op"]
        if op == "template":
            yield from self._templates.make(m["name"], m["spec"], m["sizes"])
        elif op == "new":
            return (yield from self._sandboxes.make(m))
        elif op == "freeze":
            return (yield from self._freezer.freeze(m, socket.socket(fileno=given[0]) if given else None))
        elif op == "branch":
            return (yield from self._sandboxes.make(m, self._sandboxes.get(m["frozen"])))
        elif op == "ahead":
            yield from self._sandboxes.ahead(self._sandboxes.get(m["frozen"]), m)
        elif op == "keep":
            yield from self._freezer.keep(m["box"])
        elif op == "unkeep":
            return {"used": self._freezer.unkeep(m["folder"])}, []
        elif op == "rename":
            self._sandboxes.rename(m["box"], m["to"])
        elif op == "close":
            yield from self._sandboxes.end(m["box"])
        elif op == "cool":
            self._templates.cool(m["name"])
        else:
            raise ValueError(f"unknown call {op!r}")
        return {}, []

    def _tell(self, message: wire.Message, fds: list[int] | None = None) -> None:
        try:
            wire.send(self._gateway, message, fds)
        except OSError:
            self.loop.stopping = True

    def _guest_exit(self, made_as: str, status: int) -> None:
        box = self._sandboxes.made_as(made_as)
        if box is not None:
            self._box_exit(box, status)

    def _box_exit(self, box: boxes.Box, status: int) -> None:
        self._tell({"event": "guest_exit", "box": box.name, "status": status})

    def _frozen_gone(self, box: boxes.Box) -> None:
        self._tell({"event": "frozen_gone", "box": box.name})

    def _template_gone(self, name: str) -> None:
        self._tell({"event": "template_gone", "name": name})

    def _next_pid(self) -> int:
        """A pid that no living relative has: OpenSSL and tempfile notice a fork by the pid."""
        self._counter += 1
        return FIRST_PID + self._counter % (self._pid_max - FIRST_PID)

    def close(self) -> None:
        self._templates.close()
        self._sandboxes.close()
        self._groups.close()
        self._run.close()


def _reaper(loop: schedule.Loop) -> None:
    """Orphans come to us (we are their subreaper): reap them, whoever they are."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _noted)

    def reap() -> None:
        os.read(read, 4096)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    loop.watch(read, reap)


def _noted(_number: int, _frame: object) -> None:
    """A handler must be there for the wake-up descriptor to be written to."""


def main(fd: int, store: str, host_uid: int) -> None:
    """Serve the gateway on a SOCK_SEQPACKET. host_uid: who sandboxes are on the host, 0 for ourselves."""
    os.umask(0o022)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the gateway ends us, by closing its socket
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    linux.set_name("faas-launcher")
    launcher = Launcher(socket.socket(fileno=fd), store, host_uid)
    gc.freeze()  # inits and agents are forks of us: a collection would copy every page that holds an object
    _reaper(launcher.loop)
    try:
        launcher.serve()
    finally:
        launcher.close()
