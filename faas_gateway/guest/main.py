"""Entry of the warm process: load, preload, warm up, then wait to be forked.

python -I main.py '{"preload": [...], "path": [...]}'        descriptor 3: the launcher
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys

WARM_UP = ("_w = 1\nprint(_w)\n_w", "1/0", "import os; os.getcwd()", "await __import__('asyncio').sleep(0)")
PLOT = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show(); plt.close('all'); del plt"
FRAME = "import pandas; display(pandas.DataFrame({'a': [1.5], 'b': ['x']})); del pandas"


def main() -> None:
    spec = json.loads(sys.argv[1])
    os.set_inheritable(3, False)
    control = socket.socket(fileno=3)
    for folder in spec["path"]:
        if folder not in sys.path:
            sys.path.append(folder)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path.insert(0, here)
    forking = importlib.import_module("faas_guest.forking")
    shell = importlib.import_module("faas_guest.shell")
    sys.path.remove(here)
    sys.argv[:] = [""]
    kernel = shell.make_kernel()
    missing = preload(spec["preload"])
    warm_up(kernel)
    forking.forget_loops()
    program = importlib.import_module("faas_guest.filter").program(kind="guest")
    importlib.import_module("faas_guest.libraries").merge()
    forking.freeze()
    importlib.import_module("faas_guest.heap").collapse()
    control.send(
        json.dumps({"ready": True, "threads": len(os.listdir("/proc/self/task")), "missing": missing}).encode()
    )
    forking.serve(kernel, control, program).run()


def preload(modules: list[str]) -> list[str]:
    """Import what sessions will want; returns the modules that are not there."""
    missing: list[str] = []
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    return missing


def warm_up(kernel: object) -> None:
    """Run some cells of our own, so that the first of the user finds all loaded, and leave no trace of them."""
    import asyncio
    from typing import Any

    k: Any = kernel
    cells = [*WARM_UP]
    if "matplotlib.pyplot" in sys.modules:
        cells.append(PLOT)
    if "pandas" in sys.modules:
        cells.append(FRAME)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - stays so until a session has its own

    async def run() -> None:
        from tornado.ioloop import IOLoop

        k.io_loop = IOLoop.current()
        for cell in cells:
            k.set_parent([b"warm"], k.session.msg("execute_request", {"code": cell}), channel="shell")
            await k.do_execute(cell, False, store_history=True, allow_stdin=False)
        k.do_complete("import o", 8)

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(run())
    loop.close()
    k.shell.reset(new_session=True)
    k.shell.execution_count = 1


if __name__ == "__main__":
    main()
