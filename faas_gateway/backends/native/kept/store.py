"""The folder of kept layers: STORE/kept/NAME/u. All of it blocks: call it in a worker thread.

A layer that is being made lies under NAME.part until it is whole. Nothing in a layer changes once it is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

from faas_gateway.backends.native.identity import HOST_UID
from faas_gateway.backends.native.kept import copying, folders, packing, unpacking
from faas_gateway.backends.native.kept.folders import Tree
from faas_gateway.backends.native.kept.terms import CopyLimits, ImportLimits, Skipped
from faas_gateway.backends.native.kept.union import Merged, merged
from faas_gateway.backends.native.launcher import removal

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,120}")
_PART = ".part"
_SIZE = "size"
_FEW = 16
"""Of more layers at a time, fewer folders are kept open each."""
_libc = ctypes.CDLL(None, use_errno=True)


class KeptLayers:
    """Frozen file layers by name; root is made by the caller.

    In a gateway of root's, files belong to HOST_UID, which is what its sandboxes are; otherwise to its user.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._owner = HOST_UID if os.geteuid() == 0 else None

    def path(self, name: str) -> Path:
        """The layer itself. Raises ValueError for what is no name of a layer."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"not the name of a layer: {name!r}")
        return self._root / name / "u"

    def has(self, name: str) -> bool:
        path = self.path(name)
        return path.is_dir() and not path.is_symlink()

    def size_bytes(self, name: str) -> int:
        """What a layer takes on disk; counted once. Raises FileNotFoundError when it is not there."""
        noted = self.path(name).parent / _SIZE
        with contextlib.suppress(OSError, ValueError):
            return int(noted.read_text())
        size = 0
        seen: set[tuple[int, int]] = set()
        with self._roots([name]) as (root,):
            waiting: list[folders.Parts] = [()]
            while waiting:
                parts = waiting.pop()
                with root.at(parts) as fd:
                    for entry, st in folders.entries(fd):
                        if (st.st_dev, st.st_ino) not in seen:
                            size += st.st_blocks * 512
                        if st.st_nlink > 1:
                            seen.add((st.st_dev, st.st_ino))
                        if folders.is_folder(st):
                            waiting.append((*parts, entry))
        with contextlib.suppress(OSError):  # it is counted again then
            noted.write_text(str(size))
        return size

    def drop(self, name: str) -> bool:
        """Remove a layer, whole or half made. False: something of it is still there."""
        folder = self.path(name).parent
        gone = [removal.remove(str(path)) for path in (folder, folder.with_name(name + _PART))]
        return all(gone)

    def sweep(self, needed: Iterable[str]) -> list[str]:
        """Remove every layer that is not needed, and what was never finished. Returns what could not be removed."""
        keep = set(needed)
        with os.scandir(self._root) as found:
            names = [entry.name for entry in found if entry.name not in keep]
        return [name for name in names if not removal.remove(str(self._root / name)) and not self._unlink(name)]

    def _unlink(self, name: str) -> bool:
        """What is no folder."""
        with contextlib.suppress(OSError):
            os.unlink(self._root / name)
        return not os.path.lexists(self._root / name)

    def merged(self, layers: Sequence[str]) -> Iterator[Merged]:
        """All entries of the union of layers, top first, as overlayfs would show it."""
        with self._roots(layers) as roots:
            yield from merged(roots)

    def listing(self, layers: Sequence[str]) -> dict[str, tuple[str, int, float]]:
        """Absolute path to (type, size in bytes, mtime in seconds) of all that layers change.

        type: file, directory, symlink, other, or `deleted` for what they hide of an image. Size is 0 for all but
        files, mtime for what is deleted.
        """
        found: dict[str, tuple[str, int, float]] = {}
        for entry in self.merged(layers):
            size = entry.st.st_size if entry.kind == "file" else 0
            found[entry.path] = (entry.kind, size, 0.0 if entry.kind == "deleted" else entry.st.st_mtime)
        return found

    def export(self, layers: Sequence[str], fd: int) -> list[Skipped]:
        """Write the union of layers to fd as one tar stream. Returns what it does not hold."""
        with self._roots(layers) as roots:
            return packing.pack(roots, fd)

    def import_(self, name: str, fd: int, limits: ImportLimits | None = None) -> None:
        """Make a layer of such a stream, on disk when this returns.

        Raises InvalidLayer or LayerTooLarge; FileExistsError when the layer is there; OSError. Then nothing is left.
        """
        with self._making(name) as target:
            unpacking.unpack(fd, target, self._owner, limits or ImportLimits())
            sync(target.root)

    def copy(self, upper: int | str | Path, name: str, limits: CopyLimits | None = None) -> list[Skipped]:
        """Make a layer of a live upper directory (a path or a descriptor), as it is found. See `settle`.

        Returns what it does not hold. Raises LayerTooLarge; FileExistsError; OSError. Then nothing is left.
        """
        source = Tree(os.dup(upper) if isinstance(upper, int) else folders.opened(str(upper)))
        try:
            with self._making(name) as target:
                return copying.copy(source, target, self._owner, limits or CopyLimits())
        finally:
            source.close()

    def settle(self, name: str) -> None:
        """Return when a layer is on disk: overlays of sandboxes are `volatile`, and their files may not be."""
        with self._roots([name]) as (root,):
            sync(root.root)

    @contextlib.contextmanager
    def _roots(self, layers: Sequence[str]) -> Generator[list[Tree]]:
        """Layers, to look into."""
        with contextlib.ExitStack() as held:
            found: list[Tree] = []
            keep = folders.OPEN_FOLDERS if len(layers) <= _FEW else 1
            for name in layers:
                found.append(Tree(folders.opened(str(self.path(name))), keep=keep))
                held.callback(found[-1].close)
            yield found

    @contextlib.contextmanager
    def _making(self, name: str) -> Generator[Tree]:
        """A folder to make a layer in; it becomes the layer if the block succeeds."""
        if os.path.lexists(final := self.path(name).parent):
            raise FileExistsError(f"there is a layer {name} already")
        part = final.with_name(name + _PART)
        part.mkdir(mode=0o755)
        try:
            part.chmod(0o755)  # whatever the umask is: sandboxes are somebody else
            (part / "u").mkdir(mode=0o755)
            (part / "u").chmod(0o755)
            if self._owner is not None:
                os.chown(part / "u", self._owner, self._owner)
            tree = Tree(folders.opened(str(part / "u")))
            try:
                yield tree
            finally:
                tree.close()
            part.rename(final)
        except BaseException:
            removal.remove(str(part))
            raise


def sync(fd: int) -> None:
    """syncfs(2): all of the file system at once, which takes less than file by file."""
    if _libc.syncfs(fd) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
