"""Where the embedded gateway of this user lives: one rule, used by the client and by the gateway.

Standard library only: the gateway imports this before anything else.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from faas.errors import ConfigurationError

__all__ = ["ensure_private_dir", "lock_path", "log_path", "runtime_dir", "socket_path", "state_dir"]

#: sun_path of a Unix socket address holds 108 bytes, the last of them a NUL (unix(7)).
_MAX_SOCKET_PATH = 107


def runtime_dir() -> Path:
    """The folder of the socket, the lock and the log. It need not exist yet (see `ensure_private_dir`).

    FAAS_RUNTIME_DIR, else XDG_RUNTIME_DIR/faas where that is this user's private folder, else /tmp/faas-UID.
    """
    if explicit := os.environ.get("FAAS_RUNTIME_DIR"):
        return _absolute("FAAS_RUNTIME_DIR", explicit)
    xdg = os.environ.get("XDG_RUNTIME_DIR", "")
    if xdg.startswith("/") and _private_dir_problem(Path(xdg)) is None:
        return Path(xdg, "faas")
    return Path(f"/tmp/faas-{os.geteuid()}")  # its owner and mode are checked before it is used


def state_dir() -> Path:
    """What outlives the gateway: FAAS_STATE_DIR, else XDG_STATE_HOME/faas, else ~/.local/state/faas."""
    if explicit := os.environ.get("FAAS_STATE_DIR"):
        return _absolute("FAAS_STATE_DIR", explicit)
    xdg = os.environ.get("XDG_STATE_HOME", "")
    if xdg.startswith("/"):  # the XDG specification says that a relative path is to be ignored
        return Path(xdg, "faas")
    try:
        return Path.home() / ".local" / "state" / "faas"
    except RuntimeError as error:
        raise ConfigurationError(
            "This user has no home directory to keep the gateway's state in", hint="set FAAS_STATE_DIR"
        ) from error


def socket_path(directory: Path | None = None) -> Path:
    """The gateway's Unix socket."""
    path = (directory or runtime_dir()) / "gateway.sock"
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ConfigurationError(
            f"The path {path} is too long for a Unix socket ({_MAX_SOCKET_PATH} bytes at most)",
            hint="set FAAS_RUNTIME_DIR to a shorter path",
        )
    return path


def lock_path(directory: Path | None = None) -> Path:
    """The file whose lock (flock) lets one process at a time start the gateway."""
    return (directory or runtime_dir()) / "gateway.lock"


def log_path(directory: Path | None = None) -> Path:
    """Where the gateway's output goes."""
    return (directory or runtime_dir()) / "gateway.log"


def ensure_private_dir(path: Path) -> Path:
    """Make the folder if it is not there, and refuse one that anyone else could have prepared or could enter.

    Raises:
        ConfigurationError: it is a link, no folder, another user's, or open to others.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigurationError(
            f"The folder {path} cannot be made: {error.strerror}",
            hint="set FAAS_RUNTIME_DIR to a folder that you can write to",
        ) from error
    if problem := _private_dir_problem(path):
        raise ConfigurationError(
            f"The folder {path} {problem}, so it is not used",
            hint=f"chmod 700 {path} if it is yours, or set FAAS_RUNTIME_DIR to another folder",
        )
    return path


def _private_dir_problem(path: Path) -> str | None:
    try:
        status = path.lstat()
    except OSError as error:
        return f"cannot be examined ({error.strerror})"
    if not stat.S_ISDIR(status.st_mode):
        return "is not a real folder"
    if status.st_uid != os.geteuid():
        return f"belongs to another user (uid {status.st_uid})"
    if status.st_mode & 0o077:
        return f"is open to other users (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def _absolute(name: str, value: str) -> Path:
    # The gateway runs in /, so a relative path would mean another folder there.
    if not value.startswith("/"):
        raise ConfigurationError(f"{name} is {value!r}, which is not an absolute path")
    return Path(value)
