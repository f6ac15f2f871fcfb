"""Kept layers: the union as overlayfs shows it, one stream out and in, and copies of uppers that are in use."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from faas_gateway.backends.native.kept import CopyLimits, KeptLayers, LayerTooLarge
from faas_gateway.backends.native.kept import store as kept_store

FAR = 1_600_000_000_123_456_789


@pytest.fixture
def kept(tmp_path: Path) -> KeptLayers:
    (tmp_path / "kept").mkdir()
    return KeptLayers(tmp_path / "kept")


def make(kept: KeptLayers, name: str, fill: Callable[[Path], object]) -> str:
    folder = kept.path(name)
    folder.mkdir(parents=True)
    fill(folder)
    return name


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


def opaque(path: Path) -> None:
    os.setxattr(path, "user.overlay.opaque", b"y")


def first(folder: Path) -> None:
    """The lower one."""
    (folder / "workspace/deep/er").mkdir(parents=True)
    (folder / "workspace/kept.txt").write_text("from below")
    (folder / "workspace/over.txt").write_text("below")
    (folder / "workspace/gone.txt").write_text("below")
    (folder / "workspace/deep/er/file").write_text("x")
    (folder / "workspace/closed").mkdir()
    (folder / "workspace/closed/hidden").write_text("x")
    (folder / "workspace/turns").mkdir()
    (folder / "workspace/turns/file").write_text("x")
    whiteout(folder / "etc")
    whiteout(folder / "workspace/back")


def second(folder: Path) -> None:
    """The upper one."""
    (folder / "workspace/deep/er").mkdir(parents=True)
    (folder / "workspace/over.txt").write_text("above!")
    os.utime(folder / "workspace/over.txt", ns=(FAR, FAR))
    whiteout(folder / "workspace/gone.txt")
    (folder / "workspace/closed").mkdir()
    opaque(folder / "workspace/closed")
    (folder / "workspace/closed/new").write_text("n")
    (folder / "workspace/turns").write_text("a file now")
    (folder / "workspace/back").mkdir()
    (folder / "workspace/back/b").write_text("b")
    (folder / "workspace/link").symlink_to("/etc/passwd")


def test_the_union_is_what_overlayfs_shows(kept: KeptLayers) -> None:
    layers = (make(kept, "l-2", second), make(kept, "l-1", first))
    assert all(map(kept.has, layers))
    listing = kept.listing(layers)
    assert {path: (kind, size) for path, (kind, size, _) in listing.items()} == {
        "/etc": ("deleted", 0),
        "/workspace": ("directory", 0),
        "/workspace/back": ("directory", 0),
        "/workspace/back/b": ("file", 1),
        "/workspace/closed": ("directory", 0),
        "/workspace/closed/new": ("file", 1),
        "/workspace/deep": ("directory", 0),
        "/workspace/deep/er": ("directory", 0),
        "/workspace/deep/er/file": ("file", 1),
        "/workspace/gone.txt": ("deleted", 0),
        "/workspace/kept.txt": ("file", 10),
        "/workspace/link": ("symlink", 0),
        "/workspace/over.txt": ("file", 6),
        "/workspace/turns": ("file", 10),
    }
    assert listing["/workspace/over.txt"][2] == pytest.approx(FAR / 1e9)
    opaques = [entry.path for entry in kept.merged(layers) if entry.opaque]
    assert opaques == ["/workspace/back", "/workspace/closed"]


OVERLAY = """
import os, subprocess, sys
base, script = sys.argv[1:]
mount = f"mount -t overlay overlay -o lowerdir={base}/image,upperdir={base}/u,workdir={base}/w,userxattr {base}/m"
subprocess.run(mount.split(), check=True)
os.chdir(f"{base}/m")
exec(script)
"""


def overlay(base: Path, script: str) -> Path:
    """An upper directory as the kernel writes it: of script, over an image with d/a, d/b, f and g/h."""
    for folder in ("u", "w", "m", "image/d", "image/g"):
        (base / folder).mkdir(parents=True)
    for file in ("d/a", "d/b", "f", "g/h"):
        (base / "image" / file).write_text(file)
    command = ["unshare", "-Urm", sys.executable, "-c", OVERLAY, str(base), script]
    made = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if made.returncode and ("mount" in made.stderr or "unshare" in made.stderr):
        pytest.skip(f"no overlay here: {made.stderr.strip().splitlines()[-1]}")
    assert made.returncode == 0, made.stderr
    return base / "u"


SCRIPT = """
import shutil
os.unlink("f"); os.unlink("d/a"); open("d/c", "w").write("new")
shutil.rmtree("g"); os.mkdir("g"); open("g/i", "w").write("again")
os.link("d/c", "d/linked"); os.chmod("d/c", 0o640)
"""


def test_an_upper_of_the_kernels_own_is_copied_exported_and_imported(kept: KeptLayers, tmp_path: Path) -> None:
    upper = overlay(tmp_path / "o", SCRIPT)
    assert kept.copy(upper, "l-a") == []
    kept.settle("l-a")
    expected = {
        "/d": "directory",
        "/d/a": "deleted",
        "/d/c": "file",
        "/d/linked": "file",
        "/f": "deleted",
        "/g": "directory",
        "/g/i": "file",
    }
    assert {path: kind for path, (kind, _, _) in kept.listing(["l-a"]).items()} == expected
    with (tmp_path / "stream").open("w+b") as stream:
        assert kept.export(["l-a"], stream.fileno()) == []
        stream.seek(0)
        kept.import_("l-b", stream.fileno())
    assert kept.listing(["l-b"]) == kept.listing(["l-a"])
    assert [e.path for e in kept.merged(["l-b"]) if e.opaque] == ["/g"]
    linked = kept.path("l-b") / "d/c"
    assert linked.stat().st_ino == (kept.path("l-b") / "d/linked").stat().st_ino
    assert stat.S_IMODE(linked.stat().st_mode) == 0o640


def test_a_stream_has_whiteouts_as_in_oci_layers(kept: KeptLayers, tmp_path: Path) -> None:
    layers = (make(kept, "l-2", second), make(kept, "l-1", first))
    with (tmp_path / "stream").open("w+b") as stream:
        assert kept.export(layers, stream.fileno()) == []
        stream.seek(0)
        with tarfile.open(fileobj=stream) as tar:
            names = tar.getnames()
    assert {".wh.etc", "workspace/.wh.gone.txt", "workspace/closed/.wh..wh..opq"} <= set(names)
    assert "workspace/closed/hidden" not in names
    assert len(names) == len(set(names))


def everything(folder: Path) -> None:
    (folder / "a").mkdir(mode=0o1777)
    (folder / "a/mode").write_text("m")
    (folder / "a/mode").chmod(0o4711)
    (folder / "a/shut").write_text("s")
    (folder / "a/shut").chmod(0)
    os.link(folder / "a/mode", folder / "a/zlink")
    (folder / "a/dangling").symlink_to("../../../nowhere")
    os.link(folder / "a/dangling", folder / "a/zdangling", follow_symlinks=False)
    (folder / ".wh.mine").write_text("not a whiteout")
    (folder / ".wh.folder").mkdir()
    (folder / ".wh.folder/.wh.mine").write_text("neither")
    (folder / "ü" / ("n" * 200)).mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe\n")).write_text("no text")
    os.setxattr(folder / "a/mode", "user.mine", b"\0\xffany\n")
    os.setxattr(folder / "a", "user.folder", b"too")
    with (folder / "holes").open("wb") as f:
        f.seek(5 << 20)
        f.write(b"middle")
        f.truncate(200 << 20)
    with (folder / "starts full").open("wb") as f:
        f.write(b"begin" * 2000)
        f.truncate(50 << 20)
    (folder / "only a hole").touch()
    os.truncate(folder / "only a hole", 30 << 20)
    (folder / "empty").touch()
    (folder / "big").write_bytes(os.urandom(3_000_001))
    os.utime(folder / "big", ns=(FAR, FAR))
    os.utime(folder / "a", ns=(FAR, FAR))
    os.mkfifo(folder / "fifo")


def compare(one: Path, other: Path, *, drops_setuid: bool = True) -> None:
    names = sorted(os.listdir(os.fsencode(one)))
    assert [n for n in names if n != b"fifo"] == sorted(os.listdir(os.fsencode(other)))
    for name in names:
        a, b = one / os.fsdecode(name), other / os.fsdecode(name)
        if name == b"fifo":
            continue
        x, y = a.lstat(), b.lstat()
        assert stat.S_IFMT(x.st_mode) == stat.S_IFMT(y.st_mode)
        assert x.st_mode & 0o1777 == y.st_mode & 0o1777 or a.is_symlink()
        assert not y.st_mode & 0o6000 or a.is_symlink()
        assert (x.st_nlink, x.st_mtime_ns) == (y.st_nlink, y.st_mtime_ns) or a.is_dir()
        if a.is_symlink():
            assert a.readlink() == b.readlink()
        elif a.is_dir():
            assert x.st_mtime_ns == y.st_mtime_ns
            compare(a, b)
        elif x.st_mode & 0o400 or os.geteuid() == 0:
            assert (x.st_size, a.read_bytes()) == (y.st_size, b.read_bytes())
            assert y.st_blocks <= x.st_blocks + 64
        own = [n for n in os.listxattr(a, follow_symlinks=False) if n.startswith("user.")]
        for attribute in own:
            assert os.getxattr(a, attribute) == os.getxattr(b, attribute)


def test_a_stream_loses_nothing(kept: KeptLayers, tmp_path: Path) -> None:
    make(kept, "l-1", everything)
    with (tmp_path / "stream").open("w+b") as stream:
        skipped = kept.export(["l-1"], stream.fileno())
        assert [(s.path, "neither" in s.reason) for s in skipped] == [("/fifo", True)]
        assert stream.tell() < 8 << 20  # holes take no room
        stream.seek(0)
        kept.import_("l-2", stream.fileno())
    compare(kept.path("l-1"), kept.path("l-2"))
    assert all((p.lstat().st_uid == kept_store.HOST_UID) == (os.geteuid() == 0) for p in kept.path("l-2").rglob("*"))


def test_a_copy_loses_nothing(kept: KeptLayers, tmp_path: Path) -> None:
    make(kept, "l-1", everything)
    skipped = kept.copy(kept.path("l-1"), "l-2")
    assert [s.path for s in skipped] == ["/fifo"]
    compare(kept.path("l-1"), kept.path("l-2"))


def test_a_copy_from_another_file_system_loses_nothing(kept: KeptLayers) -> None:
    shm = Path("/dev/shm") / f"kept-test-{os.getpid()}"
    shm.mkdir()
    try:
        with contextlib.suppress(OSError):  # tmpfs has user attributes from Linux 6.6 on
            os.setxattr(shm, "user.any", b"x")
        try:
            everything(shm)
        except OSError as e:
            pytest.skip(f"no extended attributes in /dev/shm: {e}")
        kept.copy(shm, "l-2")
        compare(shm, kept.path("l-2"))
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", str(shm)], check=True)
        subprocess.run(["rm", "-rf", str(shm)], check=True)


def test_a_copy_by_descriptor(kept: KeptLayers, tmp_path: Path) -> None:
    (tmp_path / "u").mkdir()
    (tmp_path / "u/f").write_text("x")
    fd = os.open(tmp_path / "u", os.O_RDONLY | os.O_DIRECTORY)
    kept.copy(fd, "l-1")
    os.close(fd)
    assert (kept.path("l-1") / "f").read_text() == "x"


@pytest.mark.parametrize("limits", [CopyLimits(size_bytes=1000), CopyLimits(entries=3)])
def test_a_copy_over_a_limit_leaves_nothing(kept: KeptLayers, limits: CopyLimits, tmp_path: Path) -> None:
    make(kept, "l-1", everything)
    with pytest.raises(LayerTooLarge):
        kept.copy(kept.path("l-1"), "l-2", limits)
    assert os.listdir(tmp_path / "kept") == ["l-1"]


def test_what_lies_too_deep_is_named(kept: KeptLayers) -> None:
    make(kept, "l-1", lambda folder: (folder / "/".join("abcdefghij")).mkdir(parents=True))
    (skipped,) = kept.copy(kept.path("l-1"), "l-2", CopyLimits(depth=4))
    assert skipped.path == "/a/b/c/d/e"
    assert list(kept.listing(["l-2"])) == ["/a", "/a/b", "/a/b/c", "/a/b/c/d"]


def test_depth_costs_no_descriptors(kept: KeptLayers, tmp_path: Path) -> None:
    folder = kept.path("l-1")
    folder.mkdir(parents=True)
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(700):  # beyond what a path may be long
        os.mkdir("longname", dir_fd=fd)
        fd, before = os.open("longname", os.O_RDONLY, dir_fd=fd), fd
        os.close(before)
    os.close(fd)
    assert kept.copy(folder, "l-2") == []
    assert len(list(kept.merged(["l-2"] * 3))) == 700
    with (tmp_path / "stream").open("w+b") as stream:
        kept.export(["l-2"], stream.fileno())
        stream.seek(0)
        kept.import_("l-3", stream.fileno())
    assert len(kept.listing(["l-3"])) == 700
    assert all(kept.drop(name) for name in ("l-1", "l-2", "l-3"))


def test_size_is_counted_once_and_links_are_counted_once(kept: KeptLayers) -> None:
    def fill(folder: Path) -> None:
        (folder / "a").write_bytes(os.urandom(100_000))
        os.link(folder / "a", folder / "b")

    make(kept, "l-1", fill)
    size = kept.size_bytes("l-1")
    assert 100_000 <= size < 140_000
    (kept.path("l-1") / "c").write_bytes(b"x" * 100_000)  # which nobody does
    assert kept.size_bytes("l-1") == size
    assert kept.listing(["l-1"]).keys() == {"/a", "/b", "/c"}
    with pytest.raises(FileNotFoundError):
        kept.size_bytes("l-none")


def test_sweeping_leaves_what_is_needed(kept: KeptLayers, tmp_path: Path) -> None:
    for name in ("l-1", "l-2", "l-3"):
        make(kept, name, everything)
    (tmp_path / "kept/l-4.part/u").mkdir(parents=True)
    (tmp_path / "kept/stray").write_text("")
    assert kept.sweep(["l-2"]) == []
    assert os.listdir(tmp_path / "kept") == ["l-2"]
    assert kept.drop("l-2")
    assert kept.drop("l-2")
    assert not kept.has("l-2")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "A", "x.part", "-x"])
def test_what_is_no_name_is_refused(kept: KeptLayers, name: str) -> None:
    for call in (kept.has, kept.drop, kept.size_bytes, kept.settle):
        with pytest.raises(ValueError, match="name of a layer"):
            call(name)


def test_a_layer_is_not_made_twice(kept: KeptLayers) -> None:
    make(kept, "l-1", first)
    with pytest.raises(FileExistsError):
        kept.copy(kept.path("l-1"), "l-1")
    with pytest.raises(FileExistsError):
        kept.import_("l-1", 0)
    assert kept.has("l-1")


def test_export_into_a_pipe(kept: KeptLayers) -> None:
    make(kept, "l-1", second)
    read, write = os.pipe()
    found = io.BytesIO()

    def reader() -> None:
        while data := os.read(read, 65536):
            found.write(data)

    thread = threading.Thread(target=reader)
    thread.start()
    kept.export(["l-1"], write)
    os.close(write)
    thread.join(20)
    os.close(read)
    found.seek(0)
    with tarfile.open(fileobj=found) as tar:
        assert "workspace/over.txt" in tar.getnames()


def test_folders_that_are_closed_to_their_owner_are_kept_so(kept: KeptLayers, tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "shut/in/deep").mkdir(parents=True)
        (folder / "shut/in/deep/file").write_text("x")
        (folder / "shut/in").chmod(0o200)
        (folder / "shut").chmod(0)

    make(kept, "l-1", fill)
    assert kept.copy(kept.path("l-1"), "l-2") == []
    with (tmp_path / "stream").open("w+b") as stream:
        assert kept.export(["l-2"], stream.fileno()) == []
        stream.seek(0)
        kept.import_("l-3", stream.fileno())
    for name in ("l-1", "l-2", "l-3"):
        found = {e.path: stat.S_IMODE(e.st.st_mode) for e in kept.merged([name]) if e.kind == "directory"}
        assert (found["/shut"], found["/shut/in"]) == (0, 0o200)
        assert "/shut/in/deep/file" in kept.listing([name])
        assert kept.drop(name)
