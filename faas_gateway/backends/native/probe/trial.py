"""Make a sandbox's namespaces and mounts once, in a process of its own, and say how each step went.

Run by path from a bare interpreter: `python -I -S trial.py FOLDER`, with an empty folder on the disk where
sandboxes will keep their files. Prints a line of JSON for each step: {"step", "errno", "call", "note"}, where
errno 0 is success. After a failed step those that need it do not come. Order and calls are the launcher's.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable

_NATIVE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_GATEWAY = os.path.dirname(os.path.dirname(_NATIVE))
sys.path += [_NATIVE, f"{_NATIVE}/launcher", f"{_NATIVE}/seccomp", f"{_GATEWAY}/guest"]

import cgroups  # noqa: E402 - a bare interpreter finds them only now
import filter as seccomp  # noqa: E402
import linux  # noqa: E402
from identity import HOST_UID  # noqa: E402

PR_SET_PDEATHSIG = 1
CHOSEN_PID = 4321
MOUNT_POINTS = ("/tmp", "/var/tmp", "/run", "/mnt")


def report(step: str, number: int = 0, call: str = "", note: str = "") -> None:
    line = json.dumps({"step": step, "errno": number, "call": call, "note": note})
    os.write(1, line.encode() + b"\n")


def attempt(step: str, call: str, action: Callable[[], str | None]) -> bool:
    """Do it and report it; the action may return a note."""
    try:
        note = action()
    except OSError as error:
        report(step, error.errno or errno.EIO, call)
        return False
    report(step, 0, call, note or "")
    return True


def in_child(action: Callable[[], None]) -> Callable[[], None]:
    """The action in a forked child that dies with us; raises the OSError that it ended with."""

    def run() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                linux.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                action()
            except OSError as error:
                os._exit(error.errno or errno.EIO)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if ended:
            raise OSError(ended if ended > 0 else errno.EINTR, "the child failed")

    return run


def main(folder: str) -> None:
    attempt("pidfd", "pidfd_open", lambda: os.close(os.pidfd_open(os.getpid())))
    attempt("seccomp", "seccomp", in_child(_filtered))
    attempt("cgroups", "mkdir(cgroup)", _control_groups)
    _namespaces(folder)


def _filtered() -> None:
    try:
        program = seccomp.program()
    except NotImplementedError as error:
        raise OSError(errno.ENOSYS, str(error)) from error
    seccomp.install(program)
    try:
        linux.unshare(linux.NEWUTS)
    except OSError as error:
        if error.errno == errno.EPERM:
            return
    raise OSError(errno.EIO, "the filter is not in force")


def _control_groups() -> str:
    found = cgroups.detect(f"faas-probe-{os.getpid()}")
    found.close()
    return " ".join([str(found.version), *found.parents])


def _namespaces(folder: str) -> None:
    for name in ("lower", "lower/gone", "u", "w"):
        os.makedirs(os.path.join(folder, name), mode=0o700)
    trees: list[int] = []
    privileged = os.geteuid() == 0 and _as_root(folder, trees)
    outside = HOST_UID if privileged else os.geteuid()
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(from_child)
        os.close(to_child)
        linux.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _user_namespace(folder, trees, lambda: _handshake(to_parent, from_parent), privileged)
        os._exit(0)
    os.close(to_parent)
    os.close(from_parent)
    made = os.read(from_child, 1)
    if made and attempt("maps", "write(uid_map)", lambda: _write_maps(child, outside, privileged)):
        os.write(to_child, b"m")
    os.close(to_child)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise SystemExit(f"a process of the trial ended with {status}")


def _as_root(folder: str, trees: list[int]) -> bool:
    """What only root does first. Where it may not, we go on as an ordinary user, to learn whether that would do."""

    def hand_over() -> None:
        for path in (folder, *(os.path.join(folder, name) for name in ("lower", "lower/gone", "u", "w"))):
            os.chown(path, HOST_UID, HOST_UID)

    cloned = attempt("root", "open_tree", lambda: trees.append(linux.open_tree(folder)))
    return cloned and attempt("owner", f"chown(uid {HOST_UID})", hand_over)


def _handshake(to_parent: int, from_parent: int) -> bool:
    os.write(to_parent, b"u")
    return bool(os.read(from_parent, 1))


def _write_maps(child: int, outside: int, privileged: bool) -> str:
    group = outside if privileged else os.getegid()
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {outside} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/{child}/{name}", "w") as file:
            file.write(text)
    return str(outside)


def _user_namespace(folder: str, trees: list[int], mapped: Callable[[], bool], privileged: bool) -> None:
    if privileged and not attempt("groups", "setgroups", lambda: os.setgroups([])):
        return
    if not attempt("user", "unshare(CLONE_NEWUSER)", lambda: linux.unshare(linux.NEWUSER)) or not mapped():
        return

    def become_root() -> None:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        linux.prctl(linux.PR_SET_DUMPABLE, 1)

    if not attempt("ids", "setresuid", become_root):
        return
    for name in ("NEWNS", "NEWNET", "NEWIPC", "NEWUTS", "NEWCGROUP", "NEWPID"):
        flag: int = getattr(linux, name)
        if not attempt(name, f"unshare(CLONE_{name})", lambda flag=flag: linux.unshare(flag)):
            return
    attempt("sandbox", "fork", in_child(lambda: _sandbox(folder, trees)))


def _sandbox(folder: str, trees: list[int]) -> None:
    """As pid 1 of the new namespaces: a root of our own, then what is done in it."""
    root = next((path for path in MOUNT_POINTS if os.access(path, os.X_OK)), "/")

    def mounts() -> None:
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_SLAVE)
        store = trees[0] if trees else linux.open_tree(folder)
        linux.mount("tmpfs", root, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=4m")
        for name in ("proc", "store", "usr", "new", "u", "w"):
            os.makedirs(f"{root}/{name}")
        linux.move_mount(store, f"{root}/store")

    def attributes() -> None:
        usr = linux.open_tree("/usr")
        linux.mount_setattr(usr, linux.ATTR_RDONLY | linux.ATTR_NOSUID | linux.ATTR_NODEV)
        linux.move_mount(usr, f"{root}/usr")

    def proc() -> None:
        flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        linux.mount("proc", f"{root}/proc", "proc", flags)

    def pivot() -> None:
        os.chdir(root)
        linux.pivot_root(".", ".")
        linux.unmount(".")
        os.chdir("/")

    steps = (
        ("mounts", "mount(tmpfs)", mounts),
        ("attributes", "mount_setattr", attributes),
        ("proc", "mount(proc)", proc),
        ("pivot", "pivot_root", pivot),
    )
    if not all(attempt(*step) for step in steps):
        return
    attempt("pids", "write(ns_last_pid)", _choose_pid)
    if not attempt("overlay", "mount(overlay)", lambda: _overlay("/store")):
        attempt("overlay_tmpfs", "mount(overlay)", lambda: _overlay(""))
    attempt("nested", "unshare(CLONE_NEWUSER)", in_child(_nested))


def _choose_pid() -> None:
    linux.set_last_pid(CHOSEN_PID)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    if child != CHOSEN_PID:
        raise OSError(errno.EBUSY, f"asked for {CHOSEN_PID}, got {child}")


def _overlay(box: str) -> None:
    """Write, delete and list through an overlay whose upper directory is in box."""
    linux.overlay("/new", ["/store/lower"], f"{box}/u", f"{box}/w")
    try:
        os.rmdir("/new/gone")
        with open("/new/made", "w") as file:
            file.write("made")
        if os.listdir("/new") != ["made"]:
            raise OSError(errno.EIO, "the overlay does not hide what was deleted")
    finally:
        linux.unmount("/new")


def _nested() -> None:
    """Each sandbox has a user namespace of its own below that of its warm process."""
    linux.unshare(linux.NEWUSER | linux.NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", "1000 0 1"), ("gid_map", "1000 0 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


if __name__ == "__main__":
    main(sys.argv[1])
