"""Completion of the magic's line: options, environments, sessions, variables.

A matcher of IPython's second API says itself which part of the line it replaces, so names with hyphens
complete.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from IPython.core.completer import (
    CompletionContext,
    SimpleCompletion,
    SimpleMatcherResult,
    context_matcher,  # pyright: ignore[reportUnknownVariableType]
)

from faas_magics.options import DEFAULT_SESSION, OPTIONS, Option

if TYPE_CHECKING:
    from faas_magics.sessions import Sessions

__all__ = ["IDENTIFIER", "complete_line", "make_matcher"]

IDENTIFIER = "faas_magics.options"
_LINE = re.compile(r"\s*%%?faas[ \t]")
_ASSIGNED = re.compile(r"^([^\W\d]\w*)[ \t]*(?::[^=\n]+)?=(?!=)", re.MULTILINE)
_EXAMPLES = {"--timeout": ("60",), "--memory": ("1024", "2048", "4096"), "--cpus": ("1", "2")}


def make_matcher(shell: Any, sessions: Sessions) -> Callable[[CompletionContext], SimpleMatcherResult]:
    """Return the matcher to append to `ip.Completer.custom_matchers`."""

    @context_matcher(identifier=IDENTIFIER)  # pyright: ignore[reportUntypedFunctionDecorator]
    def matcher(context: CompletionContext) -> SimpleMatcherResult:
        before = context.text_until_cursor
        if not _LINE.match(before):
            return SimpleMatcherResult(completions=[], suppress=False)
        body = context.full_text.split("\n", context.cursor_line + 1)[context.cursor_line + 1 :]
        fragment, kind, words = complete_line(before, "".join(body), shell.user_ns, shell.user_ns_hidden, sessions)
        return SimpleMatcherResult(
            completions=[SimpleCompletion(word, type=kind) for word in words],
            matched_fragment=fragment,
            suppress=True,
            ordered=True,
        )

    return matcher


def complete_line(
    before: str, body: str, names: dict[str, Any], hidden: Iterable[str], sessions: Sessions
) -> tuple[str, str, list[str]]:
    """Return what to replace, its kind, and the candidates.

    Arguments: the magic's line up to the cursor; the lines below it; the notebook's variables and which of
    them are IPython's own; the sessions of this notebook.
    """
    used, option, fragment = _position(before)
    if option is None:
        words = [flag for flag in OPTIONS if flag not in used]
        return fragment, "param", _starting(words, fragment)
    if option.is_list:
        *listed, fragment = fragment.split(",")
        own = _own_variables(names, hidden)
        words = own if option.flag == "--in" else [*_ASSIGNED.findall(body), *own]
        return fragment, "variable", [word for word in _starting(words, fragment) if word not in listed]
    if option.flag == "--env":
        return fragment, "environment", _starting(_environments(), fragment)
    if option.flag == "--name":
        return fragment, "session", _starting(_session_names(sessions), fragment)
    return fragment, "value", _starting(_EXAMPLES.get(option.flag, ()), fragment)


def _position(before: str) -> tuple[set[str], Option | None, str]:
    """Return the options before the cursor, the one whose value is being written, the word at the cursor."""
    words = re.split(r"[ \t]+", before.lstrip())[1:]
    used: set[str] = set()
    option: Option | None = None
    for word in words[:-1]:
        flag, equals, value = word.partition("=")
        if flag in OPTIONS:
            used.add(flag)
            option = OPTIONS[flag] if OPTIONS[flag].convert is not None else None
            if equals and not (option is not None and option.is_list and value.endswith(",")):
                option = None
        elif not (option is not None and option.is_list and word.endswith(",")):
            option = None
    fragment = words[-1] if words else ""
    flag, equals, value = fragment.partition("=")
    if equals and flag in OPTIONS and OPTIONS[flag].convert is not None:
        return used, OPTIONS[flag], value
    return used, option, fragment


def _starting(words: Iterable[str], fragment: str) -> list[str]:
    return [word for word in dict.fromkeys(words) if word.startswith(fragment)]


def _own_variables(names: dict[str, Any], hidden: Iterable[str]) -> list[str]:
    hidden = set(hidden)
    not_data = (types.ModuleType, types.FunctionType, type)
    return sorted(
        name
        for name, value in names.items()
        if name not in hidden and not name.startswith("_") and not isinstance(value, not_data)
    )


def _environments() -> list[str]:
    from faas._names import SHIPPED_ENVIRONMENTS

    from faas_magics.probe import ask

    return sorted({*SHIPPED_ENVIRONMENTS, *_names(ask("/api/v1/environments"))})


def _session_names(sessions: Sessions) -> list[str]:
    from faas_magics.probe import ask

    running = [
        item
        for item in ask("/api/v1/executions?limit=200")
        if item.get("ended_at") is None and not _is_private(item.get("labels"))
    ]
    return sorted({*(session.name for session in sessions.known()), *_names(running)})


def _is_private(labels: Any) -> bool:
    return isinstance(labels, dict) and cast("dict[str, Any]", labels).get("session") == DEFAULT_SESSION


def _names(items: list[dict[str, Any]]) -> list[str]:
    return [item["name"] for item in items if isinstance(item.get("name"), str)]
