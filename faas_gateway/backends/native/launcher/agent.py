"""What acts inside a sandbox for the gateway: one process, forked from its init, for one command or one file operation.

It sees the sandbox's files only, holds no capability by the time it looks at a path that somebody chose, and speaks to
the gateway over a stream of frames (see framing.py). The gateway treats what it says as hostile: user code might have
got at it. Standard library only; every module is imported before the launcher forks.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
from typing import Any, NoReturn

import accounting
import filesystem
import filter as seccomp
import framing
import linux

_PROGRAM = seccomp.program()  # read now: its file is not to be seen from inside


def refuse(fd: int, number: int) -> None:
    """Say that no agent could be started."""
    with socket.socket(fileno=os.dup(fd)) as conn:
        framing.send(conn, {"error": os.strerror(number), "errno": number, "refused": True})


def main(fd: int, stdio: list[int], upper: int) -> NoReturn:
    """Serve the one operation that the first frame names, then exit."""
    conn = socket.socket(fileno=fd)
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        linux.set_name("faas-agent")
        first = framing.receive(conn)
        if first is not None:
            op = first[0]
            if op["op"] == "usage":  # needs the init's capabilities, and looks at no path that anyone chose
                framing.send(conn, accounting.usage(upper, op["walk_s"], op["disk_bytes"]))
            else:
                linux.keep_capabilities()
                seccomp.install(_PROGRAM)
                _serve(conn, op, stdio)
        status = 0
    except (OSError, ValueError, RecursionError) as e:
        number = getattr(e, "errno", None) or 22
        with contextlib.suppress(OSError):
            framing.send(conn, {"error": getattr(e, "strerror", None) or str(e), "errno": number})
    finally:
        os._exit(status)


def _serve(conn: socket.socket, op: dict[str, Any], stdio: list[int]) -> None:
    kind = op["op"]
    os.makedirs("/workspace", exist_ok=True)  # code may have deleted it
    os.chdir("/workspace")
    if kind == "exec":
        _execute(conn, op, stdio)
    elif kind == "list":
        framing.send(conn, {"entries": filesystem.listing(op["path"])})
    elif kind == "stat":
        framing.send(conn, {"entries": [filesystem.entry(op["path"])]})
    elif kind == "delete":
        filesystem.delete(op["path"])
        framing.send(conn, {"ok": True})
    elif kind == "read":
        filesystem.read(conn, op["path"])
    elif kind == "write":
        filesystem.write(conn, op["path"], untar=op["untar"])
        framing.send(conn, {"ok": True})
    else:
        raise ValueError(f"unknown operation {kind!r}")


def _execute(conn: socket.socket, op: dict[str, Any], stdio: list[int]) -> None:
    """Run a command on the three descriptors (stdin, stdout, stderr) in a session of its own."""
    script = op.get("script")
    if script is not None:
        os.makedirs(os.path.dirname(script["path"]), exist_ok=True)
        with open(script["path"], "w") as f:
            f.write(script["text"])
    broken_read, broken_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(op, stdio, broken_write)
    os.close(broken_write)
    with os.fdopen(broken_read, "rb") as f:
        broken = f.read(16).decode()  # end of file: the exec has worked
    for fd in stdio:
        os.close(fd)
    if broken:
        os.waitpid(pid, 0)
        number, _, what = broken.partition(" ")
        subject = op["argv"][0] if what == "command" else op["cwd"] if what == "folder" else what
        framing.send(conn, {"error": f"{subject}: {os.strerror(int(number))}", "errno": int(number), "refused": True})
        return
    framing.send(conn, {"started": True})
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(conn, select.POLLIN)
    while pidfd not in [fd for fd, _ in poll.poll()]:
        order = framing.receive(conn)
        if order is None:  # the gateway gave up, or is gone
            _signal_group(pid, signal.SIGKILL)
            poll.unregister(conn)
        else:
            _signal_group(pid, int(order[0]["signal"]))
    _, status = os.waitpid(pid, 0)
    if script is not None:
        filesystem.settle_script(script["path"], script["state"])
    framing.send(conn, {"exit": os.waitstatus_to_exitcode(status)})


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):  # it may just have ended
        os.killpg(pid, number)


def _become(op: dict[str, Any], stdio: list[int], broken: int) -> NoReturn:
    step = "limits"
    try:
        os.setsid()
        for target, source in enumerate(stdio):
            os.dup2(source, target, inheritable=True)
        keep = os.dup2(broken, 3, inheritable=False)
        linux.close_all_but([keep])
        for name, (soft, hard) in op["rlimits"].items():
            resource.setrlimit(getattr(resource, name), (soft, hard))
        for number in linux.OUR_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        step = "folder"
        os.chdir(op["cwd"] or "/workspace")
        step = "command"
        linux.prctl(linux.PR_SET_DUMPABLE, 1)  # from here on it is the user's
        os.execvpe(op["argv"][0], op["argv"], op["env"])
    except (OSError, ValueError) as e:
        os.write(3, f"{getattr(e, 'errno', None) or 22} {step}".encode())
    os._exit(127)
