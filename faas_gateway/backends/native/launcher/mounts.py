"""What a sandbox sees: every mount of it, in two functions. Standard library only.

`base_tree` is made once per warm process and holds what its sandboxes share; `sandbox_tree` adds what is each one's
own.

    base tree (never seen by user code)          a sandbox
    /store   layers and upper directories        /            overlay: upper, layers..., skeleton
    /ro/N    the host's trees, read-only         /usr ...     clones of /ro/N
    /skel    lowest layer: folders, /etc         /dev         clone of /dev, own /dev/shm and /dev/pts
    /dev     six devices, read-only              /proc        of its own pid namespace, masked
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import linux
from linux import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT

MASKED = [  # what speaks of the host, or to it (the kernel's own list of sensitive files, proc(5))
    *(
        "acpi",
        "asound",
        "config.gz",
        "interrupts",
        "kallsyms",
        "kcore",
        "key-users",
        "keys",
        "kmsg",
        "kpagecgroup",
    ),
    *(
        "kpagecount",
        "kpageflags",
        "latency_stats",
        "sched_debug",
        "scsi",
        "sysrq-trigger",
        "timer_list",
        "timer_stats",
    ),
]
READ_ONLY = ["sys", "bus", "fs", "irq"]
DEVICES = ["null", "zero", "full", "random", "urandom"]
COPIED_ETC = [
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "mime.types",
    "ssl/certs",
    "fonts",
]

_ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
    "nobody:x:65534:65534::/:/bin/false\n",
    "group": "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "resolv.conf": "",
}


def clone_trees(readonly: list[Any], store: str) -> list[tuple[int, str]]:
    """Detached clones of the host's trees (read-only) and of the store, each with its place in the base tree.

    Run by root before its uid is gone: this is what makes an interpreter under a 0700 home usable.
    """
    trees: list[tuple[int, str]] = []
    for number, (source, _target, _is_folder) in enumerate(readonly):
        fd = linux.open_tree(source)
        linux.mount_setattr(fd, linux.ATTR_RDONLY | linux.ATTR_NOSUID | linux.ATTR_NODEV)
        trees.append((fd, f"/ro/{number}"))
    fd = linux.open_tree(store)
    linux.mount_setattr(fd, linux.ATTR_NOSUID | linux.ATTR_NODEV)
    trees.append((fd, "/store"))
    return trees


def base_tree(root: str, spec: dict[str, Any], trees: list[tuple[int, str]]) -> None:
    """Build the base tree on root and make it `/`; the host's mounts are gone afterwards."""
    linux.mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64m,nr_inodes=16k")
    for folder in ("proc", "dev", "store", "ro", "new", "empty", "skel", "mask"):
        os.mkdir(f"{root}/{folder}")
    _skeleton(f"{root}/skel", spec)
    for fd, place in trees:
        target, source_is_folder = root + place, _is_folder(fd)
        os.mkdir(target) if source_is_folder and not os.path.isdir(target) else None
        if not source_is_folder:
            open(target, "w").close()
        linux.move_mount(fd, target)
    _devices(f"{root}/dev")
    _masks(root)
    linux.mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.chdir(root)
    linux.pivot_root(".", ".")
    linux.unmount(".")
    os.chdir("/")


def _is_folder(fd: int) -> bool:
    return os.path.isdir(f"/proc/self/fd/{fd}")


def _skeleton(skel: str, spec: dict[str, Any]) -> None:
    for folder in (
        "proc",
        "dev",
        "tmp",
        "workspace",
        "home/user",
        "etc/ssl",
        "run/faas",
        "root",
        "opt",
        "mnt",
        "var/tmp",
        "var/log",
    ):
        os.makedirs(f"{skel}/{folder}", exist_ok=True)
    for folder in ("tmp", "var/tmp"):  # in the overlay: a snapshot holds them as all other files
        os.chmod(f"{skel}/{folder}", 0o1777)  # noqa: S103 - as everywhere
    for name, target in spec["symlinks"].items():
        os.symlink(target, f"{skel}/{name}")
    for name, text in _ETC.items():
        with open(f"{skel}/etc/{name}", "w") as f:
            f.write(text)
    for name in COPIED_ETC:
        source, target = f"/etc/{name}", f"{skel}/etc/{name}"
        try:
            if os.path.isdir(source):
                shutil.copytree(source, target, symlinks=True, ignore=_unreadable, ignore_dangling_symlinks=True)
            elif os.path.exists(source):
                shutil.copy(source, target)
        except (OSError, shutil.Error):
            shutil.rmtree(target, ignore_errors=True)  # a convenience; the host may keep it from us
    for _source, target, is_folder in spec["readonly"]:
        if is_folder:
            os.makedirs(skel + target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(skel + target), exist_ok=True)
            open(skel + target, "a").close()


def _unreadable(folder: str, names: list[str]) -> list[str]:
    paths = [(name, f"{folder}/{name}") for name in names]
    return [name for name, path in paths if not os.path.islink(path) and not os.access(path, os.R_OK)]


def _devices(dev: str) -> None:
    linux.mount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k,nr_inodes=64")
    for name in DEVICES:
        open(f"{dev}/{name}", "w").close()
        linux.mount(f"/dev/{name}", f"{dev}/{name}", None, MS_BIND)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(target, f"{dev}/{name}")
    os.mkdir(f"{dev}/shm")
    os.mkdir(f"{dev}/pts")


def box_tree(m: dict[str, Any]) -> None:
    """Make the folders of one sandbox's overlay, in the base tree, where those of the sandboxes below it find them.

    m: `box` (its folder below /store), `files` ("overlay" or "tmpfs"), `disk_bytes`, `inodes`.
    """
    box = f"/store/{m['box']}"
    if m["files"] == "tmpfs":
        linux.mount(
            "tmpfs",
            box,
            "tmpfs",
            MS_NOSUID | MS_NODEV,
            f"mode=755,size={m['disk_bytes']},nr_inodes={m['inodes']}",
        )
    for folder in ("u", "w"):
        os.mkdir(f"{box}/{folder}", 0o755)


def sandbox_tree(m: dict[str, Any], spec: dict[str, Any]) -> int:
    """Build one sandbox's root in a mount namespace of its own and make it `/`.

    m: as for `box_tree`, and `layers` (folders below /store that lie above the image's, top first), `tmpfs_bytes`.
    Returns a descriptor of the upper directory, from which its disk use is measured.
    """
    box = f"/store/{m['box']}"
    upper = os.open(f"{box}/u", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    new = "/new"
    lowers = [f"/store/{layer}" for layer in (*m["layers"], *spec["layers"])]
    linux.overlay(new, [*lowers, "/skel"], f"{box}/u", f"{box}/w")
    for number, (_source, target, _is_folder) in enumerate(spec["readonly"]):
        _make_place(f"/ro/{number}", new + target)
        linux.bind(f"/ro/{number}", new + target)
    _bind_read_only("/dev", f"{new}/dev")
    _shared_memory(m, f"{new}/dev/shm")
    linux.mount("devpts", f"{new}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    # dormant relatives in the same pid namespace are not to be seen; they are not dumpable (proc(5))
    hidden = "hidepid=2" if "pid" in m["shared"] else None
    linux.mount("proc", f"{new}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, hidden)
    linux.set_last_pid(m["pid"])  # before /proc/sys goes read-only; acts on our own pid namespace
    _mask(f"{new}/proc")
    os.chdir(new)
    linux.pivot_root(".", ".")
    linux.unmount(".")
    os.chdir("/")
    return upper


def _shared_memory(m: dict[str, Any], target: str) -> None:
    """/dev/shm: the one of the sandbox that this one goes on for, where there is one."""
    if "ipc" in m["shared"]:
        linux.move_mount(m["shm"], target)
    else:
        scratch = f"mode=1777,size={m['tmpfs_bytes']},nr_inodes={m['inodes']}"
        linux.mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, scratch)


def _make_place(source: str, target: str) -> None:
    """A mount point that the skeleton could not have: below a tmpfs, or in a layer that lacks it."""
    if os.path.lexists(target):
        return
    if os.path.isdir(source):
        os.makedirs(target)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "w").close()


def _bind_read_only(source: str, target: str) -> None:
    fd = linux.open_tree(source)
    linux.mount_setattr(fd, linux.ATTR_RDONLY | linux.ATTR_NOSUID)
    linux.move_mount(fd, target)


def _masks(root: str) -> None:
    """What covers a file and a folder of /proc: read-only already, so that covering takes one call each."""
    open(f"{root}/mask/file", "w").close()
    os.mkdir(f"{root}/mask/folder")
    _bind_read_only(f"{root}/dev/null", f"{root}/mask/file")
    _bind_read_only(f"{root}/empty", f"{root}/mask/folder")


def _mask(proc: str) -> None:
    for name in MASKED:
        try:
            linux.mount("/mask/file", f"{proc}/{name}", None, MS_BIND)  # a bind has the flags of what is bound
        except NotADirectoryError:
            linux.mount("/mask/folder", f"{proc}/{name}", None, MS_BIND)
        except FileNotFoundError:
            continue
    for name in READ_ONLY:
        path = f"{proc}/{name}"
        linux.mount(path, path, None, MS_BIND)
        linux.mount("none", path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
