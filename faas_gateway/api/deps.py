"""What the routes are given."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Path
from starlette.requests import Request

from faas_gateway.errors import InvalidRequestError, suggest
from faas_gateway.managers.gateway import Gateway


async def get_gateway(request: Request) -> Gateway:
    return cast(Gateway, request.app.state.gateway)


async def check_query(request: Request) -> None:
    """Refuse options that the route does not know: a misspelt one would do nothing, silently."""
    if not request.scope["query_string"]:
        return
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            hint = f"{suggest(name, known)} Known: {', '.join(sorted(known)) or 'none'}.".strip()
            raise InvalidRequestError(f"{name}: unknown option", hint=hint)


GatewayDep = Annotated[Gateway, Depends(get_gateway)]
ExecutionPath = Annotated[str, Path(alias="execution", max_length=64, description="an execution's id or name")]
RequestPath = Annotated[str, Path(alias="request_id", max_length=64)]
SnapshotPath = Annotated[str, Path(alias="snapshot", max_length=64, description="a snapshot's id or name")]
