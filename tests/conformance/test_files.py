"""Files in and out of a sandbox."""

from __future__ import annotations

import errno
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator

import anyio
import pytest
from contract import Create, pieces, value

from faas_gateway.backends.base import FileProblem, Image, Sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("conformance-files")]


@pytest.fixture(params=["python", "shell"])
async def sandbox(request: pytest.FixtureRequest, create: Create, python: Image, shell: Image) -> Sandbox:
    return await create(python if request.param == "python" else shell)


async def read(sandbox: Sandbox, path: str) -> bytes:
    return b"".join([chunk async for chunk in sandbox.read_file(path)])


@pytest.mark.parametrize(
    "path", ["plain.txt", "a/b/c.txt", "/tmp/absolute", "ü 漢字 🐍.txt", "-dash", "quote'\"$x\\", " space "]
)
async def test_what_was_written_is_read(sandbox: Sandbox, path: str) -> None:
    await sandbox.write_file(path, pieces(b"one ", b"", b"two"))
    assert await read(sandbox, path) == b"one two"
    entry = await sandbox.stat_file(path)
    assert (entry.path, entry.type, entry.size) == (path, "file", 7)


async def test_writing_replaces_and_keeps_the_mode(create: Create, python: Image) -> None:
    sandbox = await create(python)
    await sandbox.write_file("x", pieces(b"#!/bin/sh\necho first"))
    await value(sandbox, "import os; os.chmod('x', 0o755)")
    await sandbox.write_file("x", pieces(b"#!/bin/sh\necho second"))
    assert (await sandbox.stat_file("x")).mode == 0o755
    assert await value(sandbox, "import subprocess; print(subprocess.check_output(['./x']).decode())") == "second"


async def test_an_empty_file_is_a_file(sandbox: Sandbox) -> None:
    await sandbox.write_file("empty", pieces())
    assert await read(sandbox, "empty") == b""


async def test_a_large_file_arrives_whole_both_ways(sandbox: Sandbox) -> None:
    size, digest = 50 << 20, hashlib.sha256()
    block = bytes(range(256)) * 4096

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(size // len(block)):
            digest.update(block)
            yield block

    await sandbox.write_file("large", blocks())
    assert (await sandbox.stat_file("large")).size == size
    back = hashlib.sha256()
    async for chunk in sandbox.read_file("large"):
        back.update(chunk)
    assert back.digest() == digest.digest()


async def test_an_upload_that_breaks_off_leaves_no_file(sandbox: Sandbox) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await sandbox.write_file("folder/x", broken())
    with anyio.fail_after(5):
        while await names(sandbox, "folder"):
            await anyio.sleep(0.02)


async def names(sandbox: Sandbox, path: str) -> list[str]:
    try:
        return [e.name for e in await sandbox.list_files(path)]
    except FileProblem:
        return []


async def test_a_folder_is_listed_by_name_with_kinds(create: Create, python: Image) -> None:
    sandbox = await create(python)
    await value(
        sandbox,
        "import os\nos.makedirs('f/sub'); open('f/b', 'w').write('xyz'); os.symlink('b', 'f/link'); os.mkfifo('f/pipe')",
    )
    found = await sandbox.list_files("f")
    assert [(e.name, e.path, e.type) for e in found] == [
        ("b", "f/b", "file"),
        ("link", "f/link", "symlink"),
        ("pipe", "f/pipe", "other"),
        ("sub", "f/sub", "directory"),
    ]
    assert found[0].size == 3
    (one,) = await sandbox.list_files("f/b")
    assert one.path == "f/b"
    assert [e.path for e in await sandbox.list_files(".")] == ["f"]


async def test_deleting_takes_files_folders_and_links_but_not_what_links_point_to(
    create: Create, python: Image
) -> None:
    sandbox = await create(python)
    await value(
        sandbox,
        "import os\nos.makedirs('f/sub'); open('f/sub/x', 'w').close(); open('kept', 'w').close(); os.symlink('kept', 'link')",
    )
    for path in ("f", "link"):
        await sandbox.delete_file(path)
    assert [e.name for e in await sandbox.list_files(".")] == ["kept"]


ERRORS = {
    "read what is not there": (lambda s: read(s, "nothing"), errno.ENOENT),
    "stat what is not there": (lambda s: s.stat_file("nothing"), errno.ENOENT),
    "list what is not there": (lambda s: s.list_files("nothing"), errno.ENOENT),
    "delete what is not there": (lambda s: s.delete_file("nothing"), errno.ENOENT),
    "below a file": (lambda s: s.write_file("/bin/sh/x", pieces(b"")), errno.ENOTDIR),
    "write to a folder": (lambda s: s.write_file("/tmp", pieces(b"")), errno.EISDIR),
    "write to a read-only tree": (lambda s: s.write_file("/usr/bin/x", pieces(b"")), errno.EROFS),
    "delete from a read-only tree": (lambda s: s.delete_file("/usr/bin/env"), errno.EROFS),
    "read a device": (lambda s: read(s, "/dev/zero"), errno.EINVAL),
    "read what is shut": (lambda s: read(s, "/proc/1/environ"), errno.EACCES),
    "a name that is too long": (lambda s: s.write_file("x" * 300, pieces(b"")), errno.ENAMETOOLONG),
    "an archive that is none": (lambda s: s.write_file("f", pieces(b"no tar" * 1000), untar=True), errno.EINVAL),
}


@pytest.mark.parametrize("name", ERRORS)
async def test_a_file_problem_has_its_errno(sandbox: Sandbox, name: str) -> None:
    call, number = ERRORS[name]
    with pytest.raises(FileProblem) as caught:
        await call(sandbox)
    assert caught.value.errno == number
    assert str(caught.value)


async def test_a_folder_travels_as_an_archive_both_ways(create: Create, python: Image) -> None:
    sandbox = await create(python)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in (("a/ü.txt", 0o644), ("run", 0o755)):
            info = tarfile.TarInfo(name)
            info.size, info.mode = 3, mode
            tar.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "run"
        tar.addfile(link)
        device = tarfile.TarInfo("device")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        tar.addfile(device)
    data = buffer.getvalue()
    await sandbox.write_file("folder", pieces(data[:1000], data[1000:]), untar=True)
    listed = await value(
        sandbox,
        "import os\nfor r, d, f in os.walk('folder'): print(r, sorted(d), sorted(f), oct(os.stat('folder/run').st_mode))",
    )
    assert listed == "folder ['a'] ['link', 'run'] 0o100755\nfolder/a [] ['ü.txt'] 0o100755"
    with tarfile.open(fileobj=io.BytesIO(await read(sandbox, "folder"))) as tar:
        members = {m.name: m for m in tar.getmembers()}
        assert set(members) == {".", "./a", "./a/ü.txt", "./run", "./link"}
        assert members["./link"].linkname == "run"
        found = tar.extractfile("./a/ü.txt")
        assert found is not None
        assert found.read() == b"abc"


async def test_pipes_and_devices_are_left_out_of_an_archive(create: Create, python: Image) -> None:
    sandbox = await create(python)
    await value(
        sandbox,
        "import os, socket\nos.mkdir('f'); os.mkfifo('f/pipe'); socket.socket(socket.AF_UNIX).bind('f/socket'); open('f/x', 'w').close()",
    )
    with tarfile.open(fileobj=io.BytesIO(await read(sandbox, "f"))) as tar:
        assert sorted(tar.getnames()) == [".", "./x"]


async def test_files_written_from_outside_are_the_codes_own(create: Create, python: Image) -> None:
    sandbox = await create(python)
    await sandbox.write_file("sub/x", pieces(b"1"))
    await value(sandbox, "import os; open('sub/x', 'a').write('2'); os.rename('sub/x', 'y'); os.rmdir('sub')")
    assert await read(sandbox, "y") == b"12"


async def test_reading_may_be_given_up(sandbox: Sandbox) -> None:
    await sandbox.write_file("x", pieces(bytes(20 << 20)))
    chunks = sandbox.read_file("x")
    assert await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    assert (await sandbox.stat_file("x")).size == 20 << 20
