"""What a request leaves behind: its texts and outputs, kept within bounds, put together as an ExecutionResult."""

from __future__ import annotations

from typing import Any, Literal, cast

from faas_gateway.managers.messages import Message

StreamName = Literal["stdout", "stderr"]


def utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def cut_utf8(text: str, size: int) -> str:
    """The longest beginning of a text that fits into `size` bytes of UTF-8."""
    if utf8_size(text) <= size:
        return text
    return text.encode("utf-8", "surrogatepass")[:size].decode("utf-8", "ignore")


class _Text:
    """One stream's text, up to a size in bytes."""

    def __init__(self, limit: int) -> None:
        self._parts: list[str] = []
        self._room = limit

    def add(self, text: str) -> bool:
        """Keep what fits; False when something did not."""
        size = utf8_size(text)
        if size <= self._room:
            self._parts.append(text)
            self._room -= size
            return True
        self._parts.append(cut_utf8(text, self._room))
        self._room = 0
        return False

    def value(self) -> str:
        return "".join(self._parts)

    def clear(self) -> None:
        self._parts.clear()


class ResultBuilder:
    """Collects a request's output with the meaning that nbformat gives it.

    Args:
        text_bytes: kept of stdout, and of stderr.
        outputs_bytes: kept of the outputs together.
    """

    def __init__(self, *, text_bytes: int, outputs_bytes: int) -> None:
        self._texts = {"stdout": _Text(text_bytes), "stderr": _Text(text_bytes)}
        self._outputs: list[tuple[int, dict[str, Any]]] = []
        self._by_display_id: dict[str, list[int]] = {}
        self._outputs_size = 0
        self._outputs_limit = outputs_bytes
        self._clear_on_next = False
        self._dropped = 0
        #: What is kept for the result is not all that came; followers of the events had it all.
        self.truncated = False
        #: Output was not even taken.
        self.lost = False

    def stream(self, name: StreamName, text: str) -> None:
        if not self._texts[name].add(text):
            self.truncated = True

    def message(self, message: Message) -> None:
        match message.msg_type:
            case "display_data" | "execute_result":
                self._display(message)
            case "update_display_data":
                self._update(message)
            case "clear_output":
                if message.content.get("wait"):
                    self._clear_on_next = True
                else:
                    self._clear()
            case _:
                pass

    def clear(self) -> None:
        """Let go of all texts and outputs."""
        for text in self._texts.values():
            text.clear()
        self._clear()

    def dropped(self) -> None:
        """Count a message that was not fit to be forwarded."""
        self._dropped += 1

    @property
    def stdout(self) -> str:
        return self._texts["stdout"].value()

    @property
    def stderr(self) -> str:
        return self._texts["stderr"].value()

    @property
    def outputs(self) -> list[dict[str, Any]]:
        return [output for _, output in self._outputs]

    def notes(self) -> list[str]:
        if not self._dropped:
            return []
        return [f"{self._dropped} malformed or oversized messages from the sandbox were dropped"]

    def _display(self, message: Message) -> None:
        if self._clear_on_next:
            self._clear()
        output: dict[str, Any] = {
            "output_type": message.msg_type,
            "data": message.content["data"],
            "metadata": message.content.get("metadata", {}),
        }
        if message.msg_type == "execute_result":
            output["execution_count"] = message.content.get("execution_count")
        size = len(message.data)
        if self._outputs_size + size > self._outputs_limit:
            self.truncated = True
            return
        self._outputs_size += size
        self._outputs.append((size, output))
        display_id = _display_id(message)
        if display_id is not None:
            self._by_display_id.setdefault(display_id, []).append(len(self._outputs) - 1)

    def _update(self, message: Message) -> None:
        display_id = _display_id(message)
        size = len(message.data)
        for index in self._by_display_id.get(display_id or "", ()):
            old_size, output = self._outputs[index]
            if self._outputs_size - old_size + size > self._outputs_limit:
                self.truncated = True
                continue
            self._outputs_size += size - old_size
            output["data"] = message.content["data"]
            output["metadata"] = message.content.get("metadata", {})
            self._outputs[index] = (size, output)

    def _clear(self) -> None:
        self._outputs.clear()
        self._by_display_id.clear()
        self._outputs_size = 0
        self._clear_on_next = False


def _display_id(message: Message) -> str | None:
    transient = cast("dict[str, Any]", message.content.get("transient") or {})
    display_id = transient.get("display_id")
    return display_id if isinstance(display_id, str) else None
