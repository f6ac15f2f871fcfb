"""The HTTP application over an open gateway."""

from __future__ import annotations

from faas import __version__
from fastapi import APIRouter, Depends, FastAPI

from faas_gateway.activity import Activity
from faas_gateway.api import handlers
from faas_gateway.api.deps import check_query
from faas_gateway.api.middleware import RequestMiddleware
from faas_gateway.api.openapi import document_problems
from faas_gateway.api.routes import code, environments, executions, files, snapshots, system, variables
from faas_gateway.managers.gateway import Gateway

API = "/api/v1"


def create_app(gateway: Gateway, activity: Activity) -> FastAPI:
    """The application.

    Args:
        gateway: what the routes call; its owner closes it after the last request.
        activity: told of every request.
    """
    app = FastAPI(
        title="FaaS notebooks gateway",
        version=__version__,
        description="Runs code in sandboxes. Errors are application/problem+json with a stable `code`.",
        separate_input_output_schemas=False,
        redirect_slashes=False,
        redoc_url=None,
        dependencies=[Depends(check_query)],
    )
    app.state.gateway = gateway
    api = APIRouter(prefix=API)
    for module in (environments, code, executions, files, variables, snapshots):
        api.include_router(module.router)
    app.include_router(system.router)
    app.include_router(api)
    handlers.install(app)
    document_problems(app)
    settings = gateway.settings

    def body_limit(method: str, path: str) -> int | None:
        if method == "PUT" and "/files/" in path:
            return None  # streamed; the sandbox's disk limit holds
        if method == "POST" and path == f"{API}/snapshots/import":
            return None  # streamed; its reader has bounds of its own
        if method == "PUT" and "/variables/" in path:
            return settings.value_body_bytes
        return settings.json_body_bytes

    app.add_middleware(RequestMiddleware, activity=activity, body_limit=body_limit, stall_s=settings.body_stall_s)
    return app
