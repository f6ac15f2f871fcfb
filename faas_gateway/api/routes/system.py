"""Whether the gateway is there."""

from __future__ import annotations

from faas.types import Health
from fastapi import APIRouter
from starlette.responses import Response

from faas_gateway.api.deps import GatewayDep
from faas_gateway.api.responses import json_response, problems

router = APIRouter(tags=["system"])


@router.get("/healthz", response_model=Health, responses=problems(), operation_id="health")
async def health(gateway: GatewayDep) -> Response:
    """Version, process id and backend of the gateway that answers."""
    return json_response(gateway.health())
