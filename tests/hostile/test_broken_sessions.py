"""Cells that close, redirect, replace or forge what their own session stands on."""

from __future__ import annotations

import time

import pytest
from faas import errors
from rings import Ring

pytestmark = pytest.mark.usefixtures("unharmed")

CLOSED_STREAMS = {
    "sys.stdout.close()": "import sys; sys.stdout.close()",
    "os.close(1)": "import os; os.close(1)",
    "os.dup2 onto 1 and 2": "import os; fd = os.open('/dev/null', os.O_WRONLY); os.dup2(fd, 1); os.dup2(fd, 2)",
    "sys.stdout = None": "import sys; sys.stdout = sys.stderr = None",
    "del sys.stdout": "import sys; del sys.stdout, sys.stderr",
    "sys.stdout.detach()": "import sys; sys.stdout.detach()",
    "standard descriptors": "import os; os.closerange(0, 3)",
    "a closed file": "import sys; sys.stdout = open('/dev/null', 'w'); sys.stdout.close()",
    "unwritable": "import os; fd = os.open('/dev/null', os.O_RDONLY); os.dup2(fd, 1)",
    "full": "import os; fd = os.open('/dev/full', os.O_WRONLY); os.dup2(fd, 1)",
}


@pytest.mark.parametrize("code", CLOSED_STREAMS.values(), ids=CLOSED_STREAMS)
def test_a_cell_that_closes_its_stdout_has_it_back_in_the_next(ring: Ring, code: str) -> None:
    with ring.victim() as victim:
        result = victim.cell("x = 1\nprint('before')\n" + code)
        assert result.status in ("success", "error")
        assert result.stdout.startswith("before\n")
        victim.cell("print('swallowed, or an error')")
        assert victim.value("print(x)") == "1"
        result = victim.cell(
            "import subprocess, sys; subprocess.run(['echo', 'child']); print('err', file=sys.stderr); display(2)"
        )
        assert (result.stdout, result.stderr) == ("child\n", "err\n")
        assert result.outputs[0]["data"]["text/plain"] == "2"


REPLACED = {
    "print": "import builtins; builtins.print = None",
    "len and str": "import builtins; builtins.len = lambda x: 1 / 0; builtins.str = int",
    "isinstance": "import builtins; builtins.isinstance = lambda *a: 1 / 0",
    "import": "import builtins; builtins.__import__ = None",
    "the modules": "import sys; sys.modules.clear()",
    "modules by None": "import sys\nfor name in list(sys.modules): sys.modules[name] = None",
    "json": "import json; json.dumps = json.loads = lambda *a, **k: 1 / 0",
    "os": "import os; os.write = os.getpid = os._exit = lambda *a: 1 / 0",
    "socket": "import socket; socket.socket.sendall = socket.socket.recv = lambda *a: 1 / 0",
    "the shell": "get_ipython().run_cell_async = get_ipython().run_cell = None",
    "the kernel": "get_ipython().kernel.do_execute = None; get_ipython().kernel.session.send = None",
    "the display publisher": "get_ipython().display_pub.publish = lambda *a, **k: 1 / 0",
    "the display hook": "import sys; sys.displayhook = lambda x: 1 / 0\n1",
    "the traceback": "get_ipython().showtraceback = lambda *a, **k: 1 / 0\n1 / 0",
    "the namespace": "get_ipython().user_ns.clear()",
    "a key that is no name": "globals()[3] = 4",
    "an audit hook": "import sys\ndef hook(event, args): raise RuntimeError(event)\nsys.addaudithook(hook)",
    "a trace": "import sys\ndef trace(*a): raise RuntimeError\nsys.settrace(trace)",
    "the collector": "import gc\nfor o in gc.get_objects():\n  if isinstance(o, dict) and '_channel' in o: o.clear()",
    "the loop": "import asyncio; asyncio.get_running_loop().stop()",
    "all tasks": "import asyncio\nfor task in asyncio.all_tasks(): task.cancel()",
    "the policy": "import asyncio; asyncio.set_event_loop_policy(None); asyncio.set_event_loop(None)",
    "the folder": "import os, shutil; shutil.rmtree('/workspace', ignore_errors=True); os.chdir('/')",
    "files of the session": "import shutil\nfor p in ('/run/faas', '/home/user', '/tmp'): shutil.rmtree(p, ignore_errors=True)",
    "the environment": "import os; os.environ.clear(); os.umask(0o777)",
    "a child that comes back": "import os\nif os.fork(): os.wait()",
    "signals": "import signal\nfor n in signal.valid_signals():\n  try: signal.signal(n, lambda *a: 1 / 0)\n  except (OSError, ValueError): pass",
    "a timer": "import signal; signal.signal(signal.SIGALRM, lambda *a: 1 / 0); signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)",
    "exit hooks": "import atexit, time; atexit.register(time.sleep, 1000)",
    "every object": "import ctypes, gc\nfor o in gc.get_objects()[:2000]: ctypes.memset(id(o) + 8, 0, 8)",
}


@pytest.mark.parametrize("code", REPLACED.values(), ids=REPLACED)
def test_a_cell_that_breaks_its_interpreter_harms_itself_only(ring: Ring, code: str) -> None:
    """It goes on, or it has died and says so; never does anybody wait for it."""
    with ring.victim() as victim:
        for cell in (code, "1", "print(1)"):
            try:
                result = victim.cell(cell, timeout=4)
            except errors.ExecutionEndedError as ended:
                assert ended.hint
                break
            assert result.status in ("success", "error", "timeout")
            if result.status != "success":
                assert result.error is not None
                assert result.error.code in ("exception", "died", "timeout", "exit_code")
        if victim.end_code() is None:
            assert victim.execution.run(["echo", "beside"]).stdout == "beside\n"


HARMLESS = ["print", "json", "the loop", "all tasks", "the policy", "the folder", "a child that comes back", "signals"]


@pytest.mark.parametrize("name", HARMLESS)
def test_what_programs_do_by_mistake_does_not_end_the_session(ring: Ring, name: str) -> None:
    with ring.victim() as victim:
        victim.cell("x = 1")
        victim.cell(REPLACED[name])
        assert victim.cell("x").outputs[0]["data"]["text/plain"] == "1"


FRAMES = """
import gc, json, os, struct
(session,) = [o for o in gc.get_objects() if type(o).__name__ == "Session" and hasattr(o, "_standard")]
channel, mark = session._channel.fileno(), session._standard._mark

def send(message, body=b"", raw=None):
    data = raw if raw is not None else json.dumps(message).encode()
    os.write(channel, struct.pack("<II", len(data), len(body)) + data + body)
"""
MALFORMED = {
    "a giant length": "os.write(channel, b'\\xff' * 8)",
    "no JSON": "send(None, raw=b'{{{')",
    "no text": "send(None, raw=b'\\xff\\xfe')",
    "half a surrogate": "send(None, raw=b'\"\\\\ud800\"')",
    "a number without end": "send(None, raw=b'[1' + b'0' * 1000 + b']')",
    "noise": "os.write(channel, os.urandom(100_000))",
    "nested too deep": "send(None, raw=b'[' * 100_000 + b']' * 100_000)",
}
IGNORED = {
    "no object": "send([1, 2]); send(3); send(None); send('x')",
    "an unknown type": "send({'type': 'launch'}); send({}); send({'type': ['x']}); send({'type': None})",
    "a message of odd types": "send({'type': 'message', 'msg_type': 7, 'content': [], 'seq': 'x', 'sizes': 'y'})",
    "a message of no mime bundle": "send({'type': 'message', 'msg_type': 'display_data', 'content': {'data': 5}, 'seq': -4})",
    "sizes that do not fit": "send({'type': 'message', 'msg_type': 'display_data', 'content': {}, 'sizes': [10**9, -1]}, b'abc')",
    "many sizes": "send({'type': 'message', 'msg_type': 'comm_msg', 'content': {}, 'sizes': [0] * 100_000})",
    "an answer that nobody waits for": "send({'type': 'reply', 'id': '999', 'status': 'ok'}); send({'type': 'reply', 'id': {'a': 1}})",
    "chunks that nobody waits for": "for _ in range(100): send({'type': 'chunk'}, bytes(100_000))",
    "a stream for another": "send({'type': 'message', 'msg_type': 'stream', 'content': {'name': 'stdin', 'text': 3}})",
    "huge numbers": "send({'type': 'message', 'msg_type': 'clear_output', 'content': {}, 'seq': 10**300})",
}


@pytest.mark.parametrize("code", MALFORMED.values(), ids=MALFORMED)
def test_malformed_frames_end_the_session_that_sent_them(ring: Ring, code: str) -> None:
    with ring.victim() as victim:
        result = victim.cell(f"{FRAMES}\nprint('before', flush=True)\n{code}\nimport time; time.sleep(30)", timeout=10)
        assert result.stdout == "before\n"
        assert result.error is not None
        assert result.error.code in ("died", "timeout")
        if result.error.code == "died":
            assert "malformed" in result.error.evalue


@pytest.mark.parametrize("code", IGNORED.values(), ids=IGNORED)
def test_frames_that_mean_nothing_are_dropped(ring: Ring, code: str) -> None:
    with ring.victim() as victim:
        assert victim.value(f"{FRAMES}\n{code}\nprint('after')") == "after"
        assert victim.value("print(1)") == "1"


def test_half_a_frame_ends_with_the_timeout(ring: Ring) -> None:
    with ring.victim() as victim:
        result = victim.cell(FRAMES + "\nos.write(channel, struct.pack('<II', 1 << 20, 0) + b'{')", timeout=0.5)
        assert result.status == "timeout"


def test_a_forged_answer_ends_only_its_own_request(ring: Ring) -> None:
    with ring.victim() as victim:
        code = "for n in range(50): send({'type': 'reply', 'id': str(n), 'status': 'ok', 'execution_count': 'x'})"
        assert victim.cell(FRAMES + code).status == "success"
    with ring.victim() as victim:  # another session: late answers of the first could still be on their way
        code = "for n in range(50): send({'type': 'reply', 'id': str(n), 'status': 'error', 'traceback': [1, {}], 'ename': 5})"
        assert victim.cell(FRAMES + code).status == "error"


def test_forged_variables_are_not_believed(ring: Ring) -> None:
    code = """
def lie(*a):
    return [{"name": 3}, 5, {"name": "x", "type": "int", "size_bytes": "many"}, {"name": "ok", "type": "int"}]
from faas_guest import variables
variables.listing = lie
variables.encoded = lambda *a: iter([b"\\x80\\x04cos\\nsystem\\n", b"x" * 100])
"""
    with ring.victim() as victim:
        victim.cell(code)
        assert [v.name for v in victim.execution.variables.list()] == ["ok"]
        with pytest.raises(errors.FaaSError):
            victim.execution.variables.pull("x")


def test_a_mark_with_a_wrong_token_is_text(ring: Ring) -> None:
    with ring.victim() as victim:
        code = "import os\nos.write(1, b'a\\0\\x1bfaas:0123456789abcdef:00000005\\0b\\n')\ndisplay(1)\nprint('c')"
        assert victim.value(code) == "a\0\x1bfaas:0123456789abcdef:00000005\0b\nc"


FORGED_MARKS = {
    "the past": "os.write(1, mark + b'00000001\\0')",
    "the future": "os.write(1, mark + b'0000ffff\\0')",
    "no number": "os.write(1, mark + b'zzzzzzzz\\0')",
    "cut off": "os.write(1, mark + b'00')",
    "only its start": "os.write(1, mark[:9])",
    "very many": "os.write(1, (mark + b'0000ffff\\0') * 1000)",
    "only on stderr": "os.write(2, mark + b'0000ffff\\0')",
}


@pytest.mark.parametrize("code", FORGED_MARKS.values(), ids=FORGED_MARKS)
def test_a_forged_mark_delays_only_the_forgers_output(ring: Ring, code: str) -> None:
    with ring.victim() as victim:
        begun = time.monotonic()
        assert victim.value(f"{FRAMES}\nprint('before', flush=True)\n{code}").startswith("before")
        for _ in range(3):
            assert victim.cell("display(1)\nprint('x' * 100)").status == "success"
        assert time.monotonic() - begun < 15


def test_a_forged_mark_cannot_stop_a_printer_for_good(ring: Ring) -> None:
    code = FRAMES + "\nos.write(1, mark + b'0000ffff\\0')\nfor _ in range(20_000): print('x' * 100)"
    with ring.victim() as victim:
        assert victim.cell(code, timeout=15).status == "success"


DISPLAYS = {
    "too large": "display({'text/plain': 'x' * (61 << 20)}, raw=True)",
    "no text": "display({'text/plain': object()}, raw=True)",
    "bytes": "display({'image/png': b'\\0\\1\\2'}, raw=True)",
    "a circle": "a = {}; a['a'] = a; display(a, raw=True)",
    "no number": "display({'application/json': [float('nan'), float('inf')]}, raw=True)",
    "half a surrogate": "display({'text/plain': 'a\\ud800b'}, raw=True)",
    "keys that are no text": "display({1: 2, None: 3}, raw=True)",
    "nested deep": "a = []\nfor _ in range(500): a = [a]\ndisplay({'application/json': a}, raw=True)",
    "metadata of another kind": "display({'text/plain': 'x'}, raw=True, metadata={'a': object()})",
    "a huge number": "display({'application/json': 10**1000}, raw=True)",
}


@pytest.mark.parametrize("code", DISPLAYS.values(), ids=DISPLAYS)
def test_a_display_that_cannot_travel_keeps_the_session(ring: Ring, code: str) -> None:
    with ring.victim() as victim:
        result = victim.cell(code)
        assert result.status in ("success", "error")
        assert victim.value("print(1)") == "1"


EXCEPTIONS = {
    "a text that is too large": "raise Exception('x' * (32 << 20))",
    "half a surrogate": "raise Exception('a\\ud800b')",
    "a __str__ that raises": "class E(Exception):\n  def __str__(self): raise E\nraise E",
    "a BaseException": "class E(BaseException): pass\nraise E",
    "no exception": "raise None",
    "a name that is no text": "e = type('x\\ud800', (Exception,), {})\nraise e",
}


@pytest.mark.parametrize("code", EXCEPTIONS.values(), ids=EXCEPTIONS)
def test_an_exception_that_cannot_travel_is_still_an_error(ring: Ring, code: str) -> None:
    with ring.victim() as victim:
        result = victim.cell(code)
        assert result.status == "error"
        assert result.error is not None
        assert result.error.code == "exception"
        assert victim.value("print(1)") == "1"


VALUES = """
import time
class Raises:
    def __repr__(self): raise RuntimeError("no")
class Huge:
    def __repr__(self): return "x" * (100 << 20)
class Spoof:
    __module__ = "numpy"
    @property
    def dtype(self): raise RuntimeError("no")
    shape = (object(),)
class Meta(type):
    @property
    def __module__(cls): raise RuntimeError("no")
class Odd(metaclass=Meta): pass
a, b, c, d, ok = [Raises()], [Huge()], Spoof(), Odd(), 1
"""


def test_one_bad_value_does_not_hide_the_other_variables(ring: Ring) -> None:
    with ring.victim() as victim:
        assert victim.cell(VALUES).status == "success"
        listed = {v.name: v for v in victim.execution.variables.list()}
        assert listed["ok"].preview == "1"
        assert {"a", "b", "c"} <= listed.keys()
        assert all(len(v.preview) < 1000 for v in listed.values())
        with pytest.raises(errors.NotTransferableError):
            victim.execution.variables.pull("a")


def test_a_repr_that_hangs_is_interrupted(ring: Ring) -> None:
    with ring.victim() as victim:
        victim.cell("class Hangs:\n  def __repr__(self):\n    while True: pass\nx = [Hangs()]; y = 1")
        with pytest.raises((errors.DeadlineError, errors.NotTransferableError)):
            victim.execution.variables.list()
        assert victim.value("del x\nprint(y)") == "1"
        assert [v.name for v in victim.execution.variables.list()][-1] == "y"
