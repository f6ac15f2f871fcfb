"""Variables in their portable form: written by one interpreter, read by another, and what cannot be is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faas_gateway.backends.native.runtime_layer import write_guest

CHILD = Path(__file__).parent / "portable_child.py"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guest")
    write_guest(folder)
    return folder / "opt/faas"


class Pair:
    """Captures in one interpreter, restores in another."""

    def __init__(self, guest: Path, folder: Path) -> None:
        self.guest, self.folder = guest, folder
        self.file = folder / "variables"

    def run(self, do: str, **job: Any) -> dict[str, Any]:
        job = {"do": do, "file": str(self.file), "seconds": 20.0, **job}
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "SECRET": "from the start"}
        made = subprocess.run(
            [sys.executable, str(CHILD), str(self.guest), json.dumps(job)],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert made.returncode == 0, made.stderr
        return json.loads(made.stdout.splitlines()[-1])

    def there(self, before: str, after: str) -> Any:
        """What `after` finds in another interpreter after `before` ran in the first: all of it must have travelled."""
        captured = self.run("capture", before=before)
        assert captured["excluded"] == []
        restored = self.run("restore", after=after)
        assert restored["excluded"] == []
        assert restored["variables"] == captured["variables"]
        assert restored["size_bytes"] == captured["size_bytes"] == self.file.stat().st_size
        return restored["value"]


@pytest.fixture
def pair(guest: Path, tmp_path: Path) -> Pair:
    return Pair(guest, tmp_path)


SAME: dict[str, tuple[str, str, Any]] = {
    "plain values": (
        "a, b, c, d = 1, 'ü\\ud800', b'x' * 100, {'k': [1.5, None, (True, {2}, frozenset({3}))]}\nf = float('inf')",
        "answer = [a, b == 'ü\\ud800', c == b'x' * 100, d == {'k': [1.5, None, (True, {2}, frozenset({3}))]}, str(f)]",
        [1, True, True, True, "inf"],
    ),
    "a function sees the session's variables": (
        "x = 1\ndef f():\n    return x\ng = lambda: f() + x",
        "x = 2\nanswer = [f(), g(), f.__globals__ is globals(), f.__module__, g.__globals__ is globals()]",
        [2, 4, True, "__main__", True],
    ),
    "a function that changes a global": (
        "n = 0\ndef count():\n    global n\n    n += 1",
        "count(); count(); answer = n",
        2,
    ),
    "defaults, annotations, attributes and documentation": (
        "def f(a: int, b=2, *, c=3) -> str:\n    'does it'\n    return a + b + c\nf.note = 'x'",
        "answer = [f(1), f.__doc__, f.note, sorted(f.__annotations__), f.__kwdefaults__, f.__qualname__]",
        [6, "does it", "x", ["a", "return"], {"c": 3}, "f"],
    ),
    "closures, shared and recursive": (
        "def make():\n    n = 0\n    def up():\n        nonlocal n\n        n += 1\n        return n\n"
        "    def now():\n        return n\n    def fact(k):\n        return 1 if k < 2 else k * fact(k - 1)\n"
        "    return up, now, fact\nup, now, fact = make()\nboth = [up, now]",
        "both[0](); up(); answer = [now(), both[1](), fact(5), both[0] is up]",
        [2, 2, 120, True],
    ),
    "classes and their instances": (
        "class A:\n    made = 0\n    def __init__(self, v):\n        self.v = v\n    def twice(self):\n        return scale * self.v\n"
        "class B(A):\n    def twice(self):\n        return super().twice() + 1\nscale = 2\na, b = A(3), B(4)\nmany = [a, b, A(5)]",
        "scale = 10\nanswer = [a.twice(), b.twice(), isinstance(b, A), type(many[2]) is A, many[0] is a, B.__mro__[1] is A]",
        [30, 41, True, True, True, True],
    ),
    "dataclasses and enums": (
        "import dataclasses, enum\n@dataclasses.dataclass\nclass P:\n    x: int\n    y: list = dataclasses.field(default_factory=list)\n"
        "class C(enum.Enum):\n    RED = 1\np = P(1, [C.RED])\nq = dataclasses.replace(p, x=2)",
        "@dataclasses.dataclass\nclass Q(P):\n    z: int = 3\n"
        "answer = [p == P(1, [C.RED]), p.y[0] is C.RED, [f.name for f in dataclasses.fields(p)], Q(1).z, q.x]",
        [True, True, ["x", "y"], 3, 2],
    ),
    "the same object under several names and in others": (
        "import collections\na = [1]\nb = a\nc = {'a': a, 'me': None}\nc['me'] = c\nd = (a, c)\ng = globals()\n"
        "left = []\nright = [left]\nleft.append(right)",
        "a.append(2)\nanswer = [b, c['a'], d[0] is b, c['me'] is c, d[1] is c, g is globals(), left[0] is right, right[0] is left]",
        [[1, 2], [1, 2], True, True, True, True, True, True],
    ),
    "modules, by any name": (
        "import numpy as np, os.path, xml.etree.ElementTree, scipy.stats",
        "answer = [np.__name__, os.path.sep, xml.etree.ElementTree.__name__, scipy.stats.norm.mean()]",
        ["numpy", "/", "xml.etree.ElementTree", 0.0],
    ),
    "arrays of every shape": (
        "import numpy as np\na = np.arange(6.0).reshape(2, 3)\nb = np.asfortranarray(a)\nc = np.arange(20)[::3]\n"
        "big = np.arange(3_000_000)[::2]\nturned = np.arange(2_000_000.0).reshape(1000, 2000)[:, ::2].T\n"
        "when = np.arange('2020', '2120', dtype='M8[h]').reshape(2, -1)\nwhen2 = when\nro = np.arange(3)\nro.flags.writeable = False\n"
        "o = np.array([1, 'a', None], object)\ns = np.zeros(1_000_000, [('a', 'i4'), ('b', 'f8')])[::2]\ns['a'] = 7\n"
        "inside = [big, when, big]",
        "a[0, 0] = 9\nanswer = [a.tolist(), b.flags.f_contiguous, c.tolist(), bool((big == np.arange(0, 3_000_000, 2)).all()),"
        "bool((turned == np.arange(2_000_000.0).reshape(1000, 2000)[:, ::2].T).all()), str(when[1, -1]), when2 is when,"
        "ro.flags.writeable, o.tolist(), int(s['a'].sum()), inside[0] is big, inside[1] is when, inside[2] is big,"
        "big.flags.writeable]",
        [
            [[9, 1, 2], [3, 4, 5]],
            True,
            [0, 3, 6, 9, 12, 15, 18],
            True,
            True,
            "2119-12-31T23",
            True,
            False,
            [1, "a", None],
            3_500_000,
            True,
            True,
            True,
            True,
        ],
    ),
    "frames and fitted models": (
        "import pandas as pd, numpy as np\nfrom sklearn.linear_model import LinearRegression\n"
        "df = pd.DataFrame({'a': range(5), 'b': list('vwxyz'), 't': pd.date_range('2020', periods=5)})\n"
        "df['c'] = pd.Categorical(['p', 'q', 'p', 'q', 'p'])\nview = df[['a']]\nholder = {'df': df}\n"
        "model = LinearRegression().fit(df[['a']], df['a'] * 2)",
        "df.loc[0, 'a'] = 100\nanswer = [int(df['a'].sum()), str(df['t'].iloc[4].date()), df['c'].dtype.name, holder['df'] is df,"
        "round(float(model.predict(pd.DataFrame({'a': [21]}))[0]), 6)]",
        [110, "2020-01-05", "category", True, 42.0],
    ),
    "large text and bytes": (
        "import array\nt = 'ü' * 5_000_000\nplain = 'x' * 5_000_000\nu = [t, t]\nb = bytearray(b'q' * 5_000_000)\n"
        "ba = b'r' * 3_000_000\nar = array.array('i', range(2_000_000))",
        "answer = [len(t), t[-1], u[0] is u[1], len(plain), len(b), type(b).__name__, len(ba), ar[1_999_999], ar.typecode]",
        [5_000_000, "ü", True, 5_000_000, 5_000_000, "bytearray", 3_000_000, 1_999_999, "i"],
    ),
    "a cached function": (
        "import functools\ncalls = []\n@functools.lru_cache(maxsize=5)\ndef f(n):\n    calls.append(n)\n    return n * 2\nf(1)",
        "answer = [f(1), f(1), f.cache_parameters()['maxsize'], len(calls)]",
        [2, 2, 5, 2],
    ),
    "a decorated function": (
        "import functools\ndef deco(f):\n    @functools.wraps(f)\n    def inner(*a):\n        return f(*a) + k\n    return inner\n"
        "k = 1\n@deco\ndef f(a):\n    return a\npartial = functools.partial(f, 1)\nimport contextlib\n"
        "@contextlib.contextmanager\ndef ctx():\n    yield k",
        "k = 5\nwith ctx() as got:\n    pass\nanswer = [f(1), partial(), f.__name__, got]",
        [6, 6, "f", 5],
    ),
    "random generators": (
        "import random, numpy as np\nrng = np.random.default_rng(3)\nrng.random()\nr = random.Random(4)\nr.random()\n"
        "random.seed(5)\nrandom.random()\nnp.random.seed(6)\nnp.random.random()",
        "rng2 = np.random.default_rng(3); rng2.random()\nr2 = random.Random(4); r2.random()\nr3 = random.Random(5); r3.random()\n"
        "n3 = np.random.RandomState(6); n3.random()\n"
        "answer = [rng.random() == rng2.random(), r.random() == r2.random(), random.random() == r3.random(),"
        "np.random.random() == n3.random()]",
        [True, True, True, True],
    ),
    "names with an underscore, and names of IPython's that the user took": (
        "_cache = {1: 2}\n__private = 3\n_i9 = 'history'\n_ = 5\nHidden = 'taken'\nexit = 4",
        "answer = [_cache, globals()['__private'], '_i9' in globals(), '_' in globals(), Hidden, exit]",
        [{"1": 2}, 3, False, False, "taken", 4],
    ),
    "standard streams and loggers": (
        "import sys, logging\nout = sys.stdout\nlog = logging.getLogger('mine')",
        "answer = [out is sys.stdout, log is logging.getLogger('mine')]",
        [True, True],
    ),
    "a slot that has its own pickling": (
        "class S:\n    __slots__ = ('a',)\nclass R:\n    def __reduce__(self):\n        return (R, ())\n"
        "s = S()\ns.a = 3\nr = R()\nst = {R, S}",
        "answer = [s.a, type(r) is R, R in st]",
        [3, True, True],
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_travels_whole(pair: Pair, name: str) -> None:
    before, after, expected = SAME[name]
    assert pair.there(before, after) == expected


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


FINGERPRINTED = """
import numpy as np, threading
class A:
    def __init__(self): self.name, self.v = 'name', {'b', 'a', 'name'}
a = A()
n, words, nested = 5, {'x', 'y', 'zebra'}, {'k': [1, 'k', 'x']}
arr = np.arange(10.0)
gaps = np.arange(2_000_000)[::2]
def f(): return n
lock = threading.Lock()
"""


def test_equal_values_have_equal_digests_in_other_interpreters(pair: Pair) -> None:
    one = pair.run("fingerprints", before=FINGERPRINTED)["fingerprints"]
    other = pair.run("fingerprints", before=FINGERPRINTED)["fingerprints"]
    assert {name: f["digest"] for name, f in one.items()} == {name: f["digest"] for name, f in other.items()}
    assert [name for name, f in one.items() if not f["digest"]] == ["lock"]
    assert one["arr"]["shape"] == [10]


def test_a_change_changes_the_digest_of_what_changed(pair: Pair) -> None:
    one = pair.run("fingerprints", before=FINGERPRINTED)["fingerprints"]
    changes = "a.v.add('more'); words.add('w'); nested['k'][2] = 'y'; arr[3] = 9; gaps[-1] = 0\ndef f(): return n + 1"
    other = pair.run("fingerprints", before=f"{FINGERPRINTED}\n{changes}")["fingerprints"]
    changed = {name for name in one if one[name]["digest"] != other[name]["digest"]}
    assert changed == {"a", "words", "nested", "arr", "gaps", "f"}


def test_a_restored_session_has_the_digests_of_its_source(pair: Pair) -> None:
    pair.run("capture", before=FINGERPRINTED.replace("lock = threading.Lock()", ""))
    fingerprints = """
import sys
found = sys.modules['faas_guest.portable'].fingerprints(globals(), {})
answer = {f['name']: f['digest'] for f in found}
"""
    there = pair.run("restore", after=fingerprints)["value"]
    here = pair.run("fingerprints", before=FINGERPRINTED)["fingerprints"]
    assert {n: there[n] for n in here if n != "lock"} == {n: f["digest"] for n, f in here.items() if n != "lock"}


def test_without_time_there_is_no_digest_and_no_waiting(pair: Pair) -> None:
    job = {"before": "small = 1\nbig = [str(n) for n in range(3_000_000)]", "seconds": 0.2}
    found = pair.run("fingerprints", **job)["fingerprints"]
    assert found["big"]["digest"] == ""


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
