"""The idle guest has one thread and can be forked after any cell; both sides go on. The live snapshot stands on this."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faas_gateway.backends.native.runtime_layer import write_guest
from faas_gateway.guest import framing

ROOT = Path(__file__).resolve().parents[2]
ANSWER_S = 90.0


class Guest:
    """Our end of a guest's channel and pipes."""

    def __init__(self) -> None:
        self.channel, self.theirs = socket.socketpair()
        self.channel.settimeout(ANSWER_S)
        self._pipes = [os.pipe(), os.pipe()]
        self.fds = [self.theirs.fileno(), *(write for _, write in self._pipes)]
        self._text: dict[int, bytearray] = {}
        self._numbers = 0

    def handed_over(self) -> None:
        """The guest has its ends; from now on its output is read."""
        self.theirs.close()
        for index, (read, write) in enumerate(self._pipes):
            os.close(write)
            self._text[index] = bytearray()
            threading.Thread(target=self._read, args=(read, self._text[index]), daemon=True).start()

    def _read(self, fd: int, text: bytearray) -> None:
        with os.fdopen(fd, "rb", buffering=0) as f:
            while data := f.read(65536):
                text += data

    def cell(self, code: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The reply, and the messages before it."""
        self._numbers += 1
        framing.send(self.channel, {"type": "execute", "id": str(self._numbers), "code": code})
        messages: list[dict[str, Any]] = []
        while True:
            frame = framing.receive(self.channel)
            assert frame is not None, self.stderr()
            if frame[0]["type"] == "reply":
                return frame[0], messages
            messages.append(frame[0])

    def value(self, code: str) -> Any:
        """What the last expression of a cell is, by its repr."""
        reply, messages = self.cell(code)
        assert reply["status"] == "ok", (reply, self.stderr())
        (result,) = [m for m in messages if m["msg_type"] == "execute_result"]
        return ast.literal_eval(result["content"]["data"]["text/plain"])

    def close(self) -> None:
        self.channel.close()
        self.theirs.close()

    def stderr(self) -> str:
        return bytes(self._text.get(1, b"")).decode(errors="replace")


class Forkable:
    def __init__(self, folder: Path) -> None:
        write_guest(folder)
        self.guest = Guest()
        self._guests = [self.guest]
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(ANSWER_S)
        fds = [control.fileno(), *self.guest.fds]
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "forkable.py"), str(folder / "opt/faas"), *map(str, fds)],
            pass_fds=fds,
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            },
            start_new_session=True,
        )
        control.close()
        self.guest.handed_over()

    def fork(self) -> tuple[Guest, dict[str, Any]]:
        """A child that answers on a channel of its own, and what the guest was like just before."""
        child = Guest()
        self._guests.append(child)
        socket.send_fds(self._control, [b"f"], child.fds)
        about = json.loads(self._control.recv(65536))
        child.handed_over()
        return child, about

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self._control.close()
        for guest in self._guests:
            guest.close()


@pytest.fixture(scope="module")
def forkable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkable]:
    forkable = Forkable(tmp_path_factory.mktemp("guest"))
    yield forkable
    forkable.end()


def quickstart_cells() -> list[str]:
    """The bodies of the notebook's Python cells that run in a sandbox."""
    notebook = json.loads((ROOT / "notebooks" / "quickstart.ipynb").read_text())
    bodies: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        first, _, body = source.partition("\n")
        if cell["cell_type"] == "code" and first.startswith("%%faas") and "alpine" not in first:
            bodies.append(body)
    return bodies


@pytest.fixture(scope="module")
def after_quickstart(forkable: Forkable) -> Forkable:
    """The guest after all cells of the quickstart, in order, and after OpenMP was used by hand."""
    bodies = quickstart_cells()
    assert len(bodies) >= 8
    forkable.guest.cell("import pandas; mystery = None")
    statuses = []
    for body in bodies:
        if "mystery[" in body:  # which the notebook pushes with --in
            forkable.guest.cell("mystery = profile.loc[['Nebbiolo']].reset_index(drop=True)")
        reply, _ = forkable.guest.cell(body)
        statuses.append(reply["status"])
    assert statuses.count("error") == 1, statuses  # the deliberate one
    openmp = """
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.datasets import make_classification
samples, labels = make_classification(4000, 20, random_state=0)
boosted = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(samples, labels)
import numpy as np
matrix = np.arange(90_000.0).reshape(300, 300)
product = matrix @ matrix
"""
    assert forkable.guest.cell(openmp)[0]["status"] == "ok", forkable.guest.stderr()
    return forkable


QUESTIONS = {
    "the data": ("[len(wines), sorted(wines.columns)[:2]]", [178, ["alcalinity_of_ash", "alcohol"]]),
    "a fitted model": ("[len(best.predict(X_test)), ranking.shape[0]]", [60, 3]),
    "OpenMP": ("HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(samples, labels).n_iter_", 20),
    "the model that OpenMP has made": ("len(boosted.predict(samples))", 4000),
    "BLAS": ("[bool((matrix @ matrix == product).all()), bool(np.linalg.svd(matrix)[1][0] > 0)]", [True, True]),
    "joblib": ("import joblib; sum(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-n) for n in range(5)))", 10),
    "threads": ("from concurrent import futures; sum(futures.ThreadPoolExecutor(4).map(abs, range(-5, 0)))", 15),
    "asyncio": ("import asyncio; await asyncio.sleep(0, 7)", 7),
    "a command": ("import subprocess; subprocess.check_output(['echo', 'x']).decode().strip()", "x"),
}


@pytest.mark.timeout(240)
def test_the_idle_guest_is_forked_after_the_quickstarts_cells_and_the_child_answers_a_cell(
    after_quickstart: Forkable,
) -> None:
    child, about = after_quickstart.fork()
    assert about["python_threads"] == 1
    assert about["threads"] == 1 + about["openblas"]  # which that library ends and starts again by itself
    assert child.value("f'{len(wines)} wines are still here'") == "178 wines are still here"
    assert after_quickstart.guest.value("len(wines)") == 178


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", QUESTIONS)
def test_both_sides_of_a_fork_go_on_with(after_quickstart: Forkable, name: str) -> None:
    code, answer = QUESTIONS[name]
    child, _ = after_quickstart.fork()
    for side in (child, after_quickstart.guest):
        assert side.value(code) == answer


@pytest.mark.timeout(240)
def test_a_figure_is_drawn_on_both_sides(after_quickstart: Forkable) -> None:
    child, _ = after_quickstart.fork()
    for side in (child, after_quickstart.guest):
        reply, messages = side.cell("plt.plot([1, 2]); plt.title('after'); plt.show()\nfig")
        assert reply["status"] == "ok"
        assert sum("image/png" in m["content"].get("data", {}) for m in messages) == 2


@pytest.mark.timeout(240)
def test_what_one_side_changes_the_other_does_not_see(after_quickstart: Forkable) -> None:
    child, _ = after_quickstart.fork()
    child.cell("wines = wines.head(3); changed = 1; matrix[:] = 0")
    assert child.value("len(wines)") == 3
    assert after_quickstart.guest.value("[len(wines), int('changed' in globals()), int(matrix[1, 1])]") == [178, 0, 301]


@pytest.mark.timeout(240)
def test_a_child_answers_with_output_errors_and_interrupts_as_ever(after_quickstart: Forkable) -> None:
    child, about = after_quickstart.fork()
    reply, _ = child.cell("sweetness({'alcohol': 1})")
    assert (reply["status"], reply["ename"]) == ("error", "KeyError")
    child.cell("import signal, os; print('to the pipe', flush=True)")
    assert "to the pipe" in bytes(child._text[0]).decode()
    threading.Timer(0.5, os.kill, (about["pid"], signal.SIGINT)).start()
    reply, _ = child.cell("while True: pass")
    assert reply["ename"] == "KeyboardInterrupt"
    assert child.value("len(wines)") == 178
