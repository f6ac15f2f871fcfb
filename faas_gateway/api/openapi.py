"""What FastAPI's description of the API cannot know by itself."""

from __future__ import annotations

from typing import Any, cast

from fastapi import FastAPI

from faas_gateway.api.responses import JSON, PROBLEM


def document_problems(app: FastAPI) -> None:
    """Give problems their media type, and drop FastAPI's own model of validation errors, which is never sent."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            for path in cast("dict[str, dict[str, Any]]", schema["paths"]).values():
                for operation in path.values():
                    _correct(operation["responses"])
            for unused in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(unused, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi


def _correct(responses: dict[str, Any]) -> None:
    for status, response in list(responses.items()):
        content = response.get("content", {})
        schema = content.get(JSON, {}).get("schema", {})
        if str(schema.get("$ref", "")).endswith("/HTTPValidationError"):
            del responses[status]
        elif int(status) >= 400 and JSON in content:
            content[PROBLEM] = content.pop(JSON)
