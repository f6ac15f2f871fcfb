"""A session's output: two pipes and a channel, read by callbacks and put into one order.

The guest writes a mark into both pipes before each frame on the channel (see guest/streams.py). A pipe that meets a
mark waits for that frame; a frame first takes what the pipes hold up to its mark. Everything here is hostile: a
forged mark delays only the forger's own output, and no buffer grows without bound.
"""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import os
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

import anyio
import orjson

from faas_gateway.backends.base import Sink
from faas_gateway.guest import framing

READ_BYTES = 256 << 10
BUSY_BYTES = 64 << 10
PAUSE_S = 0.004
HELD_S = 5.0
"""A mark whose frame does not come in this time is forged: nothing else may stand between the two."""
IDLE_LIMIT = 1 << 20
"""Characters of output kept that came while no request ran; the next request gets them."""


class Pipe:
    """One standard stream of a guest or of a command. `on_text` gets decoded text, in order."""

    def __init__(self, fd: int, on_text: Callable[[str], None], mark: bytes = b"") -> None:
        self.fd = fd
        self._on_text = on_text
        self._mark = mark
        self._mark_size = len(mark) + 9
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._buffer = b""
        self._held: int | None = None
        self._passed = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._held_since = 0.0
        self._reading = False
        self.ended = False
        os.set_blocking(fd, False)
        self._resume()

    def _resume(self) -> None:
        self._timer = None
        if not self._reading and not self.ended and self._held is None:
            self._reading = True
            self._loop.add_reader(self.fd, self._readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.fd)

    def _readable(self) -> None:
        size = self._read()
        if self.ended or self._held is not None:
            self._pause()
        elif size < BUSY_BYTES:  # let more come together: an event per line would be slow for everyone
            self._pause()
            self._timer = self._loop.call_later(PAUSE_S, self._resume)

    def _read(self) -> int:
        """Read once and pass on what may be; returns the bytes read, 0 when there is nothing now."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self.ended = True
            self._pause()
        self._buffer += data
        self._scan()
        return len(data)

    def _scan(self) -> None:
        while self._held is None and self._buffer:
            at = self._buffer.find(self._mark) if self._mark else -1
            if at < 0:
                keep = 0 if self.ended or not self._mark else _partial(self._buffer, self._mark)
                self._emit(self._buffer[: len(self._buffer) - keep])
                self._buffer = self._buffer[len(self._buffer) - keep :]
                return
            end = at + self._mark_size
            if len(self._buffer) < end and not self.ended:
                self._emit(self._buffer[:at])
                self._buffer = self._buffer[at:]
                return
            number = _sequence(self._buffer[at + len(self._mark) : end])
            self._emit(self._buffer[:at])
            self._buffer = self._buffer[end:]
            if number > self._passed:
                self._hold(number)

    def _hold(self, number: int) -> None:
        self._held, self._held_since = number, self._loop.time()
        if self._late is None:
            self._late = self._loop.call_later(HELD_S, self._let_go)

    def _let_go(self) -> None:
        self._late = None
        if self._held is None or self.ended:
            return
        left = self._held_since + HELD_S - self._loop.time()
        if left > 0:
            self._late = self._loop.call_later(left, self._let_go)
        else:
            self._held = None
            self.go_on()

    def _waiting(self) -> int:
        """Bytes in the pipe now (FIONREAD): who only reads these comes to an end, whoever goes on writing."""
        size: int = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)))[0]
        return size

    def _emit(self, data: bytes) -> None:
        text = self._decoder.decode(data, self.ended and not self._buffer)
        if text:
            self._on_text(text)

    def up_to(self, number: int) -> None:
        """Pass on what comes before this frame's mark, reading what is in the pipe now."""
        waiting = self._waiting()
        while not self.ended:
            if self._held is not None:
                if self._held > number:
                    return
                if self._held == number:
                    break
                self._held = None
                self._scan()
            elif waiting > 0 and (size := self._read()):
                waiting -= size
            else:
                break
        self._passed = number
        if self._held == number:
            self._held = None

    def go_on(self) -> None:
        """After the frame was passed on: what stands behind its mark."""
        self._scan()
        if self._held is None and self._timer is None:
            self._resume()

    def drain(self) -> None:
        """Take what is there now, marks or not."""
        waiting = self._waiting()
        while not self.ended:
            self._held = None
            self._scan()
            if waiting < 0 or not (size := self._read()):  # one read more than there is, to meet the end
                break
            waiting -= size or 1
        self._held = None
        self._scan()

    def close(self) -> None:
        if self.fd < 0:
            return
        self._pause()
        for timer in (self._timer, self._late):
            if timer is not None:
                timer.cancel()
        self.ended = True
        os.close(self.fd)
        self.fd = -1


def _partial(buffer: bytes, mark: bytes) -> int:
    """How many bytes at the end of buffer may be the start of a mark."""
    at = buffer.rfind(mark[:1], max(0, len(buffer) - len(mark)))
    while at >= 0:
        if mark.startswith(buffer[at:]):
            return len(buffer) - at
        at = buffer.rfind(mark[:1], max(0, len(buffer) - len(mark)), at)
    return 0


def _sequence(field: bytes) -> int:
    try:
        return int(field[:8], 16)
    except ValueError:
        return 0


class Channel:
    """Frames from a guest, and to it. `on_frame` is called for each; `on_end` once."""

    def __init__(
        self,
        sock: socket.socket,
        on_frame: Callable[[dict[str, Any], bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self.sock = sock
        self._on_frame = on_frame
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._parts: deque[bytes] = deque()
        self._have = 0
        self._need = framing.HEADER.size
        self._header: tuple[int, int] | None = None
        self.ended = False
        self.malformed = False
        """It ended by a frame that no guest of ours sends."""
        self._paused = False
        self._sending = asyncio.Lock()
        self._sends: set[asyncio.Task[None]] = set()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    def _readable(self) -> None:
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._parts.append(data)
        self._have += len(data)
        while self._have >= self._need and not self.ended:
            self._advance()

    def _take(self, size: int) -> bytes:
        joined = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        if len(joined) > size:
            self._parts.append(joined[size:])
        self._have = len(joined) - size
        return joined[:size]

    def _advance(self) -> None:
        if self._header is None:
            json_size, body_size = self._header = framing.HEADER.unpack(self._take(framing.HEADER.size))
            self._need = json_size + body_size
            if json_size > framing.JSON_LIMIT_BYTES or body_size > framing.BODY_LIMIT_BYTES:
                self._end(malformed=True)
            return
        data = self._take(self._need)
        size = self._header[0]
        self._header, self._need = None, framing.HEADER.size
        try:
            message = orjson.loads(data[:size])
        except orjson.JSONDecodeError:
            self._end(malformed=True)
            return
        if isinstance(message, dict):
            self._on_frame(message, data[size:])  # type: ignore[arg-type]

    def _end(self, *, malformed: bool = False) -> None:
        if not self.ended:
            self.ended, self.malformed = True, malformed
            self._loop.remove_reader(self.sock)
            self._on_end()

    def pause(self) -> None:
        if not self._paused and not self.ended:
            self._paused = True
            self._loop.remove_reader(self.sock)

    def resume(self) -> None:
        if self._paused and not self.ended:
            self._paused = False
            self._loop.add_reader(self.sock, self._readable)

    async def send(self, message: Mapping[str, Any], body: bytes = b"") -> None:
        """Send a frame; raises OSError when the guest is gone. One that has begun is sent whole, also if cancelled."""
        task = self._loop.create_task(self._send(framing.pack(dict(message), body)))
        self._sends.add(task)
        task.add_done_callback(self._sent)
        await asyncio.shield(task)

    async def send_descriptor(self, fd: int) -> None:
        """Send a descriptor after a frame that announces it, with one byte for it to travel on."""
        async with self._sending:
            while True:
                try:
                    socket.send_fds(self.sock, [b"\0"], [fd])
                    return
                except BlockingIOError:
                    await anyio.wait_writable(self.sock)

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            await self._loop.sock_sendall(self.sock, data)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sends.discard(task)
        if not task.cancelled():
            task.exception()  # told to who waited, if anybody did

    def close(self) -> None:
        for task in self._sends:
            task.cancel()
        if not self.ended:
            self.ended = True
            self._loop.remove_reader(self.sock)
        self.sock.close()


class Output:
    """Where output goes: the sink of the running request, or a bounded store until the next one."""

    def __init__(self) -> None:
        self._sink: Sink | None = None
        self._kept: list[tuple[Literal["stdout", "stderr"], str]] = []
        self._kept_chars = 0

    def attach(self, sink: Sink) -> None:
        self._sink = sink
        kept, self._kept, self._kept_chars = self._kept, [], 0
        for name, text in kept:
            sink.stream(name, text)

    def detach(self) -> None:
        self._sink = None

    def text(self, name: Literal["stdout", "stderr"], text: str) -> None:
        if self._sink is not None:
            self._sink.stream(name, text)
        elif self._kept_chars < IDLE_LIMIT:
            text = text[: IDLE_LIMIT - self._kept_chars]
            self._kept.append((name, text))
            self._kept_chars += len(text)

    def message(self, m: dict[str, Any], body: bytes) -> None:
        if self._sink is None:
            return
        sizes = m.get("sizes")
        buffers: list[bytes] = []
        if isinstance(sizes, list):
            at = 0
            for size in sizes[:1024]:  # type: ignore[index]
                if not isinstance(size, int) or size < 0 or at + size > len(body):
                    return
                buffers.append(body[at : at + size])
                at += size
        plain: dict[str, Any] = {
            "msg_type": m.get("msg_type"),
            "content": m.get("content"),
            "metadata": m.get("metadata"),
        }
        self._sink.message(plain, buffers)
