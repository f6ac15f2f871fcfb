"""Limits of a whole sandbox by control groups: v2 where it is delegated or we are root, v1 as root, else none.

A process is moved once, before user code runs; what it forks follows. Moving costs an RCU grace period (about 5
ms), so all processes and controllers of a sandbox are written in one go. Standard library only; the gateway reads
`Group` files too. Sources: cgroups(7), Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field

ROOT = "/sys/fs/cgroup"
_V1 = ("memory", "pids", "cpu", "cpuacct")
_V2 = ("memory", "pids", "cpu")
_CPU_PERIOD_US = 100_000


@dataclass
class Group:
    """The control group of one sandbox: a folder per controller (v1), or one (v2)."""

    version: int
    folders: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, pids: list[int]) -> None:
        for folder in dict.fromkeys(self.folders.values()):
            for pid in pids:
                _write(f"{folder}/cgroup.procs", str(pid))

    def limit(self, memory_bytes: int | None, pids: int | None, cpus: float | None) -> dict[str, str]:
        """Set what is given; returns which limit is now enforced by what."""
        names = {1: ("memory.limit_in_bytes", "cgroup v1"), 2: ("memory.max", "cgroup v2")}
        memory_file, kind = names[self.version]
        enforced: dict[str, str] = {}
        if memory_bytes and "memory" in self.folders:
            _write(f"{self.folders['memory']}/{memory_file}", str(memory_bytes))
            for name, value in (
                ("memory.memsw.limit_in_bytes", memory_bytes),
                ("memory.swap.max", 0),
                ("memory.oom.group", 1),
            ):
                _try_write(f"{self.folders['memory']}/{name}", str(value))
            enforced["memory_mb"] = kind
        if pids and "pids" in self.folders:
            _write(f"{self.folders['pids']}/pids.max", str(pids))
            enforced["pids"] = kind
        if cpus and "cpu" in self.folders:
            quota = max(1000, int(cpus * _CPU_PERIOD_US))
            if self.version == 2:
                _write(f"{self.folders['cpu']}/cpu.max", f"{quota} {_CPU_PERIOD_US}")
            else:
                _write(f"{self.folders['cpu']}/cpu.cfs_period_us", str(_CPU_PERIOD_US))
                _write(f"{self.folders['cpu']}/cpu.cfs_quota_us", str(quota))
            enforced["cpus"] = kind
        return enforced

    def unlimit(self) -> None:
        """Take the limits away: of a frozen sandbox, whose branches are counted here for a moment."""
        none = "max" if self.version == 2 else "-1"
        for name in ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes", "memory.max"):
            if "memory" in self.folders:
                _try_write(f"{self.folders['memory']}/{name}", none)
        if "pids" in self.folders:
            _try_write(f"{self.folders['pids']}/pids.max", "max")
        if "cpu" in self.folders:
            _try_write(f"{self.folders['cpu']}/{'cpu.max' if self.version == 2 else 'cpu.cfs_quota_us'}", none)

    def memory_bytes(self) -> int | None:
        """What counts against the memory limit now, less the page cache that the kernel would give up first."""
        folder = self.folders.get("memory")
        if folder is None:
            return None
        used = _number(f"{folder}/{'memory.current' if self.version == 2 else 'memory.usage_in_bytes'}")
        cache = _field(f"{folder}/memory.stat", "inactive_file" if self.version == 2 else "total_inactive_file")
        return max(0, used - cache)

    def cpu_s(self) -> float | None:
        if self.version == 2 and "cpu" in self.folders:
            return _field(f"{self.folders['cpu']}/cpu.stat", "usage_usec") / 1e6
        if "cpuacct" in self.folders:
            return _number(f"{self.folders['cpuacct']}/cpuacct.usage") / 1e9
        return None

    def processes(self) -> int | None:
        return _number(f"{self.folders['pids']}/pids.current") if "pids" in self.folders else None

    def oom_kills(self) -> int:
        folder = self.folders.get("memory")
        if folder is None:
            return 0
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return _field(f"{folder}/{name}", "oom_kill")

    def pids_refused(self) -> int:
        folder = self.folders.get("pids")
        return _field(f"{folder}/pids.events", "max") if folder else 0

    def remove(self) -> bool:
        """Remove the folders; False while a process is still in one of them."""
        gone = True
        for folder in dict.fromkeys(self.folders.values()):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone


class Cgroups:
    """Where this launcher may make groups, found out by making one."""

    def __init__(self, version: int, parents: dict[str, str], home: str | None = None) -> None:
        self.version = version
        self.parents = parents
        self._home = home

    def folders(self) -> list[str]:
        """All that `detect` made."""
        return [*dict.fromkeys(self.parents.values()), *([self._home] if self._home else [])]

    def create(self, name: str) -> Group | None:
        if not self.version:
            return None
        group = Group(self.version, {c: f"{parent}/{name}" for c, parent in self.parents.items()})
        try:
            for folder in dict.fromkeys(group.folders.values()):
                os.mkdir(folder)
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> None:
        """Remove what `detect` made; waits up to a second for processes that are just ending."""
        deadline = time.monotonic() + 1
        if self._home is not None:
            _try_write(f"{os.path.dirname(self._home)}/cgroup.procs", str(os.getpid()))
        for folder in self.folders():
            remove_tree(folder)
            while os.path.isdir(folder) and time.monotonic() < deadline:
                time.sleep(0.01)
                remove_tree(folder)


def detect(name: str) -> Cgroups:
    """The best that this process can get: groups will be made below a new one called `name`."""
    own = _own_groups()
    for attempt in (_detect_v2, _detect_v1):
        found = attempt(name, own)
        if found is not None:
            return found
    return Cgroups(0, {})


def _detect_v2(name: str, own: dict[str, str]) -> Cgroups | None:
    if not os.path.exists(f"{ROOT}/cgroup.controllers"):
        return None
    home = None
    base = f"{ROOT}/{name}" if os.geteuid() == 0 else f"{ROOT}{own.get('', '/')}/{name}".replace("//", "/")
    parent = os.path.dirname(base)
    try:
        if os.geteuid() != 0:
            # no processes beside child groups: we leave for a leaf, and the parent must then be empty
            home = f"{parent}/{name}-launcher"
            os.mkdir(home)
            _write(f"{home}/cgroup.procs", str(os.getpid()))
        wanted = [c for c in _V2 if c in _read(f"{parent}/cgroup.controllers").split()]
        if "memory" not in wanted or "pids" not in wanted:
            raise OSError("memory and pids are not delegated")
        enable = " ".join(f"+{c}" for c in wanted)
        _write(f"{parent}/cgroup.subtree_control", enable)
        os.mkdir(base)
        _write(f"{base}/cgroup.subtree_control", enable)
    except OSError:
        if home is not None:
            _try_write(f"{parent}/cgroup.procs", str(os.getpid()))
            remove_tree(home)
        remove_tree(base)
        return None
    return Cgroups(2, dict.fromkeys(wanted, base), home)


def _detect_v1(name: str, own: dict[str, str]) -> Cgroups | None:
    parents: dict[str, str] = {}
    for controller in _V1:
        path = f"{ROOT}/{controller}{own.get(controller, '/')}/{name}".replace("//", "/")
        try:
            os.mkdir(path)
        except OSError:
            continue
        parents[controller] = path
    if not {"memory", "pids"} <= parents.keys():
        for path in parents.values():
            remove_tree(path)
        return None
    return Cgroups(1, parents)


def _own_groups() -> dict[str, str]:
    """Controller (v1) or '' (v2) to the path of our own group, from /proc/self/cgroup."""
    own: dict[str, str] = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path
    return own


def remove_tree(folder: str) -> None:
    """Remove a group and those below it, as far as they are empty."""
    try:
        children = [e.path for e in os.scandir(folder) if e.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for child in children:
        remove_tree(child)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def _read(path: str) -> str:
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def _number(path: str) -> int:
    text = _read(path).strip()
    return int(text) if text.isdigit() else 0


def _field(path: str, name: str) -> int:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _write(path: str, text: str) -> None:
    with open(path, "w") as f:
        f.write(text)


def _try_write(path: str, text: str) -> None:
    with contextlib.suppress(OSError):
        _write(path, text)
