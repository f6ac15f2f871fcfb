"""Starting the embedded gateway of this user when nothing answers on its socket.

Blocking, for both clients: the async one calls it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

from faas import _paths
from faas.errors import GatewayStartError

__all__ = ["START_TIMEOUT_S", "ensure_gateway"]

START_TIMEOUT_S = 60.0
_LOCK_POLL_S = 0.02
_LOG_TAIL_BYTES = 2000
_LOG_ROTATE_BYTES = 8 << 20


def ensure_gateway(timeout_s: float = START_TIMEOUT_S) -> Path:
    """Return the socket of this user's gateway, started first if there is none.

    Any number of processes may call this at once: one of them starts the gateway, the others wait for it.

    Raises:
        ConfigurationError: the runtime folder is not safe to use.
        GatewayStartError: the gateway did not start; the message quotes the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    directory = _paths.ensure_private_dir(_paths.runtime_dir())
    path = _paths.socket_path(directory)
    if _accepts(path):
        return path
    with _locked(_paths.lock_path(directory), deadline):
        if not _accepts(path):
            _start(directory, deadline)
    return path


def _accepts(path: Path) -> bool:
    try:
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        hint = "fewer requests at once, or a higher `ulimit -n`"
        raise GatewayStartError(f"No socket can be opened: {error.strerror}", hint=hint) from error
    with probe:
        probe.settimeout(5.0)
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK):
                return False
            if error.errno == errno.EAGAIN or isinstance(error, TimeoutError):
                return True  # its queue of connections is full: it is there, and busy
            raise GatewayStartError(f"The gateway's socket {path} cannot be used: {error.strerror}") from error
    return True


@contextlib.contextmanager
def _locked(path: Path, deadline: float) -> Generator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise GatewayStartError(
                        "Another process has been starting the gateway for too long",
                        hint=f"see {_paths.log_path(path.parent)}, and end that process",
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _start(directory: Path, deadline: float) -> None:
    if not sys.executable:
        raise GatewayStartError("This Python does not know its own executable, so it cannot start the gateway")
    log = _paths.log_path(directory)
    ready, ready_for_gateway = os.pipe()
    try:
        try:
            process = _spawn(log, ready_for_gateway)
        finally:
            os.close(ready_for_gateway)
        # It outlives us as a rule. Should it end before, this keeps it from staying as a zombie.
        threading.Thread(target=process.wait, name="faas-gateway-reaper", daemon=True).start()
        line = _read_line(ready, deadline)
    finally:
        os.close(ready)
    if line == "ready":
        return
    if line is None:
        process.terminate()
        raise GatewayStartError(f"The gateway was not ready in time{_tail(log)}", hint=f"see {log}")
    if line.startswith("error "):
        raise GatewayStartError(f"The gateway could not start: {line.removeprefix('error ')}", hint=f"see {log}")
    raise GatewayStartError(f"The gateway ended while it started{_tail(log)}", hint=f"see {log}")


def _spawn(log: Path, ready: int) -> subprocess.Popen[bytes]:
    with contextlib.suppress(OSError):
        if log.stat().st_size > _LOG_ROTATE_BYTES:
            log.replace(log.with_suffix(".log.1"))
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "faas_gateway", "--embedded", "--ready-fd", str(ready)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(ready,),
            start_new_session=True,  # Ctrl-C in the terminal of this process is not for the gateway
            cwd="/",
        )
    except OSError as error:
        raise GatewayStartError(f"{sys.executable} cannot be started: {error.strerror}") from error
    finally:
        os.close(output)


def _read_line(descriptor: int, deadline: float) -> str | None:
    """The gateway's line, "" when it ended without one, None at the deadline."""
    received = b""
    while b"\n" not in received:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not select.select([descriptor], [], [], remaining)[0]:
            return None
        chunk = os.read(descriptor, 4096)
        if not chunk:
            return ""
        received += chunk
    return received.split(b"\n", 1)[0].decode(errors="replace")


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            text = file.read(_LOG_TAIL_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""
    return f". The end of its log:\n{text}\n" if text else ""
