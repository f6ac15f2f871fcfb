"""A session's life: requests come on the channel one at a time, run on the one thread, and are answered.

Requests run inside a running asyncio loop, as in a local kernel: top-level await, create_task and tasks that go on
between two cells all work. SIGINT interrupts user code only; at any other time it is ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import threading
from json import dumps  # by name: code of the user may replace it in the module
from os import getpid
from time import monotonic
from typing import Any, NoReturn

from . import carry, framing, parking, portable, portable_session, variables, wire
from .shell import ChannelSession
from .streams import Standard

MESSAGE_LIMIT_BYTES = 60 << 20
"""Of one message; a frame may have a little more."""

INTERRUPT_GAP_S = 0.05

_ENDLESS = re.compile(r"\d{309}")

_SHOWN = {
    *("display_data", "execute_result", "update_display_data", "clear_output", "error"),
    *("comm_open", "comm_msg", "comm_close", "stream"),
}


class Session:
    """One sandbox's interpreter, from the fork to the end of its channel."""

    def __init__(self, kernel: Any, channel: socket.socket, standard: Standard) -> None:
        self._kernel = kernel
        self._channel = channel
        self._standard = standard
        self._sequence = 0
        self._pid = 0
        self._baseline = portable_session.baseline()
        self._sending = threading.Lock()
        self._interruptible = False
        self._interrupted_at = 0.0
        self._identify()

    def _identify(self) -> None:
        """Be a Jupyter session of our own: after every fork."""
        session = self._kernel.session
        assert isinstance(session, ChannelSession)
        session.emit = self._emit
        session.session = os.urandom(8).hex()
        session.pid = self._pid = getpid()

    def run(self) -> None:
        """Serve until the channel ends; then the process does."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        while True:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            task = loop.create_task(self._serve())
            while not loop.is_closed():
                try:
                    loop.run_until_complete(task)
                except (RuntimeError, KeyboardInterrupt, asyncio.CancelledError) as e:
                    if task.done() and not task.cancelled() and task.exception() is e:
                        self._broken(e)
                    # else code has stopped the loop: run on; has closed it, or cancelled every task: begin anew
                except Exception as e:  # noqa: BLE001 - code may break what we stand on: its own builtins, our channel
                    self._broken(e)
                if task.done():
                    task = loop.create_task(self._serve())

    def _on_interrupt(self, _number: int, _frame: object) -> None:
        """SIGINT: raises in user code only, and not twice within a moment, so that it cannot strike what follows it."""
        now = monotonic()
        if self._interruptible and now - self._interrupted_at > INTERRUPT_GAP_S:
            self._interrupted_at = now
            raise KeyboardInterrupt

    def _broken(self, error: BaseException) -> NoReturn:
        """Say in one line what happened, and end: there is no way on from here."""
        if isinstance(error, MemoryError):
            os._exit(framing.NO_MEMORY_STATUS)
        with contextlib.suppress(Exception):
            os.write(2, f"[the interpreter of this session broke: {type(error).__name__}: {error}]\n".encode())
        os._exit(framing.BROKEN_STATUS)

    async def _serve(self) -> None:
        from tornado.ioloop import IOLoop

        self._kernel.io_loop = IOLoop.current()
        loop = asyncio.get_running_loop()
        while True:
            readable = loop.create_future()
            loop.add_reader(self._channel, _resolve, readable)
            try:
                await readable
            finally:
                loop.remove_reader(self._channel)
            frame = framing.receive(self._channel)
            if frame is None:
                os._exit(0)
            await self._handle(*frame)
            if getpid() != self._pid:
                os._exit(0)  # a child that code has forked and that came to the end of the cell

    async def _handle(self, m: dict[str, Any], body: bytes) -> None:
        kind = m["type"]
        self._interrupted_at = 0.0  # an interrupt of the request before says nothing of this one
        if kind == "init":
            os.environ.update(m["env"])
            self._baseline["environ"].update(m["env"])
        elif kind == "touch":
            await self._kernel.do_execute("pass", True, store_history=False, allow_stdin=False)
            self._send({"type": "reply", "id": m["id"]})
        elif kind == "execute":
            reply = await self._execute(m)
            self._send({"type": "reply", "id": m["id"], **reply})
        elif kind == "park":
            self._park()
        else:
            self._answer(kind, m)

    def _park(self) -> None:
        """Go dormant, and on in a child: whose channel is then ours. Answered when nothing came of it."""
        with socket.socket(fileno=framing.receive_fds(self._channel, 1)[0]) as control:
            try:
                birth = parking.park(control, self._channel, self._standard, self._kernel.shell.user_ns)
            except parking.Refused as e:
                wire.send(control, {"refused": wire.fit(e.losses)})
                return
        if birth is not None:
            self._channel.close()
            self._channel = birth.channel
            self._sequence = 0
            self._identify()

    def _answer(self, kind: str, m: dict[str, Any]) -> None:
        """The requests that run none of the user's code of their own; they can be interrupted all the same."""
        namespace, hidden = self._kernel.shell.user_ns, self._kernel.shell.user_ns_hidden
        pushed = self._chunks() if kind == "push" else []
        if pushed is None:
            return
        given = framing.receive_fds(self._channel, 1) if kind in ("capture", "restore") else []
        chunks: list[bytes] = []
        reply: dict[str, Any] = {}
        signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            try:
                self._interruptible = True
                if kind == "variables":
                    reply = {"variables": variables.listing(namespace, hidden)}
                elif kind == "pull":
                    chunks = list(variables.encoded(namespace, m["name"]))
                elif kind == "push":
                    namespace[m["name"]] = variables.decoded(pushed)
                elif kind == "check":
                    reply = {"losses": parking.losses(self._channel, self._standard)[:1000]}
                elif kind == "capture":
                    reply = portable.capture(namespace, hidden, given[0], self._state())
                elif kind == "restore":
                    reply = portable.restore(namespace, given[0])
                    self._kernel.shell.execution_count = reply.pop("session")["execution_count"] or 1
                elif kind == "fingerprints":
                    reply = {"variables": portable.fingerprints(namespace, hidden)}
                elif kind == "reseed":
                    reply = {"reseeded": carry.reseed(namespace)}
                else:
                    reply = {"problem": "unknown_request", "detail": f"the guest knows no {kind!r}"}
            finally:
                self._interruptible = False
        except variables.VariableProblem as e:
            reply = {"problem": e.code, "detail": str(e)}
        except KeyboardInterrupt:
            self._interruptible = False
            reply, chunks = {"problem": "not_transferable", "detail": "interrupted"}, []
        except Exception as e:  # noqa: BLE001 - the session's own objects run here: their __repr__ may raise anything
            reply = {"problem": "not_transferable", "detail": f"{type(e).__name__}: {e}"}
        for fd in given:
            os.close(fd)
        for chunk in chunks:
            framing.send(self._channel, {"type": "chunk", "id": m["id"]}, chunk)
        self._send({"type": "reply", "id": m["id"], **reply})

    def _state(self) -> dict[str, Any]:
        return portable_session.session_state(self._baseline, self._kernel.shell.execution_count)

    def _chunks(self) -> list[bytes] | None:
        """The bodies up to the frame that ends them, None when the sender gave up: then nobody waits for an answer."""
        found: list[bytes] = []
        while True:
            frame = framing.receive(self._channel)
            if frame is None:
                os._exit(0)
            if frame[0]["type"] == "end":
                return found if frame[0]["whole"] else None
            found.append(frame[1])

    async def _execute(self, m: dict[str, Any]) -> dict[str, Any]:
        kernel, code = self._kernel, m["code"]
        shell = kernel.shell
        if m.get("execution_count"):
            shell.execution_count = m["execution_count"]
        if m.get("magic_line") and not code.lstrip().startswith("%%"):
            code = f"# {m['magic_line']}\n{code}"  # the first line of the cell: line numbers are then the notebook's
        self._standard.restore()
        parent = kernel.session.msg("execute_request", {"code": code})
        kernel.set_parent([b"gateway"], parent, channel="shell")
        signal.signal(signal.SIGINT, self._on_interrupt)
        reply: dict[str, Any] | None = None
        try:
            try:
                self._interruptible = True
                reply = await kernel.do_execute(code, False, store_history=True, allow_stdin=False)
            finally:
                self._interruptible = False
        except KeyboardInterrupt as e:  # also one that struck in the line above: then there is a reply already
            self._interruptible = False
            reply = reply or {
                "status": "error",
                "ename": "KeyboardInterrupt",
                "evalue": str(e),
                "traceback": ["KeyboardInterrupt"],
            }
        except asyncio.CancelledError as e:
            reply = {
                "status": "error",
                "ename": "CancelledError",
                "evalue": str(e),
                "traceback": ["CancelledError"],
            }
        except Exception as e:  # noqa: BLE001 - such as an exception of the user's whose __str__ raises
            name = type(e).__name__
            reply = {"status": "error", "ename": name, "evalue": "", "traceback": [name]}
        assert reply is not None
        shell.exit_now = False
        for name in ("stdout", "stderr"):  # a replacement of the user's may buffer too
            stream: Any = getattr(sys, name, None)
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        self._standard.settle()
        wanted = ("status", "ename", "evalue", "traceback", "execution_count")
        return {key: reply[key] for key in wanted if key in reply}

    def _emit(self, msg: dict[str, Any], buffers: list[bytes]) -> None:
        kind = msg["header"]["msg_type"]
        if kind not in _SHOWN or getpid() != self._pid:
            return
        message: dict[str, Any] = {
            "type": "message",
            "msg_type": kind,
            "content": msg["content"],
            "metadata": msg["metadata"],
        }
        self._send(message | {"sizes": [len(b) for b in buffers]}, b"".join(buffers))

    def _send(self, message: dict[str, Any], body: bytes = b"") -> None:
        """Marks into the pipes first, then the frame: the reader finds both, in that order.

        Threads of the user may display at the same time, and an interrupt must not cut a frame in two.
        """
        if threading.current_thread() is not threading.main_thread():
            with self._sending:
                self._send_whole(message, body)
            return
        # not blocked: the kernel would hand the signal to another thread, and Python the call to this one all the same
        noted: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, _frame: noted.append(number))
        try:
            with self._sending:
                self._send_whole(message, body)
        finally:
            signal.signal(signal.SIGINT, before or signal.default_int_handler)
        if noted and callable(before):
            before(signal.SIGINT, None)

    def _send_whole(self, message: dict[str, Any], body: bytes) -> None:
        self._sequence += 1
        message["seq"] = self._sequence
        data = _encoded(message)
        if max(len(data), len(body)) > MESSAGE_LIMIT_BYTES:
            size = f"{(len(data) + len(body)) >> 20} MB, the limit is {MESSAGE_LIMIT_BYTES >> 20} MB"
            if message["type"] == "message":
                self._standard.flush()
                with contextlib.suppress(OSError):
                    os.write(2, f"[{message['msg_type']} dropped: {size}]\n".encode())
                return
            data, body = _encoded(_shortened(message, size)), b""
        self._standard.mark(self._sequence)
        self._channel.sendall(framing.HEADER.pack(len(data), len(body)) + data + body)


def _encoded(message: dict[str, Any]) -> bytes:
    try:
        text = dumps(message, allow_nan=False, default=str, ensure_ascii=False)
    except ValueError:
        text = dumps(_finite(message), default=str, ensure_ascii=False)
    if _ENDLESS.search(text):
        text = dumps(_finite(message), default=str, ensure_ascii=False)
    return text.encode("utf-8", "replace")  # JSON cannot carry what stands for an undecodable byte of a file name


def _shortened(reply: dict[str, Any], size: str) -> dict[str, Any]:
    """A reply whose text is too much, without it."""
    short = {key: reply[key] for key in ("type", "id", "seq", "status", "execution_count") if key in reply}
    if reply.get("status") == "error":
        return short | {"ename": str(reply["ename"])[:200], "evalue": str(reply["evalue"])[:1000], "traceback": []}
    return short | {"problem": "not_transferable", "detail": f"the answer has {size}"}


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: Jupyter's own cleaning writes them as text. Nor do readers take any integer."""
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return "a number too large for JSON"
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}  # type: ignore[misc]
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]  # type: ignore[misc]
    return value
