"""Logging: one line each on stderr, with the request's id, and never code, values or keys."""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import traceback
from types import TracebackType
from typing import cast

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")

LEVELS = {"debug", "info", "warning", "error", "critical"}

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class OneLine(logging.Formatter):
    """Keeps a record on one line, and leaves out the messages of exceptions: they may quote a user's values."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        return super().format(record).replace("\n", " | ")

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - the standard library's name
        kind, exc, tb = ei
        if kind is None or exc is None:
            return ""
        frames = traceback.extract_tb(tb)[-8:]
        where = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in reversed(frames))
        why = f" ({exc.strerror})" if isinstance(exc, OSError) else ""
        inner = ""
        if isinstance(exc, BaseExceptionGroup):
            members = cast("BaseExceptionGroup[BaseException]", exc).exceptions
            inner = "; ".join(self.formatException((type(e), e, e.__traceback__)) for e in members)
        return f"{kind.__name__}{why} at {where}{': ' + inner if inner else ''}"


def configure() -> None:
    """Send all logging to stderr at the level of FAAS_LOG (default: warning)."""
    level = os.environ.get("FAAS_LOG", "").strip().lower()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel((level if level in LEVELS else "warning").upper())
    # At debug the libraries below would print SQL parameters and headers: only our own loggers go that far.
    for name in ("uvicorn", "uvicorn.error", "sqlalchemy", "httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
