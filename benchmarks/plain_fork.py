"""What a fork costs without a sandbox: a plain Python that holds the same data, and whose children answer over a pipe.

As a program (`python -m benchmarks.plain_fork`) it is that Python; `plain_fork` starts and drives it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from benchmarks.data import ANSWER, ASK, WrongAnswer
from benchmarks.new_session import IMPORTS
from benchmarks.notebook import ROOT

WAY = "plain os.fork, no sandbox"
ANSWER_S = 120.0


class PlainFork:
    """One such Python, which has run some code."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def fork(self, count: int) -> tuple[float, float]:
        """Fork so many children at once. Returns how long each fork held the parent, and all until they answered."""
        stopped_s, answered_s = self._call({"fork": count})
        return stopped_s, answered_s

    def run(self, code: str) -> None:
        self._call({"code": code})

    def _call(self, order: dict[str, object]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise WrongAnswer(f"the plain Python ended: {self._process.wait(ANSWER_S)}")
        return json.loads(line)


@contextmanager
def plain_fork(code: str) -> Generator[PlainFork]:
    """Start a Python that has imported what a session has, and run this code in it."""
    command = [sys.executable, "-m", "benchmarks.plain_fork"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        plain = PlainFork(process)
        plain.run(f"{IMPORTS}\n{code}")
        yield plain
        assert process.stdin is not None
        process.stdin.close()  # the end of its orders is its end


def _serve() -> None:
    namespace: dict[str, Any] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "code" in order:
            exec(order["code"], namespace)
            answer: Any = None
        else:
            answer = _fork(order["fork"], namespace)
        print(json.dumps(answer), flush=True)


def _fork(count: int, namespace: dict[str, Any]) -> tuple[float, float]:
    held, release = os.pipe()  # children live until its end
    children: dict[int, int] = {}
    stopped: list[float] = []
    began = time.perf_counter()
    for _ in range(count):
        reader, writer = os.pipe()
        before = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os.close(release)
            for other in children:  # or a sibling's end of file would wait for us
                os.close(other)
            _child(writer, held, namespace)
        stopped.append(time.perf_counter() - before)
        os.close(writer)
        children[reader] = pid
    _read_answers(list(children))
    answered_s = time.perf_counter() - began
    os.close(release)
    os.close(held)
    for reader, pid in children.items():
        os.close(reader)
        os.waitpid(pid, 0)
    return stopped[0], answered_s


def _child(writer: int, held: int, namespace: dict[str, Any]) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(ASK, namespace)
    os.write(writer, printed.getvalue().encode())
    os.read(held, 1)
    os._exit(0)


def _read_answers(readers: list[int]) -> None:
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            selector.register(reader, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(ANSWER_S)
            if not ready:
                raise WrongAnswer("a forked child did not answer")
            for key, _ in ready:
                if os.read(key.fd, 64).decode() != ANSWER:
                    raise WrongAnswer("a forked child answered something else")
                selector.unregister(key.fd)


if __name__ == "__main__":
    _serve()
