"""What a session's state looks like, as plain values. The text of this file runs inside sandboxes; the model uses it too.

Nothing here changes what it looks at: no iterator is advanced, no file position moved, no buffer flushed.
"""

from __future__ import annotations

import copy
import hashlib
import os
import random
import re
import stat
import types

NAME = re.compile(r"[a-z]\d")
ROOTS = ("/workspace", "/tmp", "/home/user")


def digest(generator) -> str:
    """Of the state of a random generator: the module `random`, or a `random.Random`."""
    return hashlib.sha1(repr(generator.getstate()).encode()).hexdigest()[:12]


def variables(namespace, special):
    """Every variable of the test's own, with what is shared between them; `special` knows the types that we do not."""
    met = {}

    def walk(value):
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return [type(value).__name__, repr(value)]
        if type(value) is tuple:
            return ["tuple", [walk(item) for item in value]]
        if isinstance(value, (set, frozenset)):
            return [type(value).__name__, sorted(repr(item) for item in value)]
        if id(value) in met:
            return ["same", met[id(value)][0]]
        met[id(value)] = (len(met), value)
        if type(value) is list:
            return ["list", [walk(item) for item in value]]
        if type(value) is dict:
            return ["dict", [[repr(key), walk(item)] for key, item in value.items()]]
        if type(value) is bytearray:
            return ["bytearray", repr(bytes(value))]
        if type(value) is type(iter([])):
            _, arguments, *position = value.__reduce__()
            if not arguments or not arguments[0]:
                return ["iterator", "at its end"]
            return ["iterator", walk(arguments[0]), position[0]]
        if isinstance(value, (type(iter(range(0))), enumerate)):
            return [type(value).__name__, repr(list(copy.deepcopy(value)))]
        if isinstance(value, random.Random):
            return ["Random", digest(value)]
        if type(value).__name__ == "Box":
            return ["Box", walk(vars(value))]
        return special(value, walk)

    return {name: walk(namespace[name]) for name in sorted(namespace) if NAME.fullmatch(name)}


def _special(value, walk):
    if isinstance(value, types.GeneratorType):
        if value.gi_frame is None:
            return ["generator", "ended"]
        inside = value.gi_frame.f_locals
        return ["generator", walk(inside["source"]), inside["at"], inside["total"]]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return ["function", value.__name__, cells]
    if hasattr(value, "fileno"):
        return _file(value)
    return ["unknown", repr(value)]


def _file(file):
    if file.closed:
        return ["file", file.mode, "closed"]
    number = file.fileno()
    position = file.tell() if file.mode == "r" else os.lseek(number, 0, os.SEEK_CUR)
    with open(f"/proc/self/fd/{number}", "rb") as again:
        content = again.read()
    return ["file", file.mode, position, content.decode("latin-1")]


def files():
    """Path to kind, mode or target, content and time of change, of all that the session may have made."""
    found = {}
    for root in ROOTS:
        for folder, folders, names in os.walk(root):
            if folder == root:
                folders[:] = [name for name in folders if not name.startswith(".")]
                names = [name for name in names if not name.startswith(".")]
            for name in (*folders, *names):
                path = f"{folder}/{name}"
                about = os.lstat(path)
                if stat.S_ISLNK(about.st_mode):
                    found[path] = ["link", os.readlink(path)]
                elif stat.S_ISDIR(about.st_mode):
                    found[path] = ["folder", stat.S_IMODE(about.st_mode)]
                else:
                    with open(path, "rb") as file:
                        content = file.read().decode("latin-1")
                    found[path] = ["file", stat.S_IMODE(about.st_mode), content, about.st_mtime_ns]
    return found


def session(namespace):
    """All of it, of the session whose namespace this is."""
    return {
        "variables": variables(namespace, _special),
        "files": files(),
        "cwd": os.getcwd(),
        "environ": {name: value for name, value in os.environ.items() if name.startswith("T_")},
        "random": digest(random),
    }
