"""Sandboxes: made below a template's init, filled with a guest forked from its warm process, limited, ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Generator

import boxes
import cgroups
import schedule
import wire
from templates import START_S, Template, Templates, expect, no_overlay

F_SETPIPE_SZ = 1031
PIPE_BYTES = 256 << 10
KILL_S = 10.0

Steps = Generator[schedule.Wait, wire.Received, None]


class Sandboxes:
    """All of one launcher."""

    def __init__(
        self,
        loop: schedule.Loop,
        run: boxes.Run,
        groups: cgroups.Cgroups,
        templates: Templates,
        next_pid: Callable[[], int],
    ) -> None:
        self._loop = loop
        self._run = run
        self._groups = groups
        self._templates = templates
        self._next_pid = next_pid
        self._boxes: dict[str, boxes.Box] = {}
        self._made_of: dict[boxes.Box, Template] = {}

    def make(self, m: wire.Message) -> Generator[schedule.Wait, wire.Received, tuple[wire.Message, list[int]]]:
        """Returns what holds which limit, and descriptors: [channel, stdout, stderr, guest's pidfd,] init's pidfd."""
        template = self._templates.get(m["template"])
        box = boxes.Box(m["box"], self._run)
        template.boxes.add(box.name)
        self._made_of[box] = template
        fds: list[int] = []
        try:
            namespaces = yield from self._namespaces(template, box, m)
            try:
                if template.has_guest:
                    yield from self._guest(template, box, m, namespaces, fds)
                else:
                    self._limit(box, m, [])
            finally:
                namespaces.close()
            fds.append(os.dup(box.init_pidfd))
        except OSError:
            for fd in fds:
                os.close(fd)
            yield from self._end(box)
            raise
        self._boxes[box.name] = box
        groups = box.group.folders if box.group else {}
        about = {"files": template.files, "enforced": box.enforced, "groups": groups, "version": self._groups.version}
        return about, fds

    def _namespaces(
        self, template: Template, box: boxes.Box, m: wire.Message
    ) -> Generator[schedule.Wait, wire.Received, wire.Received]:
        """Have the template's init make an init in namespaces of its own; the answer carries their descriptors."""
        for files in (template.files,) if template.files else ("overlay", "tmpfs"):
            near, far = wire.pair(credentials=True)
            order = {"op": "sandbox", "box": box.make(), "files": files, "pid": self._next_pid(), **m["sizes"]}
            wire.send(template.init, order | {"rlimits": m["agent_rlimits"]}, [far.fileno()])
            far.close()
            try:
                received = expect((yield near, START_S), "the sandbox's init ended")
            except OSError as e:
                near.close()
                if template.files is None and files == "overlay" and no_overlay(e):
                    box.discard_files()
                    continue
                raise
            template.files = files
            box.adopt(near, received.pid)
            return received
        raise OSError(22, "an overlay can be mounted neither on disk nor on tmpfs")

    def _guest(
        self, template: Template, box: boxes.Box, m: wire.Message, namespaces: wire.Received, fds: list[int]
    ) -> Steps:
        """Have the warm process fork a guest into the namespaces; our ends of its pipes and its pidfd go into fds."""
        assert namespaces.message is not None
        if template.control is None:  # it was ended while the namespaces were made
            raise OSError(3, "the warm process is gone")
        with contextlib.ExitStack() as theirs:
            ready, ready_far = wire.pair(credentials=True)
            channel, channel_far = socket.socketpair()
            theirs.callback(ready.close)
            far = [channel_far.detach(), 0, 0, ready_far.detach()]
            fds.append(channel.detach())
            for number in (1, 2):
                read, far[number] = os.pipe2(os.O_CLOEXEC)
                fds.append(read)
            _widen(fds[1])
            order = {"op": "fork", "box": box.name, "namespaces": namespaces.message["namespaces"]}
            order |= {"token": m["token"], "rlimits": m["guest_rlimits"], "memory_bytes": m["rlimit_memory_bytes"]}
            try:
                wire.send(template.control, order, [*far, *namespaces.fds])
            finally:
                for fd in far:
                    os.close(fd)
            received = expect((yield ready, START_S), "the guest ended before it was ready")
            fds.append(os.pidfd_open(received.pid))
            self._limit(box, m, [received.pid])
            wire.send(ready, {"go": True})

    def _limit(self, box: boxes.Box, m: wire.Message, guests: list[int]) -> None:
        """Put the sandbox's processes under its limits, before any of the user's code runs."""
        box.group = self._groups.create(box.name)
        if box.group is not None:
            box.enforced = box.group.limit(m["memory_bytes"], m["pids"], m["cpus"])
            box.group.add([box.init_pid, *guests])
        if "cpus" not in box.enforced and m["threads"]:
            for pid in [box.init_pid, *guests]:
                os.sched_setaffinity(pid, sorted(os.sched_getaffinity(0))[: m["threads"]])

    def agent(self, name: str, received: wire.Received) -> None:
        """Hand descriptors to a sandbox's init, for an agent; the caller sees end of file when there is none."""
        box = self._boxes.get(name)
        if box is not None and box.init is not None:
            with contextlib.suppress(OSError):  # it is just ending: the descriptors close with us
                wire.send(box.init, {"op": "agent"}, received.fds)

    def rename(self, name: str, to: str) -> None:
        """Name a sandbox that was made ahead after what it is now for."""
        box = self._boxes.pop(name, None)
        if box is None:
            raise OSError(3, "the sandbox has ended")
        template = self._made_of[box]
        template.boxes.discard(name)
        box.rename(to)
        template.boxes.add(to)
        self._boxes[to] = box

    def current_name(self, made_as: str) -> str:
        """The name of a box that may have been made under another one."""
        return next((b.name for b in self._boxes.values() if b.made_as == made_as), made_as)

    def end(self, name: str) -> Steps:
        """Kill what lives in a sandbox, wait for the end, give back what it held. Nothing if there is none."""
        box = self._boxes.pop(name, None)
        if box is not None:
            yield from self._end(box)

    def _end(self, box: boxes.Box) -> Steps:
        box.kill()
        if box.init_pidfd >= 0:
            with contextlib.suppress(schedule.DeadlinePassed):  # even SIGKILL may have to wait: tried again below
                yield schedule.Readable(box.init_pidfd), KILL_S
        self._templates.left(self._made_of.pop(box), box.name)
        self._release(box, 0.002)

    def _release(self, box: boxes.Box, delay_s: float) -> None:
        """A group empties a moment after its last process has ended; give up after some minutes."""
        if not box.release() and delay_s < 120:
            self._loop.later(delay_s, lambda: self._release(box, delay_s * 2))

    def close(self) -> None:
        for box in self._boxes.values():
            box.kill()
        for box in self._boxes.values():
            box.wait(5.0)
            box.release()


def _widen(pipe: int) -> None:
    """A larger pipe spares wake-ups; a user has a bounded amount of them, so a refusal is fine (pipe(7))."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)
