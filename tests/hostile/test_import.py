"""Streams that claim to be a layer, uppers that change under a copy, and pipes whose other end means harm."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faas_gateway.backends.native.kept import ImportLimits, InvalidLayer, KeptLayers, LayerTooLarge

MIB = 1 << 20
LIMITS = ImportLimits(size_bytes=8 * MIB, entries=200, depth=20)


@pytest.fixture
def kept(tmp_path: Path) -> KeptLayers:
    (tmp_path / "kept").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("untouched")
    return KeptLayers(tmp_path / "kept")


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def stream(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.TarFile(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in members:
            info, data = entry if isinstance(entry, tuple) else (entry, b"")
            if data:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def take(kept: KeptLayers, data: bytes, tmp_path: Path, limits: ImportLimits = LIMITS) -> Path:
    with (tmp_path / "stream").open("w+b") as f:
        f.write(data)
        f.seek(0)
        kept.import_("l-1", f.fileno(), limits)
    return kept.path("l-1")


def folder(name: str, **fields: object) -> tarfile.TarInfo:
    return member(name, tarfile.DIRTYPE, mode=0o755, **fields)


def link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.LNKTYPE, linkname=target)


OUT = "../../../outside"
REACHING_OUT = {
    "an absolute path": [(member("/tmp/x"), b"x")],
    "dots": [(member(f"{OUT}/file"), b"x")],
    "dots inside": [(member(f"a/../{OUT}/file"), b"x")],
    "dots as a name": [folder("..")],
    "through a link": [link("l", OUT), (member("l/file"), b"x")],
    "through an absolute link": [link("l", "/"), (member("l/tmp/x"), b"x")],
    "through a link to a link": [link("m", OUT), link("l", "m"), (member("l/file"), b"x")],
    "a folder over a link, then into it": [link("l", OUT), (member("l/sub/file"), b"x")],
    "a hard link through a link": [link("l", OUT), hard("h", "l/file")],
    "a hard link with dots": [hard("h", f"{OUT}/file")],
    "a hard link to an absolute path": [hard("h", "/etc/passwd")],
    "a hard link to a folder": [folder("d"), hard("h", "d")],
    "a hard link to what comes later": [hard("h", "later"), (member("later"), b"x")],
    "a hard link to itself": [(member("h"), b"x"), hard("h", "h")],
    "a whiteout through a link": [link("l", OUT), member("l/.wh.file")],
    "an opaque mark through a link": [link("l", OUT), member("l/.wh..wh..opq")],
    "a whiteout of the parent": [folder("d"), member("d/.wh...")],
    "a whiteout of nothing": [member(".wh.")],
    "a whiteout of a folder that is there": [folder("d"), member(".wh.d")],
    "a mark that hides the whole image": [member(".wh..wh..opq")],
    "a device": [member("d", tarfile.BLKTYPE, devmajor=8)],
    "a character device": [member("d", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "a FIFO": [member("d", tarfile.FIFOTYPE)],
    "a file in the place of a folder": [folder("d"), (member("d"), b"x")],
    "a name that is too long": [member("n" * 256)],
    "a link to nothing": [link("l", "")],
    "a link that is too long": [link("l", "x" * 5000)],
}


@pytest.mark.parametrize("name", REACHING_OUT)
def test_refused_and_nothing_is_left(kept: KeptLayers, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidLayer):
        take(kept, stream(*REACHING_OUT[name]), tmp_path)
    assert os.listdir(tmp_path / "kept") == []
    assert (tmp_path / "outside/file").read_text() == "untouched"
    assert os.listdir(tmp_path / "outside") == ["file"]
    assert not os.path.lexists("/tmp/x")


TOO_MUCH = {
    "bytes": [(member(f"f{n}"), bytes(3 * MIB)) for n in range(3)],
    "one file": [(member("f"), bytes(9 * MIB))],
    "entries": [member(f"f{n}") for n in range(201)],
    "folders that nobody named": [member("/".join(f"d{n}" for _ in range(15)) + "/f") for n in range(20)],
    "the same file again and again": [member("f") for _ in range(201)],
    "depth": [folder("/".join("d" * 21))],
    "a hole": [
        member("f", pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 50), "GNU.sparse.numblocks": "1"})
    ],
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_more_than_allowed_is_refused_and_nothing_is_left(kept: KeptLayers, tmp_path: Path, name: str) -> None:
    with pytest.raises(LayerTooLarge):
        take(kept, stream(*TOO_MUCH[name]), tmp_path)
    assert os.listdir(tmp_path / "kept") == []


def header(**fields: bytes) -> bytes:
    """A header of 512 bytes by hand, its checksum right."""
    places = {
        "name": (0, 100),
        "mode": (100, 8),
        "size": (124, 12),
        "mtime": (136, 12),
        "type": (156, 1),
        "magic": (257, 8),
    }
    block = bytearray(512)
    for name, value in {
        "magic": b"ustar\x0000",
        "mode": b"0000644\0",
        "size": b"0" * 11 + b"\0",
        "type": b"0",
        **fields,
    }.items():
        start, _ = places[name]
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)
GOOD = stream((member("good"), b"x" * 600))
BROKEN = {
    "nothing": b"",
    "not a tar": b"PK\x03\x04" * 1000,
    "cut in a header": GOOD[:300],
    "cut in the data": GOOD[:700],
    "cut before the end": GOOD[:1536],
    "junk after a member": GOOD[:1536] + b"junk" * 500,
    "a size below nothing": header(name=b"f", size=b"\xff" * 12) + END,
    "a size without end": header(name=b"f", size=b"\x80" + b"\xff" * 11) + END,
    "a pax header of a gigabyte": header(name=b"p", type=b"x", size=b"10000000000\0") + bytes(2 * MIB),
    "a long name of a gigabyte": header(name=b"p", type=b"L", size=b"10000000000\0") + bytes(2 * MIB),
    "pax headers without end": (header(name=b"p", type=b"x", size=b"00000000013\0") + b"11 path=ab\n".ljust(512, b"\0"))
    * 3000,
    "a pax record that is longer than it is": header(name=b"p", type=b"x", size=b"00000000013\0")
    + b"99 path=ab\n".ljust(512, b"\0")
    + END,
    "a sparse map of nonsense": stream(member("f", pax_headers={"GNU.sparse.map": "5,-3", "GNU.sparse.size": "9"})),
    "pieces that overlap": stream(
        (member("f", pax_headers={"GNU.sparse.map": "0,4,2,4", "GNU.sparse.size": "9"}), b"x" * 8)
    ),
    "a piece past the end": stream(
        (member("f", pax_headers={"GNU.sparse.map": "8,4", "GNU.sparse.size": "9"}), b"x" * 4)
    ),
    "a sparse map without end": stream(
        (member("f", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), b"99999999\n" + b"0\n" * MIB)
    ),
    "a number that is none": stream(member("f", pax_headers={"GNU.sparse.map": "x,y"})),
    "a huge number": stream(member("f", pax_headers={"GNU.sparse.map": "9" * 5000 + ",1"})),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_layer_is_refused_soon(kept: KeptLayers, tmp_path: Path, name: str) -> None:
    start = time.monotonic()
    with pytest.raises((InvalidLayer, LayerTooLarge)):
        take(kept, BROKEN[name], tmp_path)
    assert time.monotonic() - start < 10
    assert os.listdir(tmp_path / "kept") == []


def test_every_cut_of_a_good_stream_is_refused_or_whole(kept: KeptLayers, tmp_path: Path) -> None:
    good = stream(folder("d"), (member("d/f"), b"x" * 700), link("l", "d"), hard("h", "d/f"), member("d/.wh.gone"))
    outcomes = set()
    for cut in range(0, len(good), 100):
        try:
            take(kept, good[:cut], tmp_path)
        except InvalidLayer:
            outcomes.add("refused")
            continue
        outcomes.add("whole")
        assert sorted(kept.listing(["l-1"])) == ["/d", "/d/f", "/d/gone", "/h", "/l"]
        assert kept.drop("l-1")
    assert outcomes == {"refused", "whole"}


def test_rights_and_owners_are_ours_to_say(kept: KeptLayers, tmp_path: Path) -> None:
    data = stream(
        (member("suid", mode=0o6755, uid=0, gid=0, uname="root"), b"x"),
        folder("d", uid=12345),
        member(
            "d/odd",
            mode=0o7777,
            pax_headers={
                "SCHILY.xattr.user.overlay.opaque": "y",
                "SCHILY.xattr.security.capability": "\x01\0\0\x02",
                "SCHILY.xattr.trusted.overlay.opaque": "y",
                "SCHILY.xattr.user.mine": "kept",
            },
        ),
        folder("shut"),
        (member("shut/in"), b"x"),
        folder("shut"),
        (member("late"), b"1"),
        (member("late"), b"22"),
        link("replaced", "/etc/passwd"),
        (member("replaced"), b"now a file"),
    )
    layer = take(kept, data, tmp_path)
    for path in layer.rglob("*"):
        st = path.lstat()
        assert not st.st_mode & 0o6000
        assert st.st_uid == (61_000 if os.geteuid() == 0 else os.geteuid())
    assert os.listxattr(layer / "d/odd") == ["user.mine"]
    assert (layer / "late").read_text() == "22"
    assert (layer / "replaced").read_text() == "now a file"
    assert stat.S_ISREG((layer / "replaced").lstat().st_mode)


def test_an_export_into_a_pipe_that_nobody_reads_any_more_ends(kept: KeptLayers, tmp_path: Path) -> None:
    take(kept, stream((member("f"), bytes(2 * MIB))), tmp_path)
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        kept.export(["l-1"], write)
    os.close(write)


def swap_links(base: Path) -> None:
    """What a hostile process does: the same name is a folder, a link out, a file and a FIFO in turn."""
    name = base / "swapped"
    with contextlib.suppress(OSError):
        name.symlink_to(base.parent / "outside")
    with contextlib.suppress(OSError):
        name.unlink()
    with contextlib.suppress(OSError):
        name.mkdir()
        (name / "inner").write_text("mine")
    with contextlib.suppress(OSError):
        os.rename(name, base / "away")
        os.unlink(base / "away/inner")
        os.rmdir(base / "away")
    with contextlib.suppress(OSError):
        os.mkfifo(name)
    with contextlib.suppress(OSError):
        name.unlink()
        name.write_text("a file")
        name.unlink()


def grow(base: Path) -> None:
    with (base / "growing").open("ab") as f:
        f.write(b"x" * 65536)
    if (base / "growing").stat().st_size > 4 * MIB:
        os.truncate(base / "growing", 10)


@pytest.mark.parametrize("mischief", [swap_links, grow])
def test_a_copy_never_leaves_an_upper_that_changes_under_it(
    kept: KeptLayers, tmp_path: Path, mischief: Callable[[Path], None]
) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    for n in range(50):
        (upper / f"f{n}").write_text("x")
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            mischief(upper)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        copied = 0
        end = time.monotonic() + 4
        while time.monotonic() < end:
            name = f"l-{copied}"
            kept.copy(upper, name)
            listing = kept.listing([name])
            assert sum(path.startswith("/f") for path in listing) == 50
            assert "/swapped/file" not in listing  # which only lies outside
            assert kept.drop(name)
            copied += 1
    finally:
        stop.set()
        thread.join()
    assert copied > 5
    assert (tmp_path / "outside/file").read_text() == "untouched"
