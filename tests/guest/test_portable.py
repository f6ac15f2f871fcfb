"""Variables in their portable form: written by one interpreter, read by another, and what cannot be is named."""

from __future__ import annotations

import os

import pytest
from guest.portable_pair import Pair

LOST = """
import socket, threading, types, weakref, sys, sqlite3, asyncio
class Evil(Exception):
    def __str__(self): raise SystemExit
class Raises:
    def __init__(self, error): self.error = error
    def __reduce__(self): raise self.error
class Writes:
    'fails after much of it is written'
    def __init__(self): self.data, self.end = bytearray(3_000_000), threading.Lock()
class Unreadable:
    def __reduce__(self): return (int, ("no number",))
first = [1, 2]
held = {'x': 5}
gen = (n for n in range(3))
sock = socket.socket()
lock = threading.Lock()
thread = threading.Thread()
db = sqlite3.connect(':memory:')
deep = []
for _n in range(100_000): deep = [deep]
interrupt, leaves, memory, evil = map(Raises, (KeyboardInterrupt(), SystemExit(3), MemoryError(), Evil()))
generator_exit = Raises(GeneratorExit())
half = [held, Writes()]
half_array = None
import numpy as np
big = np.arange(400_000.0)
half_array = [big, np.arange(300_000.0), lock]
unreadable = Unreadable()
leans = [unreadable, 1]
uses_lock = lambda: lock.locked()
last = {'first': first, 'held': held, 'big': big}
"""


def test_what_cannot_travel_is_named_and_the_rest_goes_on(pair: Pair) -> None:
    captured = pair.run("capture", before=LOST)
    lost = {loss["name"]: loss for loss in captured["excluded"]}
    assert set(lost) == {
        *("gen", "sock", "lock", "thread", "db", "deep", "interrupt", "leaves", "memory", "evil"),
        *("generator_exit", "half", "half_array"),
    }
    assert all(loss["kind"] == "variable" and loss["effect"] == "lost" for loss in lost.values())
    assert "generator" in lost["gen"]["reason"]
    assert "lock" in lost["half"]["reason"]
    assert lost["interrupt"]["reason"] == "KeyboardInterrupt"
    assert lost["leaves"]["reason"] == "SystemExit: 3"
    assert lost["evil"]["reason"] == "Evil"
    after = """
answer = [first, held, last['first'] is first, last['held'] is held, last['big'] is big, float(big.sum()),
    'gen' in globals(), 'half' in globals(), type(uses_lock).__name__]
"""
    restored = pair.run("restore", after=after)
    assert restored["value"] == [[1, 2], {"x": 5}, True, True, True, 79999800000.0, False, False, "function"]
    reasons = {loss["name"]: loss["reason"] for loss in restored["excluded"]}
    assert set(reasons) == {"unreadable", "leans"}
    assert "no number" in reasons["unreadable"]
    assert "last" in restored["variables"]


def test_a_module_that_is_not_there_takes_only_what_needs_it(pair: Pair) -> None:
    (pair.folder / "mine.py").write_text("class Thing:\n    pass\n")
    code = "import sys; sys.path.insert(0, '.')\nimport mine\nthing = mine.Thing()\nother = 1\nboth = [other, thing]"
    assert pair.run("capture", before=code)["excluded"] == []
    (pair.folder / "mine.py").unlink()
    restored = pair.run("restore", after="answer = other")
    assert restored["value"] == 1
    assert {loss["name"] for loss in restored["excluded"]} == {"mine", "thing", "both"}
    assert "mine" in restored["excluded"][0]["reason"]


def test_what_is_defined_in_the_folder_of_the_session_travels(pair: Pair) -> None:
    (pair.folder / "lib").mkdir()
    (pair.folder / "lib" / "mine.py").write_text("class Thing:\n    v = 1\n")
    before = "import sys; sys.path.append('lib')\nimport mine\nthing = mine.Thing()"
    assert pair.there(before, "mine.Thing.v = 2\nanswer = [thing.v, sys.path[-1]]") == [2, "lib"]


def test_open_files_are_opened_again_where_they_were(pair: Pair) -> None:
    before = """
open('r.txt', 'w').write('one\\ntwo\\nthree\\n')
r = open('r.txt'); r.readline()
w = open('w.txt', 'w'); w.write('begun ')
a = open('a.bin', 'ab'); a.write(b'1')
x = open('x.bin', 'xb+'); x.write(b'abcdef'); x.seek(2)
raw = open('r.txt', 'rb', buffering=0); raw.seek(4)
with open('r.txt') as shut: pass
import os
gone = open('gone.txt', 'w'); os.unlink('gone.txt')
tty = open('/dev/null')
"""
    captured = pair.run("capture", before=before)
    assert {loss["name"] for loss in captured["excluded"]} == {"gone", "tty"}
    after = """
w.write('ended'); w.close(); a.write(b'2'); a.close()
answer = [r.readline(), r.name, w.mode, x.read().decode(), raw.readline().decode(), shut.closed, shut.name,
    open('w.txt').read(), open('a.bin').read(), x.mode]
"""
    expected = ["two\n", "r.txt", "w", "cdef", "two\n", True, "r.txt", "begun ended", "12", "xb+"]
    assert pair.run("restore", after=after)["value"] == expected


def test_what_is_in_the_buffer_of_an_open_file_travels_with_it(pair: Pair) -> None:
    before = """
w = open('w.txt', 'w'); w.write('done '); w.flush(); w.write('pending ')
a = open('a.txt', 'a'); a.write('pending ')
both = open('both.bin', 'wb+'); both.write(b'abcdef'); both.flush(); both.seek(2); both.write(b'Z')
"""
    assert pair.run("capture", before=before)["excluded"] == []
    # A snapshot's files are as they were before its variables were written.
    for name, text in (("w.txt", "done "), ("a.txt", ""), ("both.bin", "abcdef")):
        (pair.folder / name).write_text(text)
    after = """
for file in (w, a): file.write('ended'); file.close()
both.write(b'+'); both.close()
answer = [open(name).read() for name in ('w.txt', 'a.txt', 'both.bin')]
"""
    assert pair.run("restore", after=after)["value"] == ["done pending ended", "pending ended", "abZ+ef"]


def test_directory_environment_and_cell_number_travel_but_not_what_the_sandbox_was_given(pair: Pair) -> None:
    (pair.folder / "sub").mkdir()
    before = "import os\nos.chdir('sub')\nos.environ['MINE'] = 'set'\ndel os.environ['HOME']\nx = 1"
    assert pair.run("capture", before=before)["excluded"] == []
    assert b"from the start" not in pair.file.read_bytes()
    after = "answer = [os.path.basename(os.getcwd()), os.environ.get('MINE'), 'HOME' in os.environ]"
    restored = pair.run("restore", after=after)
    assert restored["value"] == ["sub", "set", False]
    assert restored["session"] == {"execution_count": 7}


def test_a_directory_that_is_gone_is_named(pair: Pair) -> None:
    (pair.folder / "sub").mkdir()
    pair.run("capture", before="import os\nos.chdir('sub')")
    (pair.folder / "sub").rmdir()
    (loss,) = pair.run("restore")["excluded"]
    assert loss["kind"] == "file"
    assert loss["name"].endswith("/sub")


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_a_file_that_ends_too_early_gives_what_it_has(pair: Pair, share: float) -> None:
    captured = pair.run("capture", before="\n".join(f"v{n} = [{n}] * 1000" for n in range(40)))
    os.truncate(pair.file, int(pair.file.stat().st_size * share))
    restored = pair.run("restore")
    lost = [loss["name"] for loss in restored["excluded"]]
    assert sorted(restored["variables"] + lost) == sorted(captured["variables"])
    assert "v0" in restored["variables"]
    assert "v39" in lost
    assert all("ends too early" in loss["reason"] for loss in restored["excluded"])


def test_something_else_is_refused(pair: Pair) -> None:
    pair.file.write_bytes(b"\x80\x04N." * 100)
    with pytest.raises(AssertionError, match="FormatProblem"):
        pair.run("restore")


def test_a_large_session_costs_little_memory_beside_its_own(pair: Pair) -> None:
    before = """
import numpy as np
arrays = [np.ones(5_000_000) for _ in range(4)]
gaps = np.ones((4000, 4000))[:, ::2]
times = np.ones(8_000_000, 'i8').view('M8[s]')
text = 'x' * 50_000_000
raw = b'y' * 50_000_000
"""
    captured = pair.run("capture", before=before)
    assert captured["excluded"] == []
    assert captured["size_bytes"] > 380e6
    assert captured["extra_bytes"] < 100e6
    restored = pair.run("restore")
    assert restored["extra_bytes"] < captured["size_bytes"] + 100e6


def test_a_second_interpreter_gives_the_same_to_a_third(pair: Pair) -> None:
    before = "class A:\n    def f(self):\n        return x\na = A()\nx = 1\ndef g():\n    return a.f()"
    pair.run("capture", before=before)
    second = Pair(pair.guest, pair.folder)
    second.file = pair.folder / "again"
    again = f"""
import os, sys
fd = os.open({str(second.file)!r}, os.O_WRONLY | os.O_CREAT)
portable = sys.modules['faas_guest.portable']
done = portable.capture({{k: v for k, v in globals().items()}} and globals(), ('portable', 'fd', 'done'), fd)
answer = done['excluded']
"""
    assert pair.run("restore", after=again)["value"] == []
    assert second.run("restore", after="x = 2; answer = [g(), isinstance(a, A)]")["value"] == [2, True]


KERNEL = """
import numpy as np, pandas as pd, matplotlib.pyplot as plt, asyncio
from sklearn.ensemble import RandomForestClassifier
frame = pd.DataFrame({'a': range(100), 'b': np.arange(100) % 3})
model = RandomForestClassifier(5, random_state=0).fit(frame[['a']], frame['b'])
fig, ax = plt.subplots(); ax.plot([1, 2, 3]); ax.set_title('kept')
def score(n=5):
    return int((model.predict(frame[['a']]) == frame['b']).sum()) + n
async def later(): return score()
class Shape:
    def area(self): return side ** 2
side = 3
shape = Shape()
display_me = 5
_ = 1
frame.head()
"""


def test_a_kernels_session_travels_without_the_kernels_own(pair: Pair) -> None:
    captured = pair.run("capture", before=KERNEL, kernel=True)
    assert captured["excluded"] == []
    assert captured["variables"] == [
        *("np", "pd", "plt", "asyncio", "RandomForestClassifier", "frame", "model", "fig", "ax", "score", "later"),
        *("Shape", "side", "shape", "display_me"),
    ]
    after = """
side = 4
answer = [score() - score(0), asyncio.run(later()) == score(), shape.area(), ax.get_title(), fig.axes[0] is ax,
    len(frame), type(get_ipython()).__name__, isinstance(shape, Shape)]
"""
    restored = pair.run("restore", after=after, kernel=True)
    assert restored["excluded"] == []
    assert restored["value"] == [5, True, 16, "kept", True, 100, "Shell", True]


def test_through_a_pipe_and_into_one_that_nobody_reads(pair: Pair) -> None:
    after = """
import os, sys, threading
portable = sys.modules['faas_guest.portable']
read, write = os.pipe()
taken = {'__name__': '__main__'}
def take(): taken.update(done=portable.restore(taken, read))
thread = threading.Thread(target=take)
thread.start()
sent = portable.capture({'big': bytearray(b'x' * 9_000_000), 'n': 5, 'half': [bytes(2_000_000), thread]}, (), write)
os.close(write)
thread.join(30)
os.close(read)
read, write = os.pipe()
os.close(read)
try:
    portable.capture({'big': bytearray(9_000_000), 'n': 5}, (), write)
except BrokenPipeError as e:
    broken = True
answer = [len(taken['big']), taken['n'], sent['variables'], [e['name'] for e in sent['excluded']],
    sent['size_bytes'] == taken['done']['size_bytes'], broken]
"""
    found = pair.run("fingerprints", after=after)["value"]
    assert found == [9_000_000, 5, ["big", "n"], ["half"], True, True]
