"""One error instead of a group of one: what a task group that only serves its own block should raise."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def single_error() -> Generator[None]:
    """Raise the first error of a group in its place."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]  # type: ignore[assignment]
        raise error from None
