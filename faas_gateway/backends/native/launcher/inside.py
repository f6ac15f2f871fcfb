"""The inits: pid 1 of a warm process's namespaces (T), and of each sandbox's (B). Standard library only.

They run none of the user's code, hold every capability of their user namespace and none outside it, and end when the
launcher's socket does, which ends all that lives in their pid namespace.

    launcher --fork--> T --fork, exec--> warm guest (G)
                       T --fork--> B --fork--> agents (commands and files)
                                   G --fork, enter B's namespaces--> guest of the sandbox
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
from typing import Any

import agent
import linux
import mounts
import wire

MOUNT_POINT = "/tmp"  # a folder that everybody may enter; mounted over in our own mount namespace only
INNER_ID = 1000  # who user code is inside: not 0, so that what it executes gains no capability
GUEST_NAMESPACES = [name for name in linux.NAMESPACES if name != "cgroup"] + ["cgroup"]


def template_init(sock: socket.socket, spec: dict[str, Any], store: str) -> None:
    """Become T. One order that serves a gateway run by a user and one run by root (an interpreter under a 0700
    home).
    """
    os.environ.clear()
    gc.disable()  # also in the inits and agents forked from here: they live shortly, or make no garbage
    privileged = os.geteuid() == 0
    trees = mounts.clone_trees(spec["readonly"], store) if privileged else []  # 1. before the host's uid 0 is gone
    if privileged:
        os.setgroups([])
    linux.unshare(linux.NEWUSER)
    wire.send(sock, {"step": "user"})
    if wire.receive(sock).message is None:  # 2. the launcher writes our maps
        os._exit(1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)  # 3. the host's root is left behind, which made us undumpable:
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # /proc/self would not be ours to write
    linux.unshare(linux.NEWNS | linux.NEWPID)  # 4. owned by the new user namespace
    if os.fork():
        os._exit(0)
    linux.set_name("faas-template")
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_SLAVE)
    if not privileged:
        trees = mounts.clone_trees(spec["readonly"], store)  # 5. a user may clone only here
    mounts.base_tree(MOUNT_POINT, spec, trees)
    wire.send(sock, {"step": "ready"})
    _template_loop(sock, spec)


def _template_loop(sock: socket.socket, spec: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # reaps by itself; who ended how is known from pidfds and guests
    while True:
        received = wire.receive(sock)
        m = received.message
        if m is None:
            os._exit(0)
        fds = received.take()
        if os.fork() == 0:
            reply = socket.socket(fileno=fds[0])
            try:
                linux.close_all_but([*fds])
                if m["op"] == "sandbox":
                    _sandbox_init(reply, m, spec)
                elif m["op"] == "guest":
                    _warm_guest(m, spec, fds[1])
            except OSError as e:
                wire.send(reply, wire.failure(e))
            os._exit(1)
        for fd in fds:
            os.close(fd)


def _warm_guest(m: dict[str, Any], spec: dict[str, Any], control: int) -> None:
    """Execute the guest in the template's own sandbox. It keeps what setns needs, in our user namespace only."""
    linux.unshare(linux.NEWNS | linux.NEWNET | linux.NEWIPC | linux.NEWUTS | linux.NEWCGROUP)
    mounts.sandbox_tree(m, spec)
    linux.loopback_up()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.dup2(control, 3, inheritable=True)
    linux.close_all_but([3])
    os.setsid()
    os.chdir("/workspace")
    os.umask(0o022)
    for number in linux.OUR_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    linux.keep_capabilities(linux.CAP_SYS_ADMIN, linux.CAP_SYS_CHROOT)
    os.execve(m["argv"][0], m["argv"], m["env"])


def _sandbox_init(reply: socket.socket, m: dict[str, Any], spec: dict[str, Any]) -> None:
    """Become B: a user namespace of its own, everything else below it."""
    linux.unshare(linux.NEWUSER | linux.NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{INNER_ID} 0 1"), ("gid_map", f"{INNER_ID} 0 1")):
        with open(f"/proc/self/{name}", "w") as f:
            f.write(text)
    if os.fork():
        os._exit(0)
    linux.unshare(linux.NEWNS | linux.NEWNET | linux.NEWIPC | linux.NEWUTS | linux.NEWCGROUP)
    linux.set_name("faas-init")
    socket.sethostname("sandbox")
    upper = mounts.sandbox_tree(m, spec)
    linux.loopback_up()
    _rlimits(m["rlimits"])
    linux.prctl(linux.PR_SET_DUMPABLE, 0)  # with capabilities that the guest lacks: /proc/1 is shut twice
    names = GUEST_NAMESPACES
    fds = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names]
    wire.send(reply, {"namespaces": names}, fds)
    for fd in fds:
        os.close(fd)
    _sandbox_loop(reply, upper)


def _rlimits(limits: dict[str, list[int]]) -> None:
    """For the agents' commands; the guest sets its own. A process limit counts in the sandbox's user namespace
    alone.
    """
    for name, (soft, hard) in limits.items():
        resource.setrlimit(getattr(resource, name), (soft, hard))


def _sandbox_loop(sock: socket.socket, upper: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        received = wire.receive(sock)
        if received.message is None:
            os._exit(0)
        fds = received.take()
        # the fork may be refused (the process limit, a full pid namespace): the sandbox has to stay
        try:
            pid = os.fork()
        except OSError as e:
            agent.refuse(fds[0], e.errno or 0)
            pid = -1
        if pid == 0:
            os.close(sock.detach())
            agent.main(fds[0], fds[1:], upper)
        for fd in fds:
            os.close(fd)
