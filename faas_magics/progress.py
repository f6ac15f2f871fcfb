"""One line that shows how far a session is, when it takes longer than a moment."""

from __future__ import annotations

import html
import sys
import time
import uuid
from types import TracebackType
from typing import TYPE_CHECKING, Any

from faas_magics.interrupts import Interrupts

if TYPE_CHECKING:
    from faas.types import Progress

__all__ = ["ProgressLine"]

_DELAY_S = 0.5
_STYLE = "font-family: var(--jp-ui-font-family, sans-serif); font-size: 13px; opacity: 0.85; padding: 2px 0"


class ProgressLine:
    """Context manager around the opening of a session; calling it takes a progress event.

    It is driven by the events alone (the gateway sends one every 0.25 s): no thread, and nothing at all is
    shown when the work is done before 0.5 s have passed. When it is done, one quiet line stays that says
    how long it took.
    """

    def __init__(self, shell: Any, title: str, interrupts: Interrupts) -> None:
        self._shell = shell
        self._title = title
        self._interrupts = interrupts
        self._started = time.monotonic()
        self._display_id = ""
        self._width = 0
        self._step = ""

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._display_id:
            return
        took = f"{self._elapsed():.1f} s"
        if exc is None:
            self._show(f"{self._title} ready in {took}", None, last=True)
        else:
            self._show(f"{self._title}: stopped after {took} while: {self._step}", None, last=True)

    def __call__(self, progress: Progress) -> None:
        """Take an event; called by the SDK while it waits for the gateway."""
        with self._interrupts.shielded():
            self._step = progress.message or progress.stage
            if self._elapsed() < _DELAY_S:
                return
            percent = "" if progress.fraction is None else f"{progress.fraction:.0%} · "
            text = f"{self._title}: {self._step} ({percent}{self._elapsed():.1f} s)"
            self._show(text, progress.fraction)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _show(self, text: str, fraction: float | None, *, last: bool = False) -> None:
        first, self._display_id = not self._display_id, self._display_id or f"faas-{uuid.uuid4().hex}"
        if getattr(self._shell, "kernel", None) is None:
            # A terminal cannot update a display: rewrite the line.
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{text:<{self._width}}" + ("\n" if last else ""))
                sys.stderr.flush()
                self._width = len(text)
            return
        self._shell.display_pub.publish(
            {"text/plain": text, "text/html": _html(text, fraction)},
            {},
            transient={"display_id": self._display_id},
            update=not first,
        )


def _html(text: str, fraction: float | None) -> str:
    bar = ""
    if fraction is not None:
        bar = (
            '<span style="display: inline-block; width: 160px; height: 6px; margin-right: 10px; '
            "border-radius: 3px; overflow: hidden; vertical-align: middle; "
            'background: rgba(128, 128, 128, 0.3)">'
            f'<span style="display: block; width: {fraction:.0%}; height: 6px; '
            'background: var(--jp-brand-color1, #2979ff)"></span></span>'
        )
    return f'<div style="{_STYLE}">{bar}{html.escape(text)}</div>'
