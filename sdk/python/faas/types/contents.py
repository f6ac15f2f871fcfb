"""What a session holds: files and variables."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field

from faas.types.common import ResponseModel


class FileInfo(ResponseModel):
    path: str
    name: str
    type: Literal["file", "directory", "symlink", "other"]
    size: int = Field(default=0, description="bytes")
    mode: int = 0
    modified_at: dt.datetime | None = None


class FileList(ResponseModel):
    items: list[FileInfo]


class VariableInfo(ResponseModel):
    """One variable of a session, as a variable inspector shows it."""

    name: str
    type: str
    module: str = ""
    shape: list[int] | None = None
    dtype: str | None = None
    size_bytes: int | None = None
    preview: str = ""


class VariableList(ResponseModel):
    items: list[VariableInfo]
