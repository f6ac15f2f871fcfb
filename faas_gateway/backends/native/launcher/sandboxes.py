"""Sandboxes: made below an init, filled with a guest forked from a dormant process, limited, ended.

Where they come from is a template (see templates.py) or a frozen sandbox (see freezing.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import secrets
import socket
from collections.abc import Callable, Generator
from typing import Any

import boxes
import cgroups
import processes
import schedule
import wire
from templates import START_S, Template, Templates, expect, no_overlay

F_SETPIPE_SZ = 1031
PIPE_BYTES = 256 << 10
KILL_S = 10.0
DEPTH_LIMIT = 26
"""Pid and user namespaces nest 32 deep (pid_namespaces(7)), and a host's containers may have taken some levels."""
OF_THE_SOURCE = ("net", "ipc", "uts", "cgroup")
"""Namespaces that a session which goes on after a snapshot takes along: its ports and shared memory stay."""

Steps = Generator[schedule.Wait, wire.Received, None]
Made = Generator[schedule.Wait, wire.Received, tuple[wire.Message, list[int]]]


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
        self._made: dict[str, boxes.Box] = {}
        self._made_of: dict[boxes.Box, Template] = {}
        self._serial = 0

    def get(self, name: str) -> boxes.Box:
        """Raises OSError when there is none."""
        box = self._boxes.get(name)
        if box is None:
            raise OSError(3, "the sandbox has ended")
        return box

    def make(self, m: wire.Message, frozen: boxes.Box | None = None) -> Made:
        """Make one below a frozen sandbox, or of a template.

        Returns what holds which limit, and descriptors: [channel, stdout, stderr, guest's pidfd,] init's pidfd, upper
        directory, listening sockets.
        """
        room = frozen.take_room(m) if frozen is not None and not m.get("continuing") else None
        if room is None:
            room = yield from self._room(m, frozen)
        else:
            room.box.rename(m["box"])
        return (yield from self._fill(room, m))

    def ahead(self, frozen: boxes.Box, m: wire.Message) -> Steps:
        """Have m["least"] branches of a frozen sandbox ready to be let go, and m["most"] at most."""
        while len(frozen.rooms) > m["most"]:
            yield from self._drop_room(frozen.rooms.pop())
        while len(frozen.rooms) < m["least"] and not frozen.ending:
            about = {"box": f"a-{self._serial}-{frozen.made_as}", "token": secrets.token_hex(8)}
            room = yield from self._room(m | about, frozen)
            try:
                if m["guest"]:
                    room.guest = yield from self._guest(self._made_of[room.box], room, m | about)
            except OSError:
                yield from self._drop_room(room)
                raise
            if frozen.ending:
                yield from self._drop_room(room)
            else:
                frozen.rooms.append(room)

    def _drop_room(self, room: boxes.Room) -> Steps:
        room.close()
        yield from self.end_box(room.box)

    def _room(self, m: wire.Message, frozen: boxes.Box | None) -> Generator[schedule.Wait, wire.Received, boxes.Room]:
        """Make a sandbox's namespaces, with nobody in them but an init."""
        if frozen is not None:
            template, lowers = self._made_of[frozen], frozen.branch_layers()
        else:
            template, lowers = self._templates.get(m["template"]), [self._run.kept(f) for f in m["layers"]]
        source = frozen if frozen is not None and frozen.control is not None else None
        below, beside = source, source is not None and source.depth >= DEPTH_LIMIT
        if source is not None and source.beside:
            below = source.below  # whose namespaces they are; the source itself may go before us
        box = boxes.Box(m["box"], self._run, below, lowers, beside=beside)
        self._serial += 1
        box.made_as = f"{self._serial}-{m['box']}"
        template.boxes.add(box)
        self._made_of[box] = template
        self._made[box.made_as] = box
        try:
            received = yield from self._namespaces(template, source, box, m)
            assert received.message is not None
            names: list[str] = received.message["namespaces"]
            namespaces = received.take(len(names))
            if beside:
                box.tree = os.dup(namespaces[names.index("mnt")])
            else:
                box.user = os.dup(namespaces[names.index("user")])
            return boxes.Room(box, source, m, names, namespaces, received.take())
        except OSError:
            yield from self.end_box(box)
            raise

    def _fill(self, room: boxes.Room, m: wire.Message) -> Made:
        """Put a guest into a room, and limits around it."""
        box, template = room.box, self._made_of[room.box]
        fds: list[int] = []
        about: wire.Message = {}
        try:
            if m["guest"]:
                if room.guest is None:
                    room.guest = yield from self._guest(template, room, m)
                self._limit(box, m, [box.guest_pid])
                about = room.guest.let_go(fds)
            else:
                self._limit(box, m, [])
            fds.append(os.dup(box.init_pidfd))
            fds += room.take_others()
        except OSError:
            for fd in fds:
                os.close(fd)
            yield from self.end_box(box)
            raise
        finally:
            room.close()
        self._boxes[box.name] = box
        groups = box.group.folders if box.group else {}
        about |= {"files": box.files, "enforced": box.enforced, "groups": groups, "version": self._groups.version}
        return about | {"depth": box.depth, "beside": box.beside}, fds

    def _namespaces(
        self, template: Template, source: boxes.Box | None, box: boxes.Box, m: wire.Message
    ) -> Generator[schedule.Wait, wire.Received, wire.Received]:
        """Have an init make another one in namespaces of its own; the answer carries their descriptors."""
        init = template.init if source is None else source.init
        if init is None:
            raise OSError(3, "the sandbox that it should be below has ended")
        shared = OF_THE_SOURCE if m.get("continuing") and source is not None else ()
        if box.beside:
            shared = (*shared, "pid", "user")
        about = {"pid": self._next_pid(), "rlimits": m["agent_rlimits"], "shared": shared, **m["sizes"]}
        about["listen"] = m["listen"]
        about["layers"] = [layer.upper for layer in box.lowers]
        user: list[int] = []
        if source is not None and not box.beside:
            yield from self.user_namespace(source)
            user, source.next_user = [source.next_user], -1
        for files in (template.files,) if template.files else ("overlay", "tmpfs"):
            near, far = wire.pair(credentials=True)
            try:
                order = {"op": "sandbox", "box": box.make(), "files": files, **about}
                wire.send(init, order, [far.fileno(), *user])
            finally:
                far.close()
                for fd in user:
                    os.close(fd)
                user = []
            for layer in box.lowers:
                layer.mounting += 1
            mounted = list(box.lowers)
            try:
                received = expect((yield near, START_S), "the sandbox's init ended")
            except OSError as e:
                near.close()
                if template.files is None and files == "overlay" and no_overlay(e):
                    box.discard_files()
                    continue
                raise
            finally:
                for layer in mounted:
                    layer.mounting -= 1
            template.files = box.files = files
            box.adopt(near, received.pid)
            return received
        raise OSError(22, "an overlay can be mounted neither on disk nor on tmpfs")

    def user_namespace(self, box: boxes.Box) -> Steps:
        """Have `next_user` of a box made, by the init of its warm process: see there."""
        if box.next_user >= 0 or box.user < 0:
            return
        near, far = wire.pair()
        with near:
            with far:
                wire.send(self._made_of[box].init, {"op": "user"}, [far.fileno(), box.user])
            (made,) = expect((yield near, START_S), "the process above the sandboxes has ended").take(1)
        if box.next_user >= 0 or box.user < 0:  # another was made meanwhile, or the box has ended
            os.close(made)
        else:
            box.next_user = made

    def _guest(
        self, template: Template, room: boxes.Room, m: wire.Message
    ) -> Generator[schedule.Wait, wire.Received, boxes.Guest]:
        """Have a dormant process fork a guest into the namespaces, where it waits to be let go."""
        box, source = room.box, room.source
        control = template.control if source is None else source.control
        if control is None:  # it was ended while the namespaces were made
            raise OSError(3, "the process to fork from is gone")
        ready, ready_far = wire.pair(credentials=True)
        guest = boxes.Guest(ready, m["token"])
        try:
            channel, channel_far = socket.socketpair()
            far = [channel_far.detach(), 0, 0, ready_far.detach()]
            guest.fds.append(channel.detach())
            for number in (1, 2):
                read, far[number] = os.pipe2(os.O_CLOEXEC)
                guest.fds.append(read)
            _widen(guest.fds[1])
            order: dict[str, Any] = {"op": "fork", "box": box.made_as, "token": m["token"]}
            order["namespaces"] = room.names
            if source is None:
                order |= {"rlimits": m["guest_rlimits"], "memory_bytes": m["rlimit_memory_bytes"]}
            else:
                order |= {"continuing": bool(m.get("continuing")), "reseed": bool(m.get("reseed"))}
            try:
                wire.send(control, order, [*far, *room.namespaces])
                if source is not None:
                    source.unreported += 1
            finally:
                for fd in far:
                    os.close(fd)
            received = expect((yield ready, START_S), "the guest ended before it was ready")
            received.close()  # nobody asked for descriptors
            said = wire.fit(received.message)
            box.adopt_guest(received.pid)
            if not processes.is_in_tree(received.pid, os.fstat(room.namespaces[room.names.index("mnt")]).st_ino):
                raise OSError(1, "another process than the new guest answered")
            guest.fds.append(os.dup(box.guest_pidfd))
            guest.said = {"receipt": said.get("receipt"), "at": said.get("at")}
        except OSError:
            guest.close()
            raise
        return guest

    def _limit(self, box: boxes.Box, m: wire.Message, guests: list[int]) -> None:
        """Put the sandbox's processes under its limits, before any of the user's code runs."""
        box.group = self._groups.create(box.made_as)
        if box.group is not None:
            box.enforced = box.group.limit(m["memory_bytes"], m["pids"], m["cpus"])
            box.group.add([box.init_pid, *guests])
        if "cpus" not in box.enforced and m["threads"]:
            for pid in [box.init_pid, *guests]:
                os.sched_setaffinity(pid, sorted(os.sched_getaffinity(0))[: m["threads"]])
        if box.below is not None and "RLIMIT_NPROC" in m["guest_rlimits"]:
            for pid in guests:
                set_process_limit(pid, m["guest_rlimits"]["RLIMIT_NPROC"][0])

    def agent(self, name: str, received: wire.Received) -> None:
        """Hand descriptors to a sandbox's init, for an agent; the caller sees end of file when there is none."""
        box = self._boxes.get(name)
        if box is not None and box.init is not None:
            with contextlib.suppress(OSError):  # it is just ending: the descriptors close with us
                wire.send(box.init, {"op": "agent"}, received.fds)

    def rename(self, name: str, to: str) -> None:
        """Name a sandbox after what it is now for."""
        box = self.get(name)
        if to in self._boxes:
            raise OSError(17, "there is a sandbox of that name")
        box.rename(to)
        self._boxes[to] = self._boxes.pop(name)

    def made_as(self, label: str) -> boxes.Box | None:
        """The box that a dormant process calls by that label, whatever it is named by now."""
        return self._made.get(label)

    # ---- the end ----------------------------------------------------------------------------------------
    def end(self, name: str) -> Steps:
        """Kill what lives in a sandbox, wait for the end, give back what it held. Nothing if there is none."""
        box = self._boxes.pop(name, None)
        if box is not None:
            yield from self.end_box(box)

    def end_box(self, box: boxes.Box) -> Steps:
        """The init of a frozen one, and its files, stay as long as there are sandboxes below it."""
        box.ending = True
        while box.rooms:
            yield from self._drop_room(box.rooms.pop())
        box.ended_by_owner = True
        if box.control is not None:
            self._loop.unwatch(box.control.fileno())
        if box.children:
            box.kill_guest()
            return
        box.kill()
        if box.init_pidfd >= 0:
            with contextlib.suppress(schedule.DeadlinePassed):  # even SIGKILL may have to wait: tried again below
                yield schedule.Readable(box.init_pidfd), KILL_S
        self._templates.left(self._made_of.pop(box), box)
        self._made.pop(box.made_as, None)
        self._release(box, 0.002)
        above = box.below
        if above is not None:
            above.children.discard(box)
            if above.ended_by_owner and not above.children:
                yield from self.end_box(above)

    def _release(self, box: boxes.Box, delay_s: float) -> None:
        """A group empties a moment after its last process has ended; give up after some minutes."""
        if not box.release() and delay_s < 120:
            self._loop.later(delay_s, lambda: self._release(box, delay_s * 2))

    def close(self) -> None:
        for box in self._made_of:
            box.kill()
        for box in self._made_of:
            box.wait(5.0)
            box.release()


def set_process_limit(pid: int, soft: int | None = None) -> None:
    """Set the soft limit of processes of a guest, or lift it: a dormant one's branches count with it."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NPROC)
    if soft is None or (hard != resource.RLIM_INFINITY and soft > hard):
        soft = hard
    resource.prlimit(pid, resource.RLIMIT_NPROC, (soft, hard))


def _widen(pipe: int) -> None:
    """A larger pipe spares wake-ups; a user has a bounded amount of them, so a refusal is fine (pipe(7))."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)
