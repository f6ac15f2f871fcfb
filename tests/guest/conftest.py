"""Fixtures of the guest's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from guest.portable_pair import Pair

from faas_gateway.backends.native.runtime_layer import write_guest


@pytest.fixture(scope="module")
def guest_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest as it is laid down in a sandbox."""
    folder = tmp_path_factory.mktemp("guest")
    write_guest(folder)
    return folder / "opt/faas"


@pytest.fixture
def pair(guest_folder: Path, tmp_path: Path) -> Pair:
    return Pair(guest_folder, tmp_path)
