"""The warm process: it forks a guest for every new session, and never runs user code.

Only the pid namespace has to be chosen before the fork; the child enters the others, gives up its capabilities, takes
its limits and the system call filter, and tells the launcher that it is ready.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import random
import resource
import signal
import socket
import sys
from typing import Any

from .births import Birth, Dormant
from .requests import Session
from .shell import Kernel
from .streams import Standard

_filter: Any = importlib.import_module(".filter", __package__)  # from the native backend, laid beside us


def serve(kernel: Kernel, control: socket.socket, program: bytes) -> Session:
    """Fork guests for ever; returns in each of them, with its session."""
    dormant = Dormant(control)
    while True:
        birth = dormant.serve()
        if isinstance(birth, Birth):
            try:
                return _become(birth, kernel, program)
            except OSError as e:
                birth.fail(e)


def _become(birth: Birth, kernel: Kernel, program: bytes) -> Session:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    birth.enter()
    os.chdir("/workspace")
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    m = birth.order
    standard = Standard(birth.out, birth.err, m["token"])
    standard.install()
    birth.give_up_rights()
    _limit(m["rlimits"], m["memory_bytes"])
    _reseed()
    birth.report({})
    _filter.install(program)
    return Session(kernel, birth.channel, standard)


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


def _limit(limits: dict[str, list[int]], memory_bytes: int | None) -> None:
    for name, (soft, hard) in limits.items():
        number = getattr(resource, name)
        if name == "RLIMIT_NPROC":  # a dormant guest's branches count too: the launcher raises it then
            hard = resource.getrlimit(number)[1]
            soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.setrlimit(number, (soft, hard))
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
