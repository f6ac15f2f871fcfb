"""Linux calls that Python 3.11 lacks, by ctypes. Standard library only: launcher, inits and guests run it.

glibc's wrappers are used where there are any; the rest are called by number. Numbers from 424 on are the same on every
architecture (kernel.org, "Adding a New System Call"); pivot_root is the only older one without a wrapper.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import select
import signal
import socket
import struct

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
NAMESPACES = {
    "user": NEWUSER,
    "ipc": NEWIPC,
    "uts": NEWUTS,
    "net": NEWNET,
    "cgroup": NEWCGROUP,
    "mnt": NEWNS,
    "pid": NEWPID,
}
"""In the order in which a process enters them: user first, for the capabilities in the others."""

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_SLAVE = 16384, 1 << 19
MNT_DETACH = 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4

OUR_SIGNALS = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGXFSZ)
"""What the launcher, the inits and Python itself ignore; a program that is executed starts with the defaults."""

PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NAME = 3, 4, 24, 15
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
CAP_SYS_CHROOT, CAP_SYS_ADMIN = 18, 21
ENTERING = (CAP_SYS_ADMIN, CAP_SYS_CHROOT)
"""What setns(2) asks for in one's own user namespace: the second for a mount namespace."""

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _CLOSE_RANGE = 428, 429, 430, 431, 432, 436
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CREATE = 0, 1, 6

_libc = ctypes.CDLL(None, use_errno=True)
_libc_held = ctypes.PyDLL(None, use_errno=True)  # the interpreter's lock stays held: it is in the same state in a child


def _check(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _syscall(what: str, number: int, *args: int | str | bytes) -> int:
    values = [a.encode() if isinstance(a, str) else a for a in args]
    return _check(
        what,
        _libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in values]),
    )


def unshare(flags: int) -> None:
    _check(f"unshare({flags:#x})", _libc.unshare(flags))


def fork_into(flags: int) -> int:
    """Fork into new namespaces, as fork(2) with the flags of clone(2): 0 in the child, which is pid 1 if NEWPID is set.

    It saves the second fork that unshare(NEWPID) takes. Only for a process with one thread, and without the hooks that
    os.fork runs: what they would reset is as it was.
    """
    number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
    pid = _libc_held.syscall(ctypes.c_long(number), ctypes.c_ulong(flags | signal.SIGCHLD), None, None, None, None)
    return _check(f"clone({flags:#x})", pid)


def setns(fd: int, kind: int) -> None:
    _check(f"setns({kind:#x})", _libc.setns(fd, kind))


def prctl(option: int, arg: int = 0) -> int:
    zero = ctypes.c_ulong(0)
    return _check(f"prctl({option})", _libc.prctl(option, ctypes.c_ulong(arg), zero, zero, zero))


def set_name(name: str) -> None:
    """The name of this process in `ps`, 15 characters at most."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    zero = ctypes.c_ulong(0)
    _check("prctl(PR_SET_NAME)", _libc.prctl(PR_SET_NAME, buffer, zero, zero, zero))


def mount(source: str, target: str, fstype: str | None = None, flags: int = 0, data: str | None = None) -> None:
    _check(
        f"mount({source!r}, {target!r}, {fstype}, {data!r})",
        _libc.mount(
            source.encode(),
            target.encode(),
            fstype.encode() if fstype else None,
            ctypes.c_ulong(flags),
            data.encode() if data else None,
        ),
    )


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    _check(f"umount2({target!r})", _libc.umount2(target.encode(), flags))


def pivot_root(new: str, old: str) -> None:
    _syscall("pivot_root", _PIVOT_ROOT[platform.machine()], new, old)


def open_tree(path: str, *, recursive: bool = True) -> int:
    """A detached clone of the mounts at path, as a descriptor (open_tree(2), Linux 5.2)."""
    flags = 1 | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _syscall(f"open_tree({path!r})", _OPEN_TREE, _AT_FDCWD, path, flags)


def mount_setattr(fd: int, attributes: int) -> None:
    """Set attributes on a detached tree and all mounts in it (mount_setattr(2), Linux 5.12)."""
    attr = struct.pack("QQQQ", attributes, 0, 0, 0)
    _syscall("mount_setattr", _MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attr, len(attr))


def move_mount(fd: int, target: str) -> None:
    """Attach a detached tree at target and close its descriptor."""
    _syscall(f"move_mount({target!r})", _MOVE_MOUNT, fd, b"", _AT_FDCWD, target, 4)
    os.close(fd)


def bind(source: str, target: str, *, recursive: bool = True) -> None:
    move_mount(open_tree(source, recursive=recursive), target)


def overlay(target: str, lowers: list[str], upper: str, work: str) -> None:
    """Mount an overlay; `volatile`, so that closing a sandbox never waits for the disk.

    `lowerdir+` (Linux 6.7) has no limit of one page for all options; older kernels get the one string.
    """
    try:
        fs = _syscall("fsopen(overlay)", _FSOPEN, "overlay", 1)
        try:
            _overlay_options(fs, lowers, upper, work)
            mounted = _syscall("fsmount(overlay)", _FSMOUNT, fs, 1, ATTR_NOSUID | ATTR_NODEV)
        finally:
            os.close(fs)
        move_mount(mounted, target)
    except OSError as e:
        if e.filename != "fsconfig(overlay lowerdir+)":
            raise
        overlay_classic(target, lowers, upper, work)


def _overlay_options(fs: int, lowers: list[str], upper: str, work: str) -> None:
    for key, value in [("lowerdir+", low) for low in lowers] + [("upperdir", upper), ("workdir", work)]:
        _syscall(f"fsconfig(overlay {key})", _FSCONFIG, fs, _FSCONFIG_SET_STRING, key, value, 0)
    for flag in ("userxattr", "volatile"):
        _syscall(f"fsconfig(overlay {flag})", _FSCONFIG, fs, _FSCONFIG_SET_FLAG, flag, 0, 0)
    _syscall("fsconfig(create overlay)", _FSCONFIG, fs, _FSCONFIG_CREATE, 0, 0, 0)


def overlay_classic(target: str, lowers: list[str], upper: str, work: str) -> None:
    """The same through mount(2), for kernels before 6.7."""
    options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},userxattr,volatile"
    mount("overlay", target, "overlay", MS_NOSUID | MS_NODEV, options)


def close_all_but(keep: list[int]) -> None:
    """Close every descriptor from 3 on that is not in keep."""
    low = 3
    for fd in [*sorted(keep), 1 << 31]:
        if fd > low:
            _syscall("close_range", _CLOSE_RANGE, low, fd - 1, 0)
        low = max(low, fd + 1)


def loopback_up() -> None:
    """Bring up `lo` in the current network namespace (SIOCSIFFLAGS, netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))


def keep_capabilities(*keep: int, dormant: bool = False) -> None:
    """Reduce the bounding and permitted sets to `keep`, and the effective one (capabilities(7)).

    dormant: hold them without effect until `raise_capabilities`, and leave nothing in the bounding set, so that what is
    executed can gain none.
    """
    zero = ctypes.c_ulong(0)
    for cap in range(64):
        if cap in keep and not dormant:
            continue
        if _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(cap), zero, zero, zero) < 0:
            break  # past the last capability of this kernel
    bits = sum(1 << cap for cap in keep)
    _set_capabilities(0 if dormant else bits, bits)


def raise_capabilities(*caps: int) -> None:
    """Make permitted capabilities effective, and these alone permitted."""
    bits = sum(1 << cap for cap in caps)
    _set_capabilities(bits, bits)


def _set_capabilities(effective: int, permitted: int) -> None:
    header = struct.pack("Ii", 0x20080522, 0)
    low, high = 0xFFFFFFFF, 32
    data = (effective & low, permitted & low, 0, effective >> high, permitted >> high, 0)
    _check("capset", _libc.capset(header, struct.pack("6I", *data)))


def has_ended(pidfd: int) -> bool:
    """Whether the process of a pidfd has ended: then it is readable (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def set_last_pid(pid: int) -> None:
    """Make `pid` the next one in the pid namespace of this process (pid_namespaces(7))."""
    with open("/proc/sys/kernel/ns_last_pid", "w") as f:
        f.write(str(pid - 1))
