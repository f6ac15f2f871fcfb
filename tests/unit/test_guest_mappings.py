"""The list of a process's mappings is read whatever files of the user's are mapped."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from faas_gateway.guest import mappings


@pytest.mark.parametrize("name", [b"\xff", b"a\rb", b" two words ", "漢字".encode()])
def test_a_mapped_file_of_any_name_is_listed(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb+") as file:
        file.write(bytes(4096))
        file.flush()
        with mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ):
            inode = os.fstat(file.fileno()).st_ino
            (area,) = [area for area in mappings.areas() if area.inode == inode]
            assert (area.mode, area.end - area.start, area.offset) == ("r--p", 4096, 0)
