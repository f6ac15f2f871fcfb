"""Warm processes and their inits: made once per environment version, sandboxes are forked from them."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Callable, Generator
from typing import Any, NoReturn

import boxes
import inside
import linux
import schedule
import wire

START_S = 20.0
PRELOAD_S = 300.0

Tell = Callable[[wire.Message], None]
Steps = Generator[schedule.Wait, wire.Received, None]


class Template:
    """One warm process (`control`), the init above its sandboxes (`init`), and how its sandboxes keep their files."""

    def __init__(self, name: str, spec: dict[str, Any], init: socket.socket) -> None:
        self.name = name
        self.spec = spec
        self.init = init
        self.control: socket.socket | None = None
        self.files: str | None = None
        self.boxes: set[boxes.Box] = set()
        self.folders: list[str] = []
        self.retired = False

    @property
    def has_guest(self) -> bool:
        """False for shell environments, whose sandboxes need only an init."""
        return bool(self.spec.get("argv"))


class Templates:
    """All of one launcher. on_guest_exit gets a box's name and the exit status of its guest."""

    def __init__(
        self,
        loop: schedule.Loop,
        run: boxes.Run,
        host_uid: int,
        next_pid: Callable[[], int],
        on_guest_exit: Callable[[str, int], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._run = run
        self._host_uid = host_uid
        self._next_pid = next_pid
        self._on_guest_exit = on_guest_exit
        self._on_gone = on_gone
        self._templates: dict[str, Template] = {}
        self._all: set[Template] = set()  # also those that end with their last sandbox

    def get(self, name: str) -> Template:
        """The template, its warm process alive. Raises OSError."""
        template = self._templates.get(name)
        if template is None or (template.has_guest and template.control is None):
            raise OSError(3, "the warm process is gone")
        return template

    # ---- making one -------------------------------------------------------------------------------------
    def make(self, name: str, spec: dict[str, Any], sizes: dict[str, int]) -> Steps:
        with contextlib.suppress(OSError):
            self.get(name)
            return  # who asked for it before gave up waiting
        near, far = wire.pair()
        pid = os.fork()
        if pid == 0:
            self._become_init(near, far, spec)
        far.close()
        template: Template | None = None
        try:
            expect((yield near, START_S))
            self._write_maps(pid)
            wire.send(near, {"go": True})
            expect((yield near, START_S))
            template = Template(name, spec, near)
            if template.has_guest:
                yield from self._warm(template, sizes)
        except OSError:
            near.close()
            if template is not None:
                self._remove_files(template)
            raise
        self.cool(name)
        self._templates[name] = template
        self._all.add(template)
        self._loop.watch(near.fileno(), lambda: self._init_gone(template))

    def _become_init(self, near: socket.socket, far: socket.socket, spec: dict[str, Any]) -> NoReturn:
        try:
            near.close()
            linux.close_all_but([2, far.fileno()])
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            inside.template_init(far, spec, self._run.store)
        except OSError as e:
            wire.send(far, wire.failure(e))
        finally:
            os._exit(1)

    def _write_maps(self, pid: int) -> None:
        uid = self._host_uid or os.getuid()
        gid = self._host_uid or os.getgid()
        maps = [("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")]
        if not self._host_uid:
            maps.insert(0, ("setgroups", "deny"))
        for name, text in maps:
            with open(f"/proc/{pid}/{name}", "w") as f:
                f.write(text)

    def _warm(self, template: Template, sizes: dict[str, int]) -> Steps:
        """Start the guest that sessions are forked from, and wait until it has loaded what it preloads."""
        for files in ("overlay", "tmpfs"):
            reply, reply_far = wire.pair()
            control, control_far = wire.pair()
            box = self._run.make_box(f"t-{template.name}-{secrets.token_hex(4)}")
            template.folders.append(box)
            order = {"op": "guest", "box": box, "files": files, "pid": self._next_pid(), **sizes}
            order |= {"layers": [], "shared": [], "listen": []}
            order |= {"argv": template.spec["argv"], "env": template.spec["env"]}
            wire.send(template.init, order, [reply_far.fileno(), control_far.fileno()])
            reply_far.close()
            control_far.close()
            received = yield reply, START_S  # end of file: the exec has worked
            reply.close()
            if received.message is not None:
                control.close()
                error = wire.error(received.message)
                if files == "overlay" and no_overlay(error):
                    continue
                raise error
            try:
                expect((yield control, PRELOAD_S), "the warm process ended while it loaded its modules")
            except OSError:
                control.close()
                raise
            template.files = files
            template.control = control
            self._loop.watch(control.fileno(), lambda: self._guest_spoke(template))
            return

    # ---- the end of one ---------------------------------------------------------------------------------
    def _guest_spoke(self, template: Template) -> None:
        assert template.control is not None
        message = wire.receive(template.control).message
        if message is None:
            self.cool(template.name)
            self._on_gone(template.name)
        else:  # it reaps the guests that were forked from it
            self._on_guest_exit(message["box"], message["status"])

    def _drop_guest(self, template: Template) -> None:
        if template.control is not None:
            self._loop.unwatch(template.control.fileno())
            template.control.close()
            template.control = None

    def _init_gone(self, template: Template) -> None:
        """The init has ended, and with it everything below it."""
        self._drop_guest(template)
        self._forget(template)
        self._on_gone(template.name)

    def cool(self, name: str) -> None:
        """End a warm process; its init stays until the last sandbox below it has ended."""
        template = self._templates.pop(name, None)
        if template is not None:
            template.retired = True
            self._drop_guest(template)
            self._retire(template)

    def left(self, template: Template, box: boxes.Box) -> None:
        """A sandbox of this template has ended."""
        template.boxes.discard(box)
        self._retire(template)

    def _retire(self, template: Template) -> None:
        if template.retired and not template.boxes:
            self._forget(template)

    def _forget(self, template: Template) -> None:
        if self._templates.get(template.name) is template:
            del self._templates[template.name]
        self._all.discard(template)
        if template.init.fileno() >= 0:
            self._loop.unwatch(template.init.fileno())
            template.init.close()
        self._remove_files(template)

    def _remove_files(self, template: Template) -> None:
        for folder in template.folders:
            self._run.remove_box(folder)
        template.folders.clear()

    def close(self) -> None:
        for template in self._all:
            template.init.close()


def expect(received: wire.Received, gone: str = "a process of the sandbox ended") -> wire.Received:
    """The message, unless the peer has ended or reports an error: then OSError."""
    if received.message is None:
        raise OSError(32, gone)
    if "error" in received.message:
        received.close()
        raise wire.error(received.message)
    return received


def no_overlay(error: OSError) -> bool:
    """True if it was the overlay mount that failed: on some file systems its upper directory is refused."""
    return "overlay" in str(error.filename)
