"""What a guest reports of a fork, as the contract has it. User code ran in it: its words are bounded and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args, get_type_hints

from faas_gateway.backends.base import Loss, Receipt

_TEXT, _ITEMS = 300, 100
_KINDS = get_args(get_type_hints(Loss)["kind"])
_EFFECTS = get_args(get_type_hints(Loss)["effect"])
BESIDE = (
    "own mount, network and ipc namespaces; the pid namespace is shared with its relatives, since no deeper one can be "
    "made: dormant ones are hidden and cannot be read, but their numbers can be signalled"
)
OWN_NAMESPACES = (
    "own pid, user, mount, network and ipc namespaces below its parent's; dormant relatives are not visible"
)


def _text(value: Any) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(v) for v in value[:_ITEMS]) if isinstance(value, list) else ()  # type: ignore[index]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}  # type: ignore[return-value]


def losses(value: Any, limit: int = _ITEMS) -> list[Loss]:
    """Losses as a guest names them; what is none is left out."""
    found: list[Loss] = []
    for item in value[:limit] if isinstance(value, list) else []:  # type: ignore[index]
        if isinstance(item, dict) and item.get("kind") in _KINDS and item.get("effect", "lost") in _EFFECTS:  # type: ignore[union-attr]
            found.append(
                Loss(item["kind"], _text(item.get("name")), _text(item.get("reason")), item.get("effect", "lost"))  # type: ignore[arg-type]
            )
    return found


def of_branch(answer: Mapping[str, Any]) -> Receipt:
    """Of a branch, from what it said when it was ready."""
    m = _mapping(answer.get("receipt"))
    return Receipt(
        reseeded=_texts(m.get("reseeded")),
        closed_connections=_texts(m.get("closed_connections")),
        lost_threads=_texts(m.get("lost_threads")),
        lost_processes=_texts(m.get("lost_processes")),
        reopened_files=_texts(m.get("reopened_files")),
        copied_files=_texts(m.get("copied_files")),
        remapped=_texts(m.get("remapped")),
        lost=tuple(losses(m.get("lost"))),
        isolation=BESIDE if answer.get("beside") else OWN_NAMESPACES,
    )


def of_snapshot(answer: Mapping[str, Any]) -> Receipt:
    """Of a snapshot: what happened to the session that goes on, and how long it stood still."""
    parked = _mapping(answer.get("parked"))
    receipt = of_branch(answer)
    began, at = parked.get("parked"), answer.get("at")
    stopped = at - began if isinstance(began, float) and isinstance(at, float) and 0 <= at - began < 3600 else None
    return replace(receipt, stopped_s=stopped, paused_runtimes=_texts(parked.get("paused_runtimes")))
