"""Environments: list and get."""

from __future__ import annotations

from typing import Annotated

from faas.types import Environment, EnvironmentPage
from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from faas_gateway.api.deps import GatewayDep
from faas_gateway.api.responses import json_response, problems
from faas_gateway.errors import InvalidRequestError

router = APIRouter(prefix="/environments", tags=["environments"])


@router.get("", response_model=EnvironmentPage, responses=problems(422), operation_id="list_environments")
async def list_environments(
    gateway: GatewayDep, cursor: Annotated[str | None, Query(max_length=256)] = None
) -> Response:
    """All environments, by name."""
    if cursor is not None:  # there is one page of them, so no cursor was ever given
        raise InvalidRequestError("cursor: it is not one that this gateway gave")
    return json_response(EnvironmentPage(items=gateway.environments.list()))


@router.get("/{name}", response_model=Environment, responses=problems(404), operation_id="get_environment")
async def get_environment(gateway: GatewayDep, name: Annotated[str, Path(max_length=64)]) -> Response:
    """One environment and the state of its build."""
    return json_response(gateway.environments.get(name))
