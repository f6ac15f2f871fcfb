"""What code of a shell session does, as pairs like those of `trees_cells`: files, directory, variables."""

from __future__ import annotations

import hashlib
import shlex
from typing import Any

from trees_look import ROOTS
from trees_model import File, Folder, Link, State, need

PRELUDE = "set -u"

LOOK = f"""(
pwd
env | grep '^T_' | LC_ALL=C sort
echo =
find {" ".join(ROOTS)} -mindepth 1 ! -path '/home/user/.*' -exec stat -c '%n|%F|%a' {{}} +
echo =
find {" ".join(ROOTS)} -type f ! -path '/home/user/.*' -exec sha1sum {{}} +
echo =
find {" ".join(ROOTS)} -type l -exec stat -c '%N' {{}} +
)"""


def apply(state: State, cell: tuple[Any, ...]) -> tuple[str, str]:
    """Code, and what it prints. Raises Inapplicable before anything is changed."""
    kind, *about = cell
    return {
        "write": _write, "append": _append, "folder": _folder, "remove": _remove, "remake": _remake, "rename": _rename,
        "link": _link, "chmod": _chmod, "chdir": _chdir, "environ": _environ, "cut": _cut,
    }[kind](state, *about)  # fmt: skip


def _quoted(path: str) -> str:
    return shlex.quote(path)


def _write(state: State, path: str, text: str) -> tuple[str, str]:
    state.write(path, text.encode())
    return f"printf %s {_quoted(text)} >{_quoted(path)}", ""


def _append(state: State, path: str, text: str) -> tuple[str, str]:
    state.write(path, text.encode(), append=True)
    return f"printf %s {_quoted(text)} >>{_quoted(path)}", ""


def _cut(state: State, path: str, size: int) -> tuple[str, str]:
    file = state.files.get(path)
    need(isinstance(file, File))
    state.truncate(file, min(size, len(file.data)))
    return f"head -c {size} {_quoted(path)} >/tmp/.cut; cat /tmp/.cut >{_quoted(path)}; rm /tmp/.cut", ""


def _folder(state: State, path: str) -> tuple[str, str]:
    state.need_parent(path)
    need(path not in state.files)
    state.files[path] = Folder()
    return f"mkdir {_quoted(path)}", ""


def _remove(state: State, path: str) -> tuple[str, str]:
    state.remove_tree(path)
    return f"rm -r {_quoted(path)}", ""


def _remake(state: State, path: str, as_folder: bool, inside: str) -> tuple[str, str]:
    state.remove_tree(path)
    code = f"rm -r {_quoted(path)}; "
    if not as_folder:
        return code + _write(state, path, inside)[0], ""
    code += _folder(state, path)[0]
    return (f"{code}; {_write(state, f'{path}/{inside}', inside)[0]}" if inside else code), ""


def _rename(state: State, path: str, to: str) -> tuple[str, str]:
    need(not isinstance(state.files.get(path), Link))  # mv refuses to put one in the place of what it leads to
    state.move(path, to)
    return f"mv -T {_quoted(path)} {_quoted(to)}", ""


def _link(state: State, path: str, target: str) -> tuple[str, str]:
    state.need_parent(path)
    need(path not in state.files)
    state.files[path] = Link(target)
    return f"ln -s {_quoted(target)} {_quoted(path)}", ""


def _chmod(state: State, path: str, mode: int) -> tuple[str, str]:
    node = state.files.get(path)
    need(isinstance(node, (File, Folder)) and path not in ROOTS)
    node.mode = mode | (0o700 if isinstance(node, Folder) else 0)
    return f"chmod {node.mode:o} {_quoted(path)}", ""


def _chdir(state: State, path: str) -> tuple[str, str]:
    need(isinstance(state.files.get(path), Folder))
    state.directory = path
    return f"cd {_quoted(path)}", ""


def _environ(state: State, name: str, value: str | None) -> tuple[str, str]:
    if value is None:
        need(name in state.environ)
        del state.environ[name]
        return f"unset {name}", ""
    state.environ[name] = value
    return f"{name}={_quoted(value)}", ""


def look(state: State) -> dict[str, Any]:
    kinds = {File: "file", Folder: "directory", Link: "symbolic link"}
    files: dict[str, list[str]] = {}
    for path, node in state.files.items():
        if path not in ROOTS:
            mode = 0o777 if isinstance(node, Link) else node.mode
            files[path] = [kinds[type(node)], f"{mode:o}"]
        if isinstance(node, File):
            files[path].append(hashlib.sha1(node.data).hexdigest())
        if isinstance(node, Link):
            files[path].append(node.target)
    return {"files": files, "cwd": state.directory, "environ": state.environ}


def parse(text: str) -> dict[str, Any]:
    """What LOOK printed, as `look` has it."""
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        if line == "=":
            parts.append([])
        else:
            parts[-1].append(line)
    directory, *environ = parts[0]
    files: dict[str, list[str]] = {}
    for line in parts[1]:
        path, kind, mode = line.split("|")
        files[path] = ["file" if kind.startswith("regular") else kind, mode]
    for line in parts[2]:
        digest, _, path = line.partition("  ")
        files[path].append(digest)
    for line in parts[3]:
        path, _, target = line.partition(" -> ")
        files[path.strip("'")].append(target.strip("'"))
    return {"files": files, "cwd": directory, "environ": dict(line.split("=", 1) for line in environ)}
