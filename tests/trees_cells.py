"""What code of a Python session does, as pairs: the code, and what it does to the model. Each is plain data to replay.

A cell is `(kind, argument, ...)`. `apply(state, cell)` changes the model, and returns the code and what it prints.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from trees_look import NAME
from trees_model import Box, Counter, File, Folder, Handle, Link, Running, Score, State, need

Cell = tuple[Any, ...]
Said = tuple[str, str]
"""Code, and what it prints."""

PRELUDE = """import os, random, shutil
class Box: pass
def walk(source, at=0, total=0):
    while at < len(source):
        total += source[at]
        at += 1
        yield total
def make(number):
    def bump():
        nonlocal number
        number += 1
        return number
    return bump
def move(path, to):
    try:
        os.rename(path, to)
    except OSError as e:
        if e.errno != 18 or not os.path.isdir(path):
            raise
        if os.path.isdir(to):
            os.rmdir(to)
        shutil.move(path, to)
"""

KINDS: dict[str, Callable[..., Said]] = {}


def kind(function: Callable[..., Said]) -> Callable[..., Said]:
    KINDS[function.__name__] = function
    return function


def apply(state: State, cell: Cell) -> Said:
    """Raises Inapplicable before anything is changed."""
    return KINDS[cell[0]](state, *cell[1:])


# Variables: lists l0.., dicts d0.., any v0.., boxes b0.., generators g0.., iterators i0.., closures c0.., files h0..


@kind
def assign(state: State, name: str, source: str) -> Said:
    """Any expression of literals and variables."""
    used = [n for n in state.variables if n in source]
    need(all(n in state.variables for n in _names(source)))
    state.variables[name] = eval(source, {n: state.variables[n] for n in used})
    return f"{name} = {source}", ""


@kind
def change(state: State, name: str, source: str) -> Said:
    """A method of a list or a dict, with arguments of literals and variables."""
    need(name in state.variables and all(n in state.variables for n in _names(source)))
    target = state.variables[name]
    need(isinstance(target, list if source.startswith(("append", "pop", "insert", "sort")) else dict))
    need(target or not source.startswith("pop"))
    eval(f"{name}.{source}", dict(state.variables))
    return f"{name}.{source}", ""


@kind
def delete(state: State, name: str) -> Said:
    need(name in state.variables)
    closing = _close(state, name)
    del state.variables[name]
    return f"{closing}del {name}", ""


@kind
def box(state: State, name: str, attribute: str, source: str) -> Said:
    need(all(n in state.variables for n in _names(source)))
    here = state.variables.setdefault(name, Box())
    setattr(here, attribute, eval(source, dict(state.variables)))
    return f"{name} = globals().get({name!r}) or Box(); {name}.{attribute} = {source}", ""


@kind
def generator(state: State, name: str, over: str) -> Said:
    need(isinstance(state.variables.get(over), list))
    need(all(isinstance(item, int) for item in state.variables[over]))
    state.variables[name] = Running(state.variables[over])
    return f"{name} = walk({over}); next({name}, None)", advance(state, name, quiet=True)[1]


@kind
def advance(state: State, name: str, quiet: bool = False) -> Said:
    running = state.variables.get(name)
    need(isinstance(running, Running))
    found: int | None = None
    if not running.ended and running.at < len(running.source):
        found = running.total = running.total + running.source[running.at]
        running.at += 1
    else:
        running.ended = True
    return f"print(next({name}, None))", "" if quiet else f"{found}\n"


@kind
def iterator(state: State, name: str, source: str) -> Said:
    need(all(n in state.variables for n in _names(source)))
    need(not any(isinstance(state.variables[n], (Handle, Running, Counter, Score)) for n in _names(source)))
    state.variables[name] = eval(source, dict(state.variables))
    return f"{name} = {source}", ""


@kind
def step(state: State, name: str) -> Said:
    need(name in state.variables)
    return f"print(repr(next({name}, None)))", f"{next(state.variables[name], None)!r}\n"


@kind
def closure(state: State, name: str, number: int) -> Said:
    state.variables[name] = Counter(number)
    return f"{name} = make({number})", ""


@kind
def bump(state: State, name: str) -> Said:
    counter = state.variables.get(name)
    need(isinstance(counter, Counter))
    counter.number += 1
    return f"print({name}())", f"{counter.number}\n"


@kind
def score(state: State, name: str) -> Said:
    """A function that reads the globals of whatever session it finds itself in."""
    need("l0" in state.variables)
    if name not in state.variables:
        state.variables[name] = Score()
        return f"def score(): return len(l0)\n{name} = score", ""
    return f"print({name}())", f"{len(state.variables['l0'])}\n"


@kind
def seed(state: State, number: int) -> Said:
    state.random.seed(number)
    return f"random.seed({number})", ""


@kind
def draw(state: State) -> Said:
    return "print(random.random(), random.randrange(1000))", (
        f"{state.random.random()} {state.random.randrange(1000)}\n"
    )


@kind
def own(state: State, name: str, number: int) -> Said:
    """A generator of the session's own: made, or drawn from."""
    if name not in state.variables:
        state.variables[name] = random.Random(number)
        return f"{name} = random.Random({number})", ""
    return f"print({name}.random())", f"{state.variables[name].random()}\n"


def _names(source: str) -> list[str]:
    return [word for word in NAME.findall(source) if f"'{word}'" not in source]


# Files


@kind
def write(state: State, path: str, text: str) -> Said:
    state.write(path, text.encode())
    return f"with open({_way(state, path)}, 'w') as _f: _f.write({text!r})", ""


@kind
def append(state: State, path: str, text: str) -> Said:
    """Also through a link to a file."""
    node = state.files.get(path)
    to = os.path.normpath(os.path.join(os.path.dirname(path), node.target)) if isinstance(node, Link) else path
    need(isinstance(state.files.get(to), File) or (to == path and node is None))
    state.write(to, text.encode(), append=True)
    return f"with open({_way(state, path)}, 'a') as _f: _f.write({text!r})", ""


@kind
def replace(state: State, path: str, text: str) -> Said:
    """As careful programs write: a new file in the place of the old one."""
    state.need_parent(path)
    need(not isinstance(state.files.get(path), Folder))
    state.files[path] = File(bytearray(text.encode()))
    where = _way(state, path)
    return f"with open({where} + '~', 'w') as _f: _f.write({text!r})\nos.replace({where} + '~', {where})", ""


@kind
def cut(state: State, path: str, size: int) -> Said:
    file = state.files.get(path)
    need(isinstance(file, File) and size <= len(file.data))
    state.truncate(file, size)
    return f"os.truncate({_way(state, path)}, {size})", ""


@kind
def folder(state: State, path: str) -> Said:
    state.need_parent(path)
    need(path not in state.files)
    state.files[path] = Folder()
    return f"os.mkdir({_way(state, path)})", ""


@kind
def remove(state: State, path: str) -> Said:
    where, is_folder = _way(state, path), isinstance(state.files.get(path), Folder)
    state.remove_tree(path)
    return (f"shutil.rmtree({where})" if is_folder else f"os.unlink({where})"), ""


@kind
def remake(state: State, path: str, as_folder: bool, inside: str) -> Said:
    """Something else in its place: a folder that was there before is empty again, or has a file."""
    where, was_folder = _way(state, path), isinstance(state.files.get(path), Folder)
    state.remove_tree(path)
    code = f"shutil.rmtree({where})\n" if was_folder else f"os.unlink({where})\n"
    if not as_folder:
        return code + write(state, path, inside)[0], ""
    code += folder(state, path)[0]
    return (code + "\n" + write(state, f"{path}/{inside}", inside)[0] if inside else code), ""


@kind
def rename(state: State, path: str, to: str) -> Said:
    code = f"move({_way(state, path)}, {_way(state, to)})"
    state.move(path, to)
    return code, ""


@kind
def link(state: State, path: str, target: str) -> Said:
    state.need_parent(path)
    need(path not in state.files)
    state.files[path] = Link(target)
    return f"os.symlink({target!r}, {_way(state, path)})", ""


@kind
def chmod(state: State, path: str, mode: int) -> Said:
    node = state.files.get(path)
    need(isinstance(node, (File, Folder)) and path.count("/") > 2)
    if isinstance(node, File):
        state.changed(node)
    else:
        mode |= 0o700
    node.mode = mode
    return f"os.chmod({_way(state, path)}, {mode})", ""


@kind
def stamp(state: State, path: str, time_ns: int) -> Said:
    node = state.files.get(path)
    need(isinstance(node, File))
    state.changed(node)
    node.mtime = time_ns
    return f"os.utime({_way(state, path)}, ns=({time_ns}, {time_ns}))", ""


@kind
def chdir(state: State, path: str) -> Said:
    need(isinstance(state.files.get(path), Folder))
    code = f"os.chdir({_way(state, path)})"
    state.directory = path
    return code, ""


@kind
def environ(state: State, name: str, value: str | None) -> Said:
    if value is None:
        need(name in state.environ)
        del state.environ[name]
        return f"del os.environ[{name!r}]", ""
    state.environ[name] = value
    return f"os.environ[{name!r}] = {value!r}", ""


def _way(state: State, path: str) -> str:
    """As code names it: from where it stands, if that is in the same tree."""
    if path.split("/")[1] == state.directory.split("/")[1] and len(path) % 3:
        return repr(os.path.relpath(path, state.directory))
    return repr(path)


# Open files


@kind
def open_file(state: State, name: str, mode: str, path: str) -> Said:
    file = state.files.get(path)
    need(isinstance(file, File) or (file is None and mode in ("w", "a")))
    state.need_parent(path)
    code = f"{name} = open({_way(state, path)}, {mode!r}{', buffering=0' if 'b' in mode else ''})"
    closing = _close(state, name)
    if file is None:
        file = state.files[path] = File()
    if mode == "w":
        state.truncate(file, 0)
    elif mode != "r":
        state.changed(file)
    state.variables[name] = Handle(file, mode, len(file.data) if mode == "a" else 0)
    return closing + code, ""


@kind
def close(state: State, name: str) -> Said:
    need(isinstance(state.variables.get(name), Handle))
    return _close(state, name) or f"{name}.close()", ""


@kind
def read(state: State, name: str, size: int) -> Said:
    handle = _open_handle(state, name)
    need(handle.mode in ("r", "rb+") and not handle.adrift)
    text = state.read(handle, size)
    said = ascii(text if handle.mode == "r" else text.encode())
    return f"print(ascii({name}.read({size})))", f"{said}\n"


@kind
def put(state: State, name: str, text: str, flush: bool) -> Said:
    handle = _open_handle(state, name)
    need(handle.mode != "r")
    if handle.mode == "rb+":
        state.store(handle.file, text.encode(), handle.position)
        handle.position += len(text)
        return f"{name}.write({text.encode()!r})", ""
    handle.buffer += text
    if flush:
        state.flush(handle)
    return f"{name}.write({text!r}){f'; {name}.flush()' if flush else ''}", ""


@kind
def seek(state: State, name: str, share: float) -> Said:
    handle = _open_handle(state, name)
    need(handle.mode in ("r", "rb+") and not handle.adrift)
    handle.position, handle.buffer = int(len(handle.file.data) * share), ""
    return f"{name}.seek({handle.position})", ""


def _open_handle(state: State, name: str) -> Handle:
    handle = state.variables.get(name)
    need(isinstance(handle, Handle) and not handle.closed)
    return handle


def _close(state: State, name: str) -> str:
    """Before its name is used for something else."""
    handle = state.variables.get(name)
    if not isinstance(handle, Handle) or handle.closed:
        return ""
    state.flush(handle)
    handle.closed = True
    return f"{name}.close()\n"
