"""The warm process: dormant, it forks a guest for every new session. It never runs user code.

Only the pid namespace has to be chosen before the fork; the child enters the others, gives up every capability, takes
its limits and the system call filter, and tells the launcher that it is ready.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import os
import random
import re
import resource
import select
import signal
import socket
import sys
from typing import Any

from . import linux, wire
from .requests import Session
from .shell import Kernel
from .streams import Standard

_filter: Any = importlib.import_module(".filter", __package__)  # from the native backend, laid beside us


_OPENMP = re.compile(r"(/\S*/lib[gi]?omp\d?[-.]\S*)$", re.MULTILINE)
_PAUSE_HARD = 2  # omp_pause_hard of omp_pause_resource_t


def prepare_fork() -> None:
    """Make an idle guest fit to be forked at any time, also after user code ran in it."""
    forget_loops()
    pause_openmp()


def pause_openmp() -> None:
    """End the thread pools of every loaded OpenMP runtime; the next parallel region makes new ones.

    libgomp waits for ever in a forked child for the threads of a pool that its parent has used. OpenBLAS and Python's
    own pools see to themselves. (OpenMP 5.0, omp_pause_resource_all)
    """
    with open("/proc/self/maps") as f:
        paths = set(_OPENMP.findall(f.read()))
    for path in paths:
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        if hasattr(library, "omp_pause_resource_all"):
            library.omp_pause_resource_all(_PAUSE_HARD)


def forget_loops() -> None:
    """Close every event loop: its epoll descriptor would be shared across the fork."""
    from IPython.core import async_helpers

    made = [getattr(async_helpers, "_asyncio_event_loop", None)]
    policies: Any = asyncio  # deprecated from Python 3.14 on, and there until 3.16
    policy_local = getattr(policies.get_event_loop_policy(), "_local", None)
    made.append(getattr(policy_local, "_loop", None))
    for loop in made:
        if loop is not None and not loop.is_closed():
            loop.close()
    async_helpers._asyncio_event_loop = None  # type: ignore[attr-defined]
    policies.set_event_loop_policy(None)


class Dormant:
    """Waits for orders of the launcher; `serve` returns in each forked child, with its session."""

    def __init__(self, kernel: Kernel, control: socket.socket, program: bytes) -> None:
        self._kernel = kernel
        self._control = control
        self._program = program
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._children: dict[int, str] = {}
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._wake_write = wake
        signal.signal(signal.SIGCHLD, _noted)
        signal.signal(signal.SIGINT, _noted)  # for the children: one that strikes before they serve must not end them

    def serve(self) -> Session:
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
                session = self._fork(received.message, received.take())
                if session is not None:
                    return session

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

    def _fork(self, m: dict[str, Any], fds: list[int]) -> Session | None:
        names: list[str] = m["namespaces"]
        channel, out, err, ready, *namespaces = fds
        try:
            linux.setns(namespaces[names.index("pid")], linux.NEWPID)
            pid = os.fork()
        except OSError as e:
            linux.setns(self._own, linux.NEWPID)
            with socket.socket(fileno=ready) as sock:
                wire.send(sock, wire.failure(e))
            for fd in (channel, out, err, *namespaces):
                os.close(fd)
            return None
        if pid:
            self._children[pid] = m["box"]
            linux.setns(self._own, linux.NEWPID)
            for fd in fds:
                os.close(fd)
            return None
        sock = socket.socket(fileno=ready)
        try:
            return self._become(
                m, socket.socket(fileno=channel), out, err, sock, dict(zip(names, namespaces, strict=True))
            )
        except OSError as e:
            wire.send(sock, wire.failure(e))
            os._exit(1)

    def _become(
        self,
        m: dict[str, Any],
        channel: socket.socket,
        out: int,
        err: int,
        ready: socket.socket,
        namespaces: dict[str, int],
    ) -> Session:
        """In the child: become the guest of the sandbox whose namespaces these are."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        for fd in (self._own, self._wake, self._wake_write):
            os.close(fd)
        os.setsid()
        for name, fd in sorted(namespaces.items(), key=lambda item: list(linux.NAMESPACES).index(item[0])):
            if name != "pid":
                linux.setns(fd, linux.NAMESPACES[name])
            os.close(fd)
        os.chdir("/workspace")
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        standard = Standard(out, err, m["token"])
        standard.install()
        linux.keep_capabilities()
        linux.prctl(linux.PR_SET_DUMPABLE, 1)  # entering the user namespace took it: /proc/self would not be ours
        _limit(m["rlimits"], m["memory_bytes"])
        _reseed()
        wire.send(ready, {"pid": os.getpid()})
        if wire.receive(ready).message is None:
            os._exit(1)
        ready.close()
        _filter.install(self._program)
        return Session(self._kernel, channel, standard)


def _noted(_number: int, _frame: object) -> None:
    """A handler must be there for the wake-up descriptor to be written to."""


def _limit(limits: dict[str, list[int]], memory_bytes: int | None) -> None:
    for name, (soft, hard) in limits.items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    if memory_bytes is not None:  # counts private writable mappings (getrlimit(2)), so what is mapped already is added
        with open("/proc/self/statm") as f:
            mapped = int(f.read().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (mapped + memory_bytes, mapped + memory_bytes))


def _reseed() -> None:
    """What the warm process has seeded must not be the same in two sessions. OpenSSL and tempfile look at the pid."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None and "numpy.random" in sys.modules:
        numpy.random.seed()


def freeze() -> None:
    """Before the first fork: a collection in a session then never walks, and so never copies, what is shared."""
    gc.collect()
    gc.freeze()
