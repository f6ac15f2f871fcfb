"""One interpreter of a portable snapshot: run by test_portable.py, with the guest laid down beside it.

python portable_child.py FOLDER JOB        the job as JSON; the answer as JSON on the last line of stdout

A job's `before` runs as cells of a session would; then its variables are captured into `file`, restored from it, or
fingerprinted; then `after` runs, and `value` is what it leaves in the variable answer.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import types
from typing import Any


def memory(name: str) -> int:
    """VmRSS or VmHWM, bytes."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith(f"{name}:"))


def main(folder: str, job: dict[str, Any]) -> dict[str, Any]:
    sys.path.insert(0, folder)
    portable: Any = importlib.import_module("faas_guest.portable")
    run: Any = None
    if job.get("kernel"):
        shell = importlib.import_module("faas_guest.shell").make_kernel().shell
        namespace, hidden = shell.user_ns, shell.user_ns_hidden
        run = lambda code: shell.run_cell(code, store_history=True).raise_error()  # noqa: E731
    else:
        session = types.ModuleType("__main__")
        sys.modules["__main__"] = session
        namespace = session.__dict__
        hidden = {"Hidden": object()}
        namespace.update(hidden)
        run = lambda code: exec(code, namespace)  # noqa: E731
    sys.path.remove(folder)
    before = portable.baseline()
    done: dict[str, Any] = {}
    run(job.get("before", ""))
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")
    resident = memory("VmRSS")
    if job["do"] == "capture":
        fd = os.open(job["file"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        done = portable.capture(namespace, hidden, fd, portable.session_state(before, 7))
        os.close(fd)
    elif job["do"] == "restore":
        fd = os.open(job["file"], os.O_RDONLY)
        done = portable.restore(namespace, fd)
        os.close(fd)
    else:
        done["fingerprints"] = {f["name"]: f for f in portable.fingerprints(namespace, hidden, job["seconds"])}
    done["extra_bytes"] = memory("VmHWM") - resident
    run(job.get("after", ""))
    done["value"] = namespace.get("answer")
    return done


if __name__ == "__main__":
    answer = main(sys.argv[1], json.loads(sys.argv[2]))
    print("\n" + json.dumps(answer))
