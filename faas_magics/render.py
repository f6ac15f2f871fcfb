"""Shows a remote cell's Jupyter messages as if the cell had run here."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from faas.types import OutputEvent

__all__ = ["RemoteResult", "Renderer"]

#: After a flush, output that follows within this time is left to the kernel's own timer (0.2 s), which
#: keeps a cell that prints a million lines as fast as a local one.
_FLUSH_EVERY_S = 0.05

#: A reference to a model that lives in the sandbox's comms: a front end cannot show it, so the text form is
#: used.
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class RemoteResult:
    """The value of a remote cell's last expression, as the sandbox displayed it.

    It holds the mime bundle, not the object: `--out` copies objects.
    """

    def __init__(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self.data = data
        self.metadata = metadata

    def __repr__(self) -> str:
        kinds = ", ".join(self.data) or "nothing"
        return str(self.data.get("text/plain", f"<remote result: {kinds}>"))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        # Images stay base64 text, as in the message: IPython encodes bytes only, so nothing is encoded twice.
        return self.data, self.metadata


class Renderer:
    """Takes the events of one request in order; `finish` gives what the magic has to return."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._held: RemoteResult | None = None
        self._last_stream = ""
        self._flushed_at = 0.0
        self.error: dict[str, Any] | None = None
        """Content of the `error` message, in case the result has no traceback."""

    def show(self, event: OutputEvent) -> None:
        """Show one message. Messages of a later feature (comms) and unknown ones are passed over."""
        content = event.content
        match event.msg_type:
            case "stream":
                self._stream(str(content.get("name", "stdout")), event.text)
            case "display_data" | "update_display_data":
                self._settle()
                self._display(content, update=event.msg_type == "update_display_data")
            case "execute_result":
                self._settle()
                self._held = RemoteResult(*_bundle(content))
            case "clear_output":
                self._settle()
                self._shell.display_pub.clear_output(wait=bool(content.get("wait")))
            case "error":
                self.error = content
            case _:
                pass

    def finish(self, *, success: bool) -> RemoteResult | None:
        """Flush, and return the result for IPython to show as Out[n], if it has not been shown yet."""
        held = self._held
        if not success:
            self._settle()
            held = None
        self._held = None
        sys.stdout.flush()
        sys.stderr.flush()
        return held

    def _settle(self) -> None:
        # A result is returned by the magic, so it would come last. Output that follows it (inline figures
        # do) has to come after it, as in a local cell: then it is shown here instead.
        if self._held is not None:
            held, self._held = self._held, None
            sys.displayhook(held)

    def _stream(self, name: str, text: str) -> None:
        self._settle()
        if self._last_stream and name != self._last_stream:
            # The two streams have a buffer each: keep the order in which they were written.
            (sys.stderr if self._last_stream == "stderr" else sys.stdout).flush()
            self._flushed_at = 0.0
        self._last_stream = name
        target = sys.stderr if name == "stderr" else sys.stdout
        target.write(text)
        now = time.monotonic()
        if now - self._flushed_at >= _FLUSH_EVERY_S:
            target.flush()
            self._flushed_at = time.monotonic()

    def _display(self, content: dict[str, Any], *, update: bool) -> None:
        data, metadata = _bundle(content)
        self._shell.display_pub.publish(data, metadata, transient=_mapping(content.get("transient")), update=update)


def _bundle(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    data = _mapping(content.get("data"))
    if "text/plain" in data:
        data.pop(_WIDGET_VIEW, None)
    return data, _mapping(content.get("metadata"))


def _mapping(value: object) -> dict[str, Any]:
    # What a sandbox sends need not be what the protocol says, and IPython refuses anything but dictionaries.
    return dict(cast("dict[str, Any]", value)) if isinstance(value, dict) else {}
