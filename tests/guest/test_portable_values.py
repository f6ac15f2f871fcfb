"""Values in their portable form: each is in another interpreter what it was in the first."""

from __future__ import annotations

from typing import Any

import pytest
from guest.portable_pair import Pair

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
