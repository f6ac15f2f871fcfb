"""Folders in and out: what goes out is whole, what comes in is hostile."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from faas._pack import file_chunks, tar_chunks
from faas._unpack import FileWriter, TarExtractor
from faas.errors import UnsafeArchiveError

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", **fields: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return member(name, type=kind, linkname=target)


def tar(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def extract(data: bytes, folder: Path, size: int = 1 << 16, **limits: int) -> None:
    extractor = TarExtractor(folder, **limits)
    try:
        for start in range(0, len(data), size):
            extractor.feed(data[start : start + size])
        extractor.finish()
    finally:
        extractor.close()


def tree(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "sub" / ("long" * 50)).write_bytes(b"long name")
    (source / "ä 😀.txt").write_text("text")
    (source / "big").write_bytes(os.urandom(3 << 20))
    (source / "nothing").touch()
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "link").symlink_to("sub/empty")
    os.utime(source / "run.sh", (1_000_000_000, 1_000_000_000))
    os.mkfifo(source / "fifo")
    return source


@pytest.mark.parametrize("size", [511, 4096, 1 << 20])
def test_folder_arrives_as_it_was(folder: Path, tmp_path: Path, size: int):
    extract(b"".join(tar_chunks(folder)), tmp_path / "copy", size)
    (folder / "fifo").unlink()
    assert tree(tmp_path / "copy") == tree(folder)
    status = (tmp_path / "copy" / "run.sh").stat()
    assert stat.S_IMODE(status.st_mode) == 0o755
    assert status.st_mtime == 1_000_000_000


def test_tarfile_reads_what_we_pack(folder: Path):
    with tarfile.open(fileobj=io.BytesIO(b"".join(tar_chunks(folder)))) as archive:
        assert "sub/" + "long" * 50 in archive.getnames()
        big = archive.extractfile("big")
        assert big is not None
        assert big.read() == (folder / "big").read_bytes()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("size", [1, 100, 1 << 16])
def test_every_tar_format_is_read(tmp_path: Path, form: int, size: int):
    name = "d/" * 30 + "x" * 60 if form == tarfile.USTAR_FORMAT else "d/" * 60 + "x" * 200
    extract(tar(member(name, b"deep"), member("after", b"1"), link("l", "after"), form=form), tmp_path, size)
    assert (tmp_path / name).read_bytes() == b"deep"
    assert (tmp_path / "l").read_bytes() == b"1"


def test_chunks_of_a_file_that_shrinks_keep_the_archive_whole(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x" * (3 << 20))
    (tmp_path / "b").write_bytes(b"after")
    chunks = tar_chunks(tmp_path)
    data = next(chunks)
    (tmp_path / "a").write_bytes(b"short")
    data += b"".join(chunks)
    extract(data, tmp_path / "copy")
    assert (tmp_path / "copy" / "a").stat().st_size == 3 << 20
    assert (tmp_path / "copy" / "b").read_bytes() == b"after"


OUTSIDE: dict[str, Callable[[Path], list[Member]]] = {
    "parent": lambda out: [member("../evil", b"x")],
    "parent inside": lambda out: [member("a/../../evil", b"x")],
    "absolute": lambda out: [member(str(out / "evil"), b"x")],
    "link up": lambda out: [link("l", "../evil")],
    "link absolute": lambda out: [link("l", "/etc")],
    "link up from below": lambda out: [link("a/l", "../../evil")],
    "link through a link": lambda out: [link("a/b/up", "../.."), link("l", "a/b/up/../../x")],
    "write through a link": lambda out: [member("a", type=tarfile.DIRTYPE), link("l", "a"), member("l/f", b"x")],
    "hard link up": lambda out: [link("h", "../evil", tarfile.LNKTYPE)],
    "hard link absolute": lambda out: [link("h", str(out / "precious"), tarfile.LNKTYPE)],
    "hard link through a link": lambda out: [link("a", "."), link("h", "a/../x", tarfile.LNKTYPE)],
    "hard link to a link": lambda out: [link("l", "x"), link("h", "l", tarfile.LNKTYPE)],
    "replaces a folder": lambda out: [member("d/f", b"x"), member("d", b"x")],
    "folder over a file": lambda out: [member("d", b"x"), member("d/f", b"x")],
    "sparse": lambda out: [member("s", type=tarfile.GNUTYPE_SPARSE)],
    "too deep": lambda out: [member("d/" * 200 + "f", b"x")],
    "nul in a path": lambda out: [member("a", pax_headers={"path": "a\0b"})],
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_leaves_the_folder_is_refused(tmp_path: Path, name: str):
    (tmp_path / "precious").write_bytes(b"mine")
    target = tmp_path / "target"
    with pytest.raises(UnsafeArchiveError, match="refused"):
        extract(tar(*OUTSIDE[name](tmp_path)), target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "target"]
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert all(path.resolve().is_relative_to(target) for path in target.rglob("*"))


def test_links_that_stay_inside_are_made(tmp_path: Path):
    extract(
        tar(member("a/f", b"x"), link("a/l", "../a/f"), link("top", "a"), link("h", "a/f", tarfile.LNKTYPE)), tmp_path
    )
    assert (tmp_path / "a" / "l").read_bytes() == b"x"
    assert (tmp_path / "top" / "f").read_bytes() == b"x"
    assert (tmp_path / "h").stat().st_ino == (tmp_path / "a" / "f").stat().st_ino


def test_a_file_replaces_a_link_and_does_not_write_through_it(tmp_path: Path):
    (tmp_path / "precious").write_bytes(b"mine")
    target = tmp_path / "target"
    target.mkdir()
    (target / "f").symlink_to(tmp_path / "precious")
    extract(tar(member("f", b"new")), target)
    assert (target / "f").read_bytes() == b"new"
    assert (tmp_path / "precious").read_bytes() == b"mine"


def test_devices_and_fifos_are_skipped_and_set_id_bits_dropped(tmp_path: Path):
    extract(
        tar(
            member("dev", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
            member("fifo", type=tarfile.FIFOTYPE),
            member("suid", b"x", mode=0o6777),
            member("after", b"y"),
        ),
        tmp_path,
    )
    assert tree(tmp_path) == {"suid": b"x", "after": b"y"}
    assert stat.S_IMODE((tmp_path / "suid").stat().st_mode) == 0o755


def test_more_bytes_than_the_limit_are_refused_before_they_are_written(tmp_path: Path):
    with pytest.raises(UnsafeArchiveError, match="larger than the limit"):
        extract(tar(member("a", b"x" * 600), member("b", b"x" * 600)), tmp_path, max_bytes=1000)
    assert tree(tmp_path) == {"a": b"x" * 600}


def test_more_members_than_the_limit_are_refused(tmp_path: Path):
    with pytest.raises(UnsafeArchiveError, match="more members"):
        extract(tar(*(member(f"f{n}") for n in range(11))), tmp_path, max_members=10)


def test_huge_extended_header_is_refused_unread(tmp_path: Path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(UnsafeArchiveError, match="extended header"):
        extract(header.tobuf(tarfile.GNU_FORMAT), tmp_path)


@pytest.mark.parametrize("record", [b"-5 path=x\n", b"9999999 path=x\n", b"0 path=x\n", b"path=x\n", b"11 size=-1\n"])
def test_damaged_extended_header_is_refused(tmp_path: Path, record: bytes):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    data = header.tobuf() + record + bytes(512 - len(record)) + tarfile.TarInfo("f").tobuf() + bytes(1024)
    with pytest.raises(UnsafeArchiveError, match="refused"):
        extract(data, tmp_path)


@pytest.mark.parametrize("data", [b"x" * 2048, b"", tar(member("f", b"x" * 5000))[:3000]])
def test_what_is_no_tar_or_not_whole_is_refused(tmp_path: Path, data: bytes):
    with pytest.raises(UnsafeArchiveError, match=r"damaged|did not come whole"):
        extract(data, tmp_path)


def test_absurd_times_are_no_error(tmp_path: Path):
    extract(tar(*(member(name, b"x", pax_headers={"mtime": name}) for name in ("nan", "inf", "1e300"))), tmp_path)
    assert len(tree(tmp_path)) == 3


def test_download_that_breaks_off_leaves_the_old_file_and_no_other(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"old")
    writer = FileWriter(tmp_path / "f")
    writer.feed(b"half")
    writer.close()
    assert tree(tmp_path) == {"f": b"old"}


def test_download_of_a_file_is_bounded(tmp_path: Path):
    writer = FileWriter(tmp_path / "f", max_bytes=10)
    with pytest.raises(UnsafeArchiveError, match="larger than the limit"):
        writer.feed(b"x" * 11)
    writer.close()
    assert tree(tmp_path) == {}


def test_file_comes_in_pieces(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"x" * (5 << 19))
    assert [len(chunk) for chunk in file_chunks(tmp_path / "f")] == [1 << 20, 1 << 20, 1 << 19]
