"""Environments: named recipes, and the state of their builds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from faas.types.common import Resources, ResponseModel


class Environment(ResponseModel):
    """A named recipe, and the state of its build."""

    name: str
    version: str
    language: str
    base_image: str
    description: str = ""
    layers: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    resources: Resources = Field(default_factory=lambda: Resources())
    network: str = "none"
    cache_strategy: str = "layers"
    features: list[str] = Field(default_factory=list)
    status: Literal["ready", "not_built", "building", "failed"] = "not_built"
    warm: bool = Field(default=False, description="a preloaded process is waiting")
    notes: list[str] = Field(default_factory=list)


class EnvironmentPage(ResponseModel):
    items: list[Environment]
    next_cursor: str | None = None
