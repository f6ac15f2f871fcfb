"""Threads below Python: which pools can be ended before a fork, and which survive it by themselves.

A fork copies only the thread that calls it. OpenBLAS, Arrow and numexpr make theirs anew in the child; an OpenMP
runtime waits for ever for those that its parent had, unless its pool is ended before. Any other library with live
threads makes a session that is not forked: it would hang, or go on without them. Whose a thread is, the return
addresses on its stack tell, so a library counts when, and only when, it has threads.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

from . import pools

_OPENMP = re.compile(r"/lib[gi]?omp\d*[-.][^/]*$")
_OPENBLAS = re.compile(r"openblas[^/]*\.so[^/]*$")
_SURVIVING = re.compile(r"openblas[^/]*\.so|/libarrow[^/]*\.so|/numexpr/")
_SURVIVING_NAMES = ("jemalloc_bg_thd", "polars-ooc-clea")
"""jemalloc starts its own again; the other belongs to an import of polars that did nothing yet."""

_SYSTEM = re.compile(
    r"/(?:libc|libm|libpthread|ld-linux[^/]*|ld-musl[^/]*|libstdc\+\+|libgcc_s|libpython3?[^/]*)[-.]"
    r"|/python[^/]*$|/numpy/_?core/"
)
"""What starts no threads of its own, and is on the stacks of others'."""

_PAUSE_HARD = 2  # omp_pause_hard of omp_pause_resource_t (OpenMP 5.0)
_STACK_BYTES = 8192
_SPIN_S = 0.1
"""So long a thread that runs is waited for: many spin for some milliseconds after their work before they sleep."""


class _Info(ctypes.Structure):  # struct dl_phdr_info, link.h
    _fields_ = (
        ("addr", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("phdr", ctypes.c_void_p),
        ("phnum", ctypes.c_uint16),
        ("adds", ctypes.c_ulonglong),
        ("subs", ctypes.c_ulonglong),
    )


class _Symbol(ctypes.Structure):  # Dl_info, dlfcn.h
    _fields_ = (
        ("fname", ctypes.c_char_p),
        ("fbase", ctypes.c_void_p),
        ("sname", ctypes.c_char_p),
        ("saddr", ctypes.c_void_p),
    )


_Visit = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Info), ctypes.c_size_t, ctypes.c_void_p)
_libc = ctypes.CDLL(None)
_libc.dladdr.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Symbol)]
_loaded: tuple[tuple[int, int], list[str]] = ((-1, -1), [])
_owners: dict[tuple[int, str], tuple[str, ...]] = {}


def prepare() -> list[str]:
    """End every pool that starts again by itself; returns their names. The session's work goes on as before."""
    ended = pools.end()
    return ended + _end_native() if len(os.listdir("/proc/self/task")) > 1 else ended


def _end_native() -> list[str]:
    """OpenMP's and OpenBLAS's, unless a thread of the user's may be using them: then the session is not forked."""
    idle = pools.idle_threads()
    if any(t.ident not in idle for t in threading.enumerate() if t is not threading.main_thread()):
        return []
    ended: list[str] = []
    for path in libraries():
        if _OPENMP.search(path) and _call(path, "omp_pause_resource_all", _PAUSE_HARD):
            ended.append(os.path.basename(path))
        elif _OPENBLAS.search(path):
            _call(path, "blas_thread_shutdown_")  # as its own handler of the fork does; its threads may spin for long
    return ended


def _call(path: str, function: str, *args: int) -> bool:
    library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    if not hasattr(library, function):
        return False
    getattr(library, function)(*args)
    return True


def libraries() -> list[str]:
    """Paths of the loaded shared libraries; walked again only when one was loaded or unloaded since."""
    global _loaded
    counts = [(0, 0)]
    found: list[str] = []

    def count(info: Any, _size: int, _data: int | None) -> int:
        counts[0] = (info[0].adds, info[0].subs)
        return 1

    def visit(info: Any, _size: int, _data: int | None) -> int:
        found.append(os.fsdecode(info[0].name or b""))
        return 0

    _libc.dl_iterate_phdr(_Visit(count), None)
    if _loaded[0] != counts[0]:
        _libc.dl_iterate_phdr(_Visit(visit), None)
        _loaded = (counts[0], [path for path in found if path.startswith("/")])
    return _loaded[1]


def unforkable() -> dict[str, list[str]]:
    """Threads not started by Python that neither a fork nor `prepare` takes care of: library to their names.

    Where that cannot be told at once, as of a thread that spins, what `prepare` would end is ended to see what is left.
    """
    if len(os.listdir("/proc/self/task")) == 1:
        return {}
    found = _strangers(wait_s=0)
    if found:
        _end_native()
        found = _strangers(wait_s=_SPIN_S)
    return found


def _strangers(wait_s: float) -> dict[str, list[str]]:
    known = {str(thread.native_id) for thread in threading.enumerate()} | {str(os.getpid())}
    found: dict[str, list[str]] = {}
    for number in os.listdir("/proc/self/task"):
        if number in known:
            continue
        try:
            with open(f"/proc/self/task/{number}/comm") as f:
                name = f.read().strip()
            owners = () if name in _SURVIVING_NAMES else _owners_of(number, wait_s)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        wild = [path for path in owners if not _is_cared_for(path)]
        if name not in _SURVIVING_NAMES and (wild or not owners):
            found.setdefault(_package(wild[-1] if wild else ""), []).append(name)
    return found


def _is_cared_for(owner: str) -> bool:
    if _OPENMP.search(owner):
        return hasattr(ctypes.CDLL(owner, mode=os.RTLD_NOLOAD | os.RTLD_NOW), "omp_pause_resource_all")
    return bool(_SURVIVING.search(owner))


def _package(path: str) -> str:
    _, packages, rest = path.rpartition("-packages/")
    name = rest.split("/")[0] if packages else os.path.basename(path)
    return name.removesuffix(".libs").split(".")[0].strip("_") or "unknown"


def _owners_of(number: str, wait_s: float) -> tuple[str, ...]:
    """Paths of the libraries that are on a native thread's stack, innermost first; none where it cannot be read.

    All of them count, since a word may be left from an earlier call: a thread is trusted if each of them is.
    """
    with open(f"/proc/self/task/{number}/stat") as f:
        key = (int(number), f.read().rpartition(")")[2].split()[19])  # a number is used again: with its start time
    if key not in _owners:
        owners = tuple(dict.fromkeys(path for path in _callers(number, wait_s) if not _SYSTEM.search(path)))
        if not owners:
            return ()
        _owners[key] = owners
    return _owners[key]


def _callers(number: str, wait_s: float) -> Iterator[str]:
    """Paths of the libraries that words on a sleeping thread's stack point into, innermost first."""
    deadline = time.monotonic() + wait_s
    while True:
        with open(f"/proc/self/task/{number}/syscall") as f:  # one word while it runs (proc_pid_syscall(5))
            fields = f.read().split()
        if len(fields) >= 3:
            break
        if time.monotonic() >= deadline:
            return
        time.sleep(0.0005)
    stack = int(fields[-2], 16)
    memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(memory, _STACK_BYTES, stack)
    finally:
        os.close(memory)
    symbol = _Symbol()
    for (word,) in struct.iter_unpack("@P", data[: len(data) // 8 * 8]):
        if word > 1 << 16 and _libc.dladdr(word, ctypes.byref(symbol)) and symbol.fname:
            yield os.fsdecode(symbol.fname)
