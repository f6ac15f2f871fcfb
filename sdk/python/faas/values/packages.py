"""The optional packages, loaded only when a value of theirs is met. They are untyped: any version will do."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from .errors import ValueDecodeError

__all__ = ["Package", "load"]

Package = Literal["numpy", "pandas", "scipy.sparse", "PIL.Image", "pyarrow", "pytz"]

_DISTRIBUTIONS: dict[Package, str] = {
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy.sparse": "scipy",
    "PIL.Image": "pillow",
    "pyarrow": "pyarrow",
    "pytz": "pytz",
}


def load(package: Package) -> Any:
    """Import a known package; raises ValueDecodeError that says what to install where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        distribution = _DISTRIBUTIONS[package]
        raise ValueDecodeError(
            f"the value needs {distribution}, which can't be imported here ({error}): pip install {distribution}"
        ) from error
