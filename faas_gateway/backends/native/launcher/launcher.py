"""The launcher: one single-threaded process, apart from the gateway, that makes sandboxes on request.

It is started by `python -I -S` with an empty environment and a bare command line, because every init is a fork of it:
/proc/1/environ and /proc/1/cmdline of a sandbox are the launcher's. Its modules, the guest's that are shared with it and
the seccomp filter's are top-level ones (link.py sets the path). When the gateway goes, it ends every sandbox, takes away
what they held, and exits.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
from typing import Any

import boxes
import cgroups
import inside
import linux
import schedule
import wire

START_S = 20.0
PRELOAD_S = 300.0
FIRST_PID, PID_SPAN = 300, 4_000_000


class Template:
    """A warm process and its init: sandboxes are forked from it."""

    def __init__(self, name: str, spec: dict[str, Any], init: socket.socket) -> None:
        self.name = name
        self.spec = spec
        self.init = init
        self.control: socket.socket | None = None
        self.files: str | None = None
        self.boxes: set[str] = set()


class Launcher:
    def __init__(self, gateway: socket.socket, store: str, host_uid: int) -> None:
        self.loop = schedule.Loop()
        self.gateway = gateway
        self.host_uid = host_uid
        self.run = boxes.Run(store, host_uid)
        self.cgroups = cgroups.detect(f"faas-{self.run.name}")
        self.run.note_groups(self.cgroups)
        self.templates: dict[str, Template] = {}
        self.boxes: dict[str, boxes.Box] = {}
        self._pid_max = min(PID_SPAN, int(_read("/proc/sys/kernel/pid_max")) - 1000)
        self._counter = secrets.randbelow(1000)

    # ---- requests of the gateway ------------------------------------------------------------------------
    def serve(self) -> None:
        wire.send(
            self.gateway,
            {"event": "ready", "cgroups": self.cgroups.version, "controllers": list(self.cgroups.parents)},
        )
        self.loop.watch(self.gateway.fileno(), self._request)
        self.loop.run()

    def _request(self) -> None:
        received = wire.receive(self.gateway)
        m = received.message
        if m is None or m["op"] == "stop":
            self.loop.stopping = True
            return
        if m["op"] == "agent":
            self._agent(m, received)
        else:
            task = {"template": self._template, "new": self._new, "close": self._close, "cool": self._cool}[m["op"]]
            self.loop.start(self._answered(m, task))
        received.close()

    def _answered(self, m: dict[str, Any], task: Any) -> schedule.Task:
        """Run a task and answer its call; an OSError is the answer, with the call that failed."""
        fds: list[int] = []
        try:
            answer, fds = yield from task(m)
        except OSError as e:
            what = f"{e.filename}: " if e.filename else ""
            answer = {
                "error": f"{what}{e.strerror or e}",
                "errno": e.errno or 0,
                "where": str(e.filename or ""),
            }
        self._tell({"call": m["call"], **answer}, fds)
        for fd in fds:
            os.close(fd)

    def _tell(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        try:
            wire.send(self.gateway, message, fds)
        except OSError:
            self.loop.stopping = True

    def _next_pid(self) -> int:
        """A pid that no living relative has: OpenSSL and tempfile notice a fork by the pid."""
        self._counter += 1
        return FIRST_PID + self._counter % (self._pid_max - FIRST_PID)

    # ---- templates --------------------------------------------------------------------------------------
    def _template(self, m: dict[str, Any]) -> Any:
        near, far = wire.pair()
        pid = os.fork()
        if pid == 0:
            self._become_init(far, near, m["spec"])
        far.close()
        try:
            _expect((yield near, START_S))
            self._write_maps(pid)
            wire.send(near, {"go": True})
            _expect((yield near, START_S))
        except OSError:
            near.close()
            raise
        template = Template(m["name"], m["spec"], near)
        try:
            if m["spec"].get("argv"):
                yield from self._warm(template, m)
        except OSError:
            near.close()
            raise
        self.templates[m["name"]] = template
        self.loop.watch(near.fileno(), lambda: self._init_gone(template))
        return {"files": template.files}, []

    def _become_init(self, far: socket.socket, near: socket.socket, spec: dict[str, Any]) -> None:
        try:
            near.close()
            linux.close_all_but([2, far.fileno()])
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            inside.template_init(far, spec, self.run.store)
        except OSError as e:
            wire.send(far, {"error": e.strerror or str(e), "errno": e.errno or 0, "where": str(e.filename or "")})
        finally:
            os._exit(1)

    def _write_maps(self, pid: int) -> None:
        uid = self.host_uid or os.getuid()
        gid = self.host_uid or os.getgid()
        maps = [("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")]
        if not self.host_uid:
            maps.insert(0, ("setgroups", "deny"))
        for name, text in maps:
            with open(f"/proc/{pid}/{name}", "w") as f:
                f.write(text)

    def _warm(self, template: Template, m: dict[str, Any]) -> Any:
        """Start the guest that sessions are forked from, and wait until it has loaded what it preloads."""
        for files in ("overlay", "tmpfs"):
            box = self.run.make_box(f"t-{template.name}-{files}")
            reply, reply_far = wire.pair()
            control, control_far = wire.pair()
            order = {"op": "guest", "box": box, "files": files, "pid": self._next_pid(), **m["sizes"]}
            order |= {"argv": m["spec"]["argv"], "env": m["spec"]["env"]}
            wire.send(template.init, order, [reply_far.fileno(), control_far.fileno()])
            reply_far.close()
            control_far.close()
            received = yield reply, START_S  # end of file: the exec has worked
            reply.close()
            if received.message is not None:
                control.close()
                if files == "overlay" and "overlay" in received.message["error"]:
                    continue
                raise _error(received.message)
            template.files = files
            try:
                _expect((yield control, PRELOAD_S), "the warm process ended while it loaded its modules")
            except OSError:
                control.close()
                raise
            template.control = control
            self.loop.watch(control.fileno(), lambda: self._guest_spoke(template))
            return

    def _guest_spoke(self, template: Template) -> None:
        assert template.control is not None
        received = wire.receive(template.control)
        if received.message is None:
            self._drop_guest(template)
            self._tell({"event": "template_gone", "name": template.name})
        else:  # it reaps the guests that were forked from it
            self._tell({"event": "guest_exit", **received.message})

    def _drop_guest(self, template: Template) -> None:
        if template.control is not None:
            self.loop.unwatch(template.control.fileno())
            template.control.close()
            template.control = None

    def _init_gone(self, template: Template) -> None:
        """The template's init has ended, and with it everything below it."""
        self._drop_guest(template)
        self.loop.unwatch(template.init.fileno())
        template.init.close()
        self.templates.pop(template.name, None)
        self._tell({"event": "template_gone", "name": template.name})

    def _cool(self, m: dict[str, Any]) -> Any:
        template = self.templates.get(m["name"])
        if template is not None:
            self._drop_guest(template)
            self._retire(template)
        return {}, []
        yield  # a task like the others

    def _retire(self, template: Template) -> None:
        """End an init whose guest was dropped, once no sandbox lives below it."""
        if template.control is None and template.spec.get("argv") and not template.boxes:
            self.loop.unwatch(template.init.fileno())
            template.init.close()
            self.templates.pop(template.name, None)

    # ---- sandboxes --------------------------------------------------------------------------------------
    def _new(self, m: dict[str, Any]) -> Any:
        template = self.templates.get(m["template"])
        wants_guest = template is not None and bool(template.spec.get("argv"))
        if template is None or (wants_guest and template.control is None):
            raise OSError(3, "the warm process is gone")
        box = boxes.Box(m["box"], self.run, template.name)
        template.boxes.add(box.name)
        try:
            namespaces = yield from self._namespaces(template, box, m)
            try:
                fds = (
                    (yield from self._guest(template, box, m, namespaces)) if wants_guest else self._limited(box, m, [])
                )
            finally:
                namespaces.close()
        except OSError:
            yield from self._end(box)
            raise
        self.boxes[box.name] = box
        fds.append(os.dup(box.init_pidfd))
        groups = box.group.folders if box.group else {}
        return {
            "files": template.files,
            "enforced": box.enforced,
            "groups": groups,
            "version": self.cgroups.version,
        }, fds

    def _namespaces(self, template: Template, box: boxes.Box, m: dict[str, Any]) -> Any:
        for files in (template.files,) if template.files else ("overlay", "tmpfs"):
            near, far = wire.pair(credentials=True)
            order = {
                "op": "sandbox",
                "box": box.make(),
                "files": files,
                "pid": self._next_pid(),
                **m["sizes"],
            }
            wire.send(template.init, order | {"rlimits": m["agent_rlimits"]}, [far.fileno()])
            far.close()
            try:
                received = _expect((yield near, START_S), "the sandbox's init ended")
            except OSError as e:
                near.close()
                if template.files is None and files == "overlay" and "overlay" in str(e):
                    box.discard_files()
                    continue
                raise
            template.files = files
            box.adopt(near, received.pid)
            return received
        raise OSError(22, "neither an overlay on disk nor on tmpfs can be mounted")

    def _guest(self, template: Template, box: boxes.Box, m: dict[str, Any], namespaces: wire.Received) -> Any:
        assert namespaces.message is not None
        assert template.control is not None
        ready, ready_far = wire.pair(credentials=True)
        channel, channel_far = socket.socketpair()
        out, out_far = os.pipe2(os.O_CLOEXEC)
        err, err_far = os.pipe2(os.O_CLOEXEC)
        _widen(out)
        order = {
            "op": "fork",
            "box": box.name,
            "namespaces": namespaces.message["namespaces"],
            "token": m["token"],
        }
        order |= {
            "rlimits": m["guest_rlimits"],
            "memory_bytes": m["rlimit_memory_bytes"],
            "threads": m["threads"],
        }
        mine = [channel.detach(), out, err]
        try:
            theirs = [channel_far.fileno(), out_far, err_far, ready_far.fileno(), *namespaces.fds]
            wire.send(template.control, order, theirs)
            for fd in (out_far, err_far):
                os.close(fd)
            channel_far.close()
            ready_far.close()
            received = _expect((yield ready, START_S), "the guest ended before it was ready")
            fds = self._limited(box, m, [received.pid])
            wire.send(ready, {"go": True})
            return [*mine, *fds]
        except OSError:
            for fd in mine:
                os.close(fd)
            raise
        finally:
            ready.close()

    def _limited(self, box: boxes.Box, m: dict[str, Any], guests: list[int]) -> list[int]:
        """Put the sandbox's processes under its limits; returns pidfds of the guests."""
        fds = [os.pidfd_open(pid) for pid in guests]
        try:
            box.group = self.cgroups.create(box.name)
            if box.group is not None:
                box.enforced = box.group.limit(m["memory_bytes"], m["pids"], m["cpus"])
                box.group.add([box.init_pid, *guests])
            if "cpus" not in box.enforced and m["threads"]:
                for pid in [box.init_pid, *guests]:
                    os.sched_setaffinity(pid, sorted(os.sched_getaffinity(0))[: m["threads"]])
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def _agent(self, m: dict[str, Any], received: wire.Received) -> None:
        """Hand the descriptors to the sandbox's init; the caller sees end of file when there is none."""
        box = self.boxes.get(m["box"])
        if box is None or box.init is None:
            return
        try:
            wire.send(box.init, {"op": "agent"}, received.fds)
        except OSError:
            pass  # it is just ending: the descriptors close with us

    def _close(self, m: dict[str, Any]) -> Any:
        box = self.boxes.pop(m["box"], None)
        if box is None:
            return {}, []
        oom = box.group.oom_kills() if box.group else 0
        yield from self._end(box)
        return {"oom_kills": oom}, []

    def _end(self, box: boxes.Box) -> Any:
        """Kill what lives in a sandbox, wait for the end, give back what it held."""
        template = self.templates.get(box.template)
        if template is not None:
            template.boxes.discard(box.name)
            self._retire(template)
        box.kill()
        if box.init_pidfd >= 0:
            try:
                yield schedule.Readable(box.init_pidfd), 10.0
            except schedule.DeadlinePassed:
                pass  # a process that even SIGKILL does not end at once: tried again below
        self._release(box, 0.002)

    def _release(self, box: boxes.Box, delay_s: float) -> None:
        """A group empties a moment after its last process has ended; give up after some minutes."""
        if not box.release() and delay_s < 120:
            self.loop.later(delay_s, lambda: self._release(box, delay_s * 2))

    def close(self) -> None:
        for template in self.templates.values():
            template.init.close()
        for box in self.boxes.values():
            box.kill()
        for box in self.boxes.values():
            box.wait(5.0)
            box.release()
        self.cgroups.close()
        self.run.close()


def _expect(received: wire.Received, gone: str = "a process of the sandbox ended") -> wire.Received:
    if received.message is None:
        raise OSError(32, gone)
    if "error" in received.message:
        raise _error(received.message)
    return received


def _error(message: dict[str, Any]) -> OSError:
    return OSError(message.get("errno", 0), message["error"], message.get("where") or None)


def _widen(pipe: int) -> None:
    """A larger pipe spares wake-ups; a user has a bounded amount of them, so a refusal is fine (pipe(7))."""
    try:
        fcntl.fcntl(pipe, 1031, 256 << 10)
    except OSError:
        pass


def _read(path: str) -> str:
    with open(path) as f:
        return f.read()


def _reaper(loop: schedule.Loop) -> None:
    """Orphans come to us (we are their subreaper): reap them, whoever they are."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)

    def reap() -> None:
        os.read(read, 4096)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    loop.watch(read, reap)


def main(fd: int, store: str, host_uid: int) -> None:
    """Serve the gateway on a SOCK_SEQPACKET. host_uid: who sandboxes are on the host, 0 for ourselves."""
    os.umask(0o022)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the gateway ends us, by closing its socket
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    linux.set_name("faas-launcher")
    launcher = Launcher(socket.socket(fileno=fd), store, host_uid)
    _reaper(launcher.loop)
    try:
        launcher.serve()
    finally:
        launcher.close()
