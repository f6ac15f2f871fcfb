"""Idle pools of Python's own and of joblib: ended before a fork, they start again with the next work they are given.

Without that a pool would count threads and processes that are not there in the child, and its next task would wait for
ever. A pool that has work is left alone; then the session is not forked.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as _futures
from typing import Any

_END_S = 5.0
_TRACKERS = (
    "multiprocessing.resource_tracker",
    "joblib.externals.loky.backend.resource_tracker",
    "loky.backend.resource_tracker",
)
_REUSABLE = ("joblib.externals.loky.reusable_executor", "loky.reusable_executor")


def end() -> list[str]:
    """End what is idle; returns the names of the pools."""
    ended: list[str] = []
    for executor in _idle_executors():
        _end_executor(executor)
        ended.append("concurrent.futures.ThreadPoolExecutor")
    if children() <= idle_processes():  # what else runs may still use the trackers; the session is not forked then
        for module in _idle_loky():
            module._executor.shutdown(wait=True)
            module._executor = None  # the last reference: its semaphores go, while the tracker can be told
            ended.append("joblib")
        for tracker in _trackers():
            _end_tracker(tracker)
    return ended


def children() -> set[int]:
    """Ids of this process's children, those that ended and were not waited for included (proc_pid_task_children(5))."""
    found: set[int] = set()
    for number in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/task/{number}/children") as f:
            found |= {int(pid) for pid in f.read().split()}
    return found


def idle_threads() -> set[int | None]:
    """Idents of threads that `end` would end."""
    found: set[int | None] = {t.ident for executor in _idle_executors() for t in executor._threads}
    for module in _idle_loky():
        queues = (getattr(module._executor, "_call_queue", None), getattr(module._executor, "_result_queue", None))
        threads: list[Any] = [getattr(q, "_thread", None) for q in queues]
        threads.append(getattr(module._executor, "_executor_manager_thread", None))
        found |= {t.ident for t in threads if isinstance(t, threading.Thread)}
    return found


def idle_processes() -> set[int]:
    """Ids of processes that `end` would end."""
    found = {int(tracker._pid) for tracker in _trackers()}
    for module in _idle_loky():
        found |= set(module._executor._processes)
    return found


def _idle_executors() -> list[Any]:
    """Executors whose every worker sleeps in its queue."""
    executors: dict[int, Any] = {}
    for thread in list(_futures._threads_queues):  # type: ignore[attr-defined]
        args: Any = getattr(thread, "_args", None)  # the worker's: a weak reference to its executor comes first
        executor = args[0]() if args else None
        if isinstance(executor, ThreadPoolExecutor):
            executors[id(executor)] = executor
    if not executors:
        return []
    frames = sys._current_frames()  # type: ignore[reportPrivateUsage]
    worker = _futures._worker.__code__  # type: ignore[attr-defined]
    idle: list[Any] = []
    for executor in executors.values():
        at = [frames.get(t.ident) for t in executor._threads if t.is_alive()]
        if executor._work_queue.empty() and all(frame is not None and frame.f_code is worker for frame in at):
            idle.append(executor)
    return idle


def _end_executor(executor: Any) -> None:
    """As `shutdown` does, and then as it was when it was new (concurrent/futures/thread.py)."""
    with executor._shutdown_lock:
        was_shut = executor._shutdown
        executor._shutdown = True
        executor._work_queue.put(None)
    for thread in list(executor._threads):
        thread.join(_END_S)
    executor._threads.clear()
    with contextlib.suppress(queue.Empty):
        while True:
            executor._work_queue.get_nowait()
    executor._idle_semaphore = threading.Semaphore(0)
    executor._shutdown = was_shut


def _idle_loky() -> list[Any]:
    """Modules that hold a reusable pool of processes which has no work."""
    modules: list[Any] = [sys.modules[name] for name in _REUSABLE if name in sys.modules]
    return [
        module
        for module in modules
        if module._executor is not None
        and module._executor._processes
        and not module._executor._pending_work_items
        and not module._executor._running_work_items
    ]


def _trackers() -> list[Any]:
    modules: list[Any] = [sys.modules[name] for name in _TRACKERS if name in sys.modules]
    found = [module._resource_tracker for module in modules]
    return [tracker for tracker in found if getattr(tracker, "_pid", None) is not None]


def _end_tracker(tracker: Any) -> None:
    """By a signal: told to end, it would remove the shared memory that the session still uses."""
    fd, pid = tracker._fd, tracker._pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    tracker._fd = tracker._pid = None
    if fd is not None:
        os.close(fd)
