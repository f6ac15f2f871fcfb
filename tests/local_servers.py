"""A package index and a git server on loopback, for tests that install and clone without the Internet."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import subprocess
import threading
import zipfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def serve(folder: Path) -> Generator[int]:
    """Serve a folder on 127.0.0.1; gives the port."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def write_index(root: Path, *names: str) -> None:
    """A simple index (PEP 503) of these distributions and all that they need, made of what is installed here."""
    for distribution in _with_requirements(names):
        folder = root / canonicalize_name(distribution.name)
        folder.mkdir(parents=True)
        wheel = _write_wheel(folder, distribution)
        (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{wheel}">{wheel}</a>')


def _with_requirements(names: Iterable[str]) -> list[metadata.Distribution]:
    wanted, found = list(names), dict[str, metadata.Distribution]()
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name not in found:
            found[name] = metadata.distribution(name)
            requirements = map(Requirement, found[name].requires or ())
            wanted += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return list(found.values())


def _write_wheel(folder: Path, distribution: metadata.Distribution) -> str:
    """What was installed, packed again; scripts come from entry points, as they did at first."""
    stem = f"{distribution.name.replace('-', '_')}-{distribution.version}"
    record = f"{distribution.name}-{distribution.version}.dist-info/RECORD"
    lines: list[str] = []
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if ".." in file.parts or "__pycache__" in file.parts or not path.is_file():
                continue
            if file.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
                record = str(file.with_name("RECORD")) if file.name == "RECORD" else record
                continue
            data = path.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{file},sha256={digest},{len(data)}\n")
            wheel.writestr(str(file), data)
        wheel.writestr(record, "".join(lines) + f"{record},,\n")
    return f"{stem}-py3-none-any.whl"


def write_repository(root: Path, name: str, files: Mapping[str, str]) -> None:
    """A git repository with one commit, at `root/name`, for git's plain HTTP protocol."""
    work, bare = root / f"{name}.work", root / name
    for path, text in files.items():
        target = work / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    who = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"]
    for command in (
        ["git", "init", "--quiet", "--initial-branch=main", str(work)],
        ["git", "-C", str(work), "add", "."],
        ["git", "-C", str(work), *who, "commit", "--quiet", "--message=first"],
        ["git", "clone", "--quiet", "--bare", str(work), str(bare)],
        ["git", "-C", str(bare), "update-server-info"],
    ):
        subprocess.run(command, check=True, timeout=30)
