"""A JupyterLab of its own, and Debian's Chromium to look at it: for the browser tests and the README's picture."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Playwright

#: Without these Chromium looks for updates and for Google's hosts, and needs privileges that tests lack.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: No question about Jupyter's news in front of the notebook.
_SETTINGS = {
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
}
START_S = 60


def chromium() -> str | None:
    """Return where the browser is, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def browser(playwright: Playwright, home: Path) -> Generator[Browser]:
    """Chromium without a window, with an empty profile.

    Arguments: Playwright; the folder that it takes for its home.
    """
    running = playwright.chromium.launch(
        executable_path=chromium(),
        args=CHROMIUM_FLAGS,
        env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)},
    )
    try:
        yield running
    finally:
        running.close()


@dataclass(frozen=True)
class JupyterLab:
    """A running server: its address, its token, and the folder that it shows."""

    port: int
    token: str
    notebooks: Path

    def url(self, name: str) -> str:
        """Return the address of a notebook; whatever was open in another page stays there."""
        return f"http://127.0.0.1:{self.port}/lab/tree/{name}?token={self.token}&reset"


@contextlib.contextmanager
def jupyterlab(folder: Path, env: Mapping[str, str]) -> Generator[JupyterLab]:
    """Run JupyterLab on a free port of the loopback. Its kernels end with it.

    Arguments: a folder for its settings, and for the notebooks that it shows; what its environment has beside a
    bare PATH.
    """
    home, notebooks = folder / "home", folder / "notebooks"
    for made in (home, notebooks):
        made.mkdir(parents=True, exist_ok=True)
    for name, values in _SETTINGS.items():
        setting = home / "settings" / name
        setting.parent.mkdir(parents=True, exist_ok=True)
        setting.write_text(json.dumps(values))
    token = secrets.token_urlsafe(24)
    own = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_TOKEN": token,
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--ServerApp.root_dir={notebooks}",
        "--ServerApp.terminals_enabled=False",
    ]  # fmt: skip
    log = folder / "jupyterlab.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, env={**own, **env}, cwd=notebooks, stdout=output, stderr=output)
    try:
        yield JupyterLab(_port(server, home / "runtime", log), token, notebooks)
    finally:
        # Its kernels are its children. A gateway that a kernel started is a grandchild, and has an owner of its own.
        kernels = psutil.Process(server.pid).children() if server.poll() is None else []
        server.terminate()
        try:
            server.wait(20)
        finally:
            server.kill()
            server.wait(10)
        _, alive = psutil.wait_procs(kernels, timeout=10)
        for process in alive:
            process.kill()
        if alive:
            raise AssertionError(f"kernels that outlive their JupyterLab: {alive}")


def _port(server: subprocess.Popen[bytes], runtime: Path, log: Path) -> int:
    deadline = time.monotonic() + START_S
    written = runtime / f"jpserver-{server.pid}.json"
    while server.poll() is None and time.monotonic() < deadline:
        # The file is written before the first connection is taken, and not at one stroke.
        with contextlib.suppress(OSError, ValueError):
            return int(json.loads(written.read_text())["port"])
        time.sleep(0.05)
    raise AssertionError(f"JupyterLab did not start: {log.read_text(errors='replace')[-2000:]}")
