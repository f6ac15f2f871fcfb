"""Why a machine refuses namespaces, and the command that lifts it."""

from __future__ import annotations

import errno as errno_names
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ALL_IDS = 4294967295
_CLONE_FLAGS = {
    0x00020000: "CLONE_NEWNS",
    0x10000000: "CLONE_NEWUSER",
    0x20020000: "CLONE_NEWNS|CLONE_NEWPID",
    0x30000000: "CLONE_NEWUSER|CLONE_NEWPID",
}
MAX_USER_NAMESPACES = "/proc/sys/user/max_user_namespaces"
CONTAINER_REMEDY = (
    "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
    " --security-opt systempaths=unconfined ..."
)


@dataclass(frozen=True)
class Facts:
    """What the kernel tells an unprivileged process about the restrictions on namespaces."""

    release: str = ""
    """As `uname -r` says it."""
    euid: int = 1000
    max_user_namespaces: int | None = None
    """None where the kernel does not say."""
    unprivileged_userns_clone: int | None = None
    """Debian's and Arch's own switch."""
    apparmor_restricts: int | None = None
    """Ubuntu's, from 23.10 on."""
    seccomp: bool = False
    """A filter of someone else's is on this process."""
    selinux: bool = False
    chroot: bool = False
    container: bool = False
    masked_proc: bool = False
    """Something is mounted over parts of /proc, so the kernel refuses an unmasked one."""


def facts() -> Facts:
    """Read them. Never raises: what cannot be read counts as not there."""
    mount_points = [line.split()[4] for line in _read("/proc/self/mountinfo").splitlines()]
    return Facts(
        release=os.uname().release,
        euid=os.geteuid(),
        max_user_namespaces=_number(MAX_USER_NAMESPACES),
        unprivileged_userns_clone=_number("/proc/sys/kernel/unprivileged_userns_clone"),
        apparmor_restricts=_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        seccomp="\nSeccomp:\t2" in _read("/proc/self/status"),
        selinux=_read("/sys/fs/selinux/enforce").strip() == "1",
        chroot=bool(mount_points) and "/" not in mount_points,
        container=_in_container(),
        masked_proc=any(point.startswith("/proc/") for point in mount_points),
    )


def _in_container() -> bool:
    marks = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
    if any(os.path.exists(mark) for mark in marks):
        return True
    ids = _read("/proc/self/uid_map").split()
    return len(ids) >= 3 and int(ids[2]) != ALL_IDS


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _number(path: str) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def explain(errno: int, call: str, known: Facts | None = None) -> tuple[str, str]:
    """Why a call that makes a sandbox failed, and what to do about it.

    Args:
        errno: the error number of the call.
        call: the call as it was made, such as "unshare(CLONE_NEWUSER)" or "mount(proc)".
        known: the facts to judge by; this machine's by default.

    Returns:
        The problem as one sentence, and the remedy: a command where there is one.
    """
    known = known or facts()
    call = re.sub(r"0x[0-9a-f]+", lambda found: _CLONE_FLAGS.get(int(found[0], 16), found[0]), call)
    name = errno_names.errorcode.get(errno, str(errno))
    if re.search(r"\bproc\b", call) and errno in (errno_names.EPERM, errno_names.EACCES) and known.masked_proc:
        return (
            f"{call} failed with {name}: this container hides parts of /proc, and Linux then refuses a"
            " sandbox its own (podman has --security-opt unmask=ALL, Kubernetes procMount: Unmasked)",
            "docker run --security-opt systempaths=unconfined ...",
        )
    if call.startswith("chown") and errno == errno_names.EINVAL:
        return (
            f"{call} failed with {name}: the container that this runs in has no such user id for root to hand"
            " sandboxes to",
            "start it as an ordinary user of the container (docker run --user 1000 ...)",
        )
    if errno in (errno_names.ENOSYS, errno_names.EINVAL):
        return _not_in_kernel(call, name, known)
    if errno in (errno_names.ENOSPC, errno_names.EUSERS):
        return _limit_reached(call, name, known)
    if errno in (errno_names.EPERM, errno_names.EACCES):
        return _forbidden(call, name, known)
    if errno == errno_names.ENOENT and "last_pid" in call:
        return (
            f"{call} failed with {name}: the kernel was built without CONFIG_CHECKPOINT_RESTORE",
            "boot the distribution's standard kernel",
        )
    return (
        f"{call} failed with {name}: {os.strerror(errno)}",
        "sudo dmesg | tail (the kernel often says more)",
    )


def is_wsl1(release: str) -> bool:
    """True for the first Windows Subsystem for Linux, which is no Linux kernel."""
    return release.endswith("-Microsoft")


def _not_in_kernel(call: str, name: str, known: Facts) -> tuple[str, str]:
    if is_wsl1(known.release):
        return (
            "WSL 1 has no Linux kernel, so it has no namespaces",
            "wsl --set-version <distribution> 2 (in Windows)",
        )
    if known.seccomp:
        return f"{call} failed with {name}: a container's seccomp filter hides it", CONTAINER_REMEDY
    return (
        f"{call} failed with {name}: the kernel {known.release} does not have it",
        "boot a kernel of 5.12 or later with CONFIG_USER_NS=y: any distribution's since 2022",
    )


def _limit_reached(call: str, name: str, known: Facts) -> tuple[str, str]:
    where = "; set it outside, on the host of this container" if known.container else ""
    if known.max_user_namespaces == 0:
        problem = "user namespaces are switched off (user.max_user_namespaces is 0)"
    else:
        problem = (
            "a limit on namespaces is reached, here or in an outer user namespace"
            f" (user.max_user_namespaces is {known.max_user_namespaces} here)"
        )
    return f"{call} failed with {name}: {problem}{where}", "sudo sysctl -w user.max_user_namespaces=28633"


def _forbidden(call: str, name: str, known: Facts) -> tuple[str, str]:
    said = f"{call} failed with {name}"
    if known.chroot:
        return f"{said}: processes in a chroot may not make user namespaces", "start it outside the chroot"
    if known.max_user_namespaces == 0:
        return _limit_reached(call, name, known)
    if call.startswith("open_tree") and known.euid == 0:
        return (
            f"{said}: this root has no rights over the mounts around it, as in a container",
            "start it as an ordinary user of the container (docker run --user 1000 ...), or with"
            " docker run --cap-add SYS_ADMIN ...",
        )
    if known.unprivileged_userns_clone == 0 and known.euid != 0:
        return (
            f"{said}: kernel.unprivileged_userns_clone is 0",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        )
    if known.seccomp:
        return f"{said}: a seccomp filter, such as a container's, refuses it", CONTAINER_REMEDY
    if known.apparmor_restricts and known.euid != 0:
        return (
            f"{said}: AppArmor leaves user namespaces to programs that have a profile for it"
            f" (Ubuntu 23.10 and later), and {os.path.realpath(sys.executable)} has none",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
    if known.container:
        return f"{said}: the container that this runs in refuses it", CONTAINER_REMEDY
    if known.selinux:
        return (
            f"{said}, likely by SELinux",
            "sudo ausearch -m avc -ts recent (names the rule that refuses it)",
        )
    return (
        f"{said}: a security module refuses it",
        "sudo dmesg | tail (most modules say there what they refused)",
    )
