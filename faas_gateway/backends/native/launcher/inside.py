"""The inits: pid 1 of a warm process's namespaces (T), and of each sandbox's (B). Standard library only.

They run none of the user's code, hold every capability of their user namespace and none outside it, and end when the
launcher's socket does, which ends all that lives in their pid namespace.

    launcher --fork--> T --fork, exec--> warm guest (G)
                       T --fork--> B --fork--> agents (commands and files)
                                   G --fork, enter B's namespaces--> guest of the sandbox

A snapshot leaves B and its guest, dormant, where they are, and the same happens once more below them:

                                   B --fork--> inits of the session that goes on, and of branches
                                   guest --fork, enter their namespaces--> their guests
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
from typing import Any, NoReturn

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
        if m["op"] == "sandbox":
            _fork_sandbox(fds[0], m, spec, fds)
        elif m["op"] == "user":
            _fork_user_namespace(*fds)
        elif os.fork() == 0:
            reply = socket.socket(fileno=fds[0])
            try:
                linux.close_all_but([*fds])
                _warm_guest(m, spec, fds[1])
            except OSError as e:
                wire.send(reply, wire.failure(e))
            os._exit(1)
        for fd in fds:
            os.close(fd)


def _warm_guest(m: dict[str, Any], spec: dict[str, Any], control: int) -> None:
    """Execute the guest in the template's own sandbox. It keeps what setns needs, in our user namespace only."""
    linux.unshare(linux.NEWNS | linux.NEWNET | linux.NEWIPC | linux.NEWUTS | linux.NEWCGROUP)
    mounts.box_tree(m)
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
    linux.keep_capabilities(*linux.ENTERING)
    os.execve(m["argv"][0], m["argv"], m["env"])


def _fork_user_namespace(fd: int, above: int) -> None:
    """Make a user namespace below another one, and send it.

    Here, where no user code can see it. To write its own maps a process has to be dumpable; code in the namespace
    above, which owns this one by its user id, could otherwise read it, and enter the base tree (ptrace(2)).
    """
    if os.fork():
        return
    reply = socket.socket(fileno=fd)
    try:
        linux.setns(above, linux.NEWUSER)
        outer = os.getuid()
        linux.unshare(linux.NEWUSER)
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
        _write_maps(outer)
        wire.send(reply, {"made": True}, [os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)])
    except OSError as e:
        wire.send(reply, wire.failure(e))
    finally:
        os._exit(0)


def _fork_sandbox(fd: int, m: dict[str, Any], spec: dict[str, Any], keep: list[int], user: int = -1) -> None:
    """Fork an init into namespaces of its own, below ours; it answers on fd. We are in the base tree.

    user: its user namespace, where that was made already.
    """
    outer = os.getuid()
    own = [name for name in GUEST_NAMESPACES if name not in m["shared"]]
    flags = 0
    for name in own:
        flags |= linux.NAMESPACES[name]
    try:
        if user < 0:
            pid = linux.fork_into(flags)
        else:
            pid = linux.fork_into(0)
            if pid == 0:
                _fork_in_user_namespace(fd, user, flags & ~linux.NEWUSER)
    except OSError as e:
        with socket.socket(fileno=os.dup(fd)) as reply:
            wire.send(reply, wire.failure(e))
        return
    if pid:
        return
    reply = socket.socket(fileno=fd)
    try:
        linux.close_all_but(keep)
        _sandbox_init(reply, m, spec, own, outer if user < 0 and "user" in own else None)
    except OSError as e:
        wire.send(reply, wire.failure(e))
    finally:
        os._exit(1)


def _fork_in_user_namespace(fd: int, user: int, flags: int) -> None:
    """Returns in the init."""
    try:
        linux.setns(user, linux.NEWUSER)
        if linux.fork_into(flags):
            os._exit(0)
    except OSError as e:
        wire.send(socket.socket(fileno=fd), wire.failure(e))
        os._exit(1)


def _sandbox_init(
    reply: socket.socket, m: dict[str, Any], spec: dict[str, Any], own: list[str], outer: int | None
) -> None:
    """Become B, in a user namespace and a pid namespace below those of whom we were forked from.

    It stays in a copy of the base tree, for the sandboxes below it; its own tree is in another mount namespace.
    outer: our id in the user namespace above, where our own has no maps yet.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if outer is not None:  # straight below T: what is above us runs no user code
        linux.prctl(linux.PR_SET_DUMPABLE, 1)  # /proc/self has to be ours to write
        _write_maps(outer)
    linux.set_name("faas-init")
    mounts.box_tree(m)
    base = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    linux.unshare(linux.NEWNS)
    if "uts" in own:
        socket.sethostname("sandbox")
    upper = mounts.sandbox_tree(m, spec)
    listeners: list[socket.socket] = []
    if "net" in own:
        linux.loopback_up()
        listeners = [_listener(port) for port in m["listen"]]
    fds = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in own]
    tree = os.dup(fds[own.index("mnt")])
    linux.setns(base, linux.NEWNS)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)  # /proc/1 is shut, also to who has every capability in our user namespace
    wire.send(reply, {"namespaces": own}, [*fds, upper, *(s.fileno() for s in listeners)])
    for fd in fds:
        os.close(fd)
    for listener in listeners:
        listener.close()
    _Init(reply, spec, m["rlimits"], upper, base, tree).serve()


def _write_maps(outer: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INNER_ID} {outer} 1"),
        ("gid_map", f"{INNER_ID} {outer} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as f:
            f.write(text)


def _listener(port: int) -> socket.socket:
    """A listening socket of the sandbox's own network, which the gateway serves from outside. Before any user code."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


class _Init:
    """The loop of B: forks agents into the sandbox, and inits of sandboxes below this one."""

    def __init__(
        self,
        sock: socket.socket,
        spec: dict[str, Any],
        rlimits: dict[str, list[int]],
        upper: int,
        base: int,
        tree: int,
    ) -> None:
        self._sock = sock
        self._spec = spec
        self._rlimits = rlimits
        self._upper = upper
        self._base = base
        self._tree = tree

    def serve(self) -> NoReturn:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            received = wire.receive(self._sock)
            m = received.message
            if m is None:
                os._exit(0)
            fds = received.take()
            if m["op"] == "agent":
                self._agent(fds)
            elif m["op"] == "sandbox":
                self._sandbox(m, fds)
            elif m["op"] == "clear":
                self._clear(m["keep"])
            for fd in fds:
                os.close(fd)

    def _agent(self, fds: list[int]) -> None:
        # the fork may be refused (the process limit, a full pid namespace): the sandbox has to stay
        try:
            pid = os.fork()
        except OSError as e:
            agent.refuse(fds[0], e.errno or 0)
            return
        if pid == 0:
            try:
                os.close(self._sock.detach())
                self._enter()
                # an init has none of these: in the user namespaces that it makes, a process limit counts all below
                for name, (soft, hard) in self._rlimits.items():
                    resource.setrlimit(getattr(resource, name), (soft, hard))
                agent.main(fds[0], fds[1:], self._upper)
            finally:
                os._exit(1)

    def _enter(self) -> None:
        linux.setns(self._tree, linux.NEWNS)
        os.close(self._tree)
        os.close(self._base)

    def _sandbox(self, m: dict[str, Any], fds: list[int]) -> None:
        user = fds.pop(1) if len(fds) > 1 else -1
        if "ipc" in m["shared"]:  # it goes on for this one, and takes the shared memory along
            linux.setns(self._tree, linux.NEWNS)
            try:
                m["shm"] = linux.open_tree("/dev/shm")
            finally:
                linux.setns(self._base, linux.NEWNS)
            fds.append(m["shm"])
        _fork_sandbox(fds[0], m, self._spec, fds, user)
        if user >= 0:
            os.close(user)

    def _clear(self, keep: int) -> None:
        """Kill what lives in this sandbox but ourselves and one; what lives in sandboxes below it goes on.

        Not by a process of its own: code in the sandbox could stop that one, and it would find those that the next
        sandbox is made by.
        """
        linux.setns(self._tree, linux.NEWNS)
        try:
            for entry in os.listdir("/proc"):
                if entry.isdigit() and int(entry) not in (1, keep):
                    _kill_if_here(entry)
        finally:
            linux.setns(self._base, linux.NEWNS)


def _kill_if_here(entry: str) -> None:
    try:
        with open(f"/proc/{entry}/status") as f:
            levels = next(line for line in f if line.startswith("NSpid:")).split()
        if len(levels) == 2:  # the label and one number: in this pid namespace itself (proc(5))
            os.kill(int(entry), signal.SIGKILL)
    except (OSError, StopIteration):
        return  # it has just ended
