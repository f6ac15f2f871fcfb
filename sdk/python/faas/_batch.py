"""The requests of a batch. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faas._calls import new_request_id
from faas.types import OneShotCreate

__all__ = ["batch_fields"]


def batch_fields(
    requests: Sequence[str | Mapping[str, object] | OneShotCreate], common: Mapping[str, object]
) -> list[dict[str, Any]]:
    """The fields of each request: what is common to all, and on top of it what each says itself."""
    shared = {name: value for name, value in common.items() if value is not None}
    fields: list[dict[str, Any]] = []
    for request in requests:
        if isinstance(request, str):
            own: Mapping[str, object] = {"code": request}
        elif isinstance(request, OneShotCreate):
            own = {name: getattr(request, name) for name in request.model_fields_set}
        else:
            own = request
        given = {name: value for name, value in own.items() if value is not None}
        fields.append({"request_id": new_request_id(), **shared, **given})
    return fields
