"""FAAS_LOG=debug: one line per request on stderr. Ids, paths and times; never keys, headers or code."""

from __future__ import annotations

import logging
import os
import sys

from faas.errors import ConfigurationError

__all__ = ["configure", "request_line"]

_logger = logging.getLogger("faas")
_LEVELS = ("debug", "info", "warning", "error")


class _StderrHandler(logging.Handler):
    """Writes to whatever sys.stderr is now: a notebook replaces it after we are imported."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def configure() -> None:
    """Do what FAAS_LOG says. Idempotent; without FAAS_LOG the logger is left to the application."""
    level = os.environ.get("FAAS_LOG", "").strip().lower()
    if not level:
        return
    if level not in _LEVELS:
        raise ConfigurationError(f"FAAS_LOG is {level!r}", hint=f"one of {', '.join(_LEVELS)}")
    _logger.setLevel(level.upper())
    if not any(isinstance(handler, _StderrHandler) for handler in _logger.handlers):
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        _logger.addHandler(handler)


def request_line(method: str, path: str, outcome: int | str, seconds: float, request_id: str) -> None:
    """Log one request: `outcome` is the status, or the name of the error that stood in for an answer."""
    if _logger.isEnabledFor(logging.DEBUG):
        _logger.debug("%s %s %s %s %.1f ms", request_id or "-", method, path, outcome, seconds * 1000)
