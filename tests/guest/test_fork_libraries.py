"""Libraries used before a fork and in each of two branches after it: each tried for real, a hang fails the test.

Those that are no dependency of the tests are looked for in the folder that FAAS_FORK_LIBRARIES names, too:
pip install --target FOLDER pyarrow polars duckdb numexpr cryptography
"""

from __future__ import annotations

import importlib.util
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest
from forking_process import ForkingProcess, blocking

EXTRA = [p for p in [os.environ.get("FAAS_FORK_LIBRARIES", "")] if p]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> ForkingProcess:
    return ForkingProcess(tmp_path_factory.mktemp("guest"))


def is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None or any((Path(p) / name).exists() for p in EXTRA)


BOOSTING = """
from sklearn.ensemble import HistGradientBoostingRegressor
import numpy as np
X = np.random.default_rng(1).random((3000, 6)); y = X[:, 0] * 2 + X[:, 1]
fit = lambda: round(float(HistGradientBoostingRegressor(max_iter=20, random_state=0).fit(X, y).score(X, y)), 6)
"""

WORKS = {
    "numpy's OpenBLAS": ("numpy", "import numpy as np; a = np.ones((900, 900)); use = lambda: float((a @ a).sum())"),
    "numpy.linalg": ("numpy", "import numpy as np; a = np.eye(300) * 2; use = lambda: float(np.linalg.inv(a).sum())"),
    "scipy": ("scipy", "import scipy.linalg, numpy as np; use = lambda: float(scipy.linalg.inv(np.eye(300)).sum())"),
    "pandas": (
        "pandas",
        """
        import pandas as pd
        frame = pd.DataFrame({"k": [i % 7 for i in range(70000)], "v": range(70000)})
        use = lambda: int(frame.groupby("k").v.sum().max())
        """,
    ),
    "scikit-learn's OpenMP": ("sklearn", BOOSTING + "use = fit"),
    "scikit-learn in joblib's threads": (
        "sklearn",
        """
        from sklearn.ensemble import RandomForestClassifier
        import numpy as np
        X = np.random.default_rng(1).random((500, 4)); y = X[:, 0] > 0.5
        use = lambda: float(RandomForestClassifier(20, n_jobs=2, random_state=0).fit(X, y).score(X, y))
        """,
    ),
    "KMeans": (
        "sklearn",
        """
        from sklearn.cluster import KMeans
        import numpy as np
        X = np.random.default_rng(1).random((2000, 4))
        use = lambda: round(float(KMeans(5, n_init=2, random_state=0).fit(X).inertia_), 6)
        """,
    ),
    "matplotlib": (
        "matplotlib",
        """
        import io, matplotlib
        matplotlib.use("agg")
        import matplotlib.pyplot as plt
        figure, axes = plt.subplots(); axes.plot([1, 2, 3])
        def use():
            target = io.BytesIO(); figure.savefig(target, format="raw"); return len(target.getvalue())
        """,
    ),
    "joblib with its pool of processes left alive": (
        "joblib",
        "import math, joblib; use = lambda: joblib.Parallel(n_jobs=2)(joblib.delayed(math.sqrt)(i) for i in range(4))",
    ),
    "asyncio.to_thread": (
        "asyncio",
        """
        import asyncio, math
        loop = asyncio.new_event_loop()
        use = lambda: loop.run_until_complete(asyncio.wait_for(loop.run_in_executor(None, math.sqrt, 4), 10))
        """,
    ),
    "a pool of threads": (
        "concurrent",
        """
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(3)
        use = lambda: list(pool.map(abs, range(-5, 5), timeout=10))
        """,
    ),
    "pyarrow's pool": (
        "pyarrow",
        """
        import io, pyarrow as pa, pyarrow.parquet as pq
        table = pa.table({"a": list(range(200000)), "b": [i % 7 for i in range(200000)]})
        def use():
            file = io.BytesIO(); pq.write_table(table, file); file.seek(0)
            return pq.read_table(file).group_by("b").aggregate([("a", "sum")]).num_rows
        """,
    ),
    "numexpr's pool": (
        "numexpr",
        "import numexpr, numpy as np; a = np.ones(500000); use = lambda: float(numexpr.evaluate('a * 2 + 1').sum())",
    ),
    "duckdb, closed": (
        "duckdb",
        """
        import duckdb
        def use():
            with duckdb.connect() as c:
                return c.execute("select sum(i) from range(1000000) t(i)").fetchall()[0][0]
        """,
    ),
}


@pytest.mark.parametrize("case", WORKS)
def test_what_was_used_before_a_fork_gives_the_same_after_it(process: ForkingProcess, case: str) -> None:
    module, setup = WORKS[case]
    if not is_there(module):
        pytest.skip(f"{module} is not installed")
    code = f"{textwrap.dedent(setup)}\nexpected = use()\n"
    again = "result = use() == expected == use()"
    about = process.run(code, [again, again], source="result = use() == expected", path=EXTRA)
    assert blocking(about["check"]) == []
    assert blocking(about["losses"]) == []
    assert [b.get("result", b.get("error")) for b in about["branches"]] == [True, True]
    assert about["source"] is True


@pytest.mark.skipif(not is_there("polars"), reason="polars is not installed")
def test_polars_imported_and_not_used_does_not_stand_in_the_way(process: ForkingProcess) -> None:
    use = "result = polars.DataFrame({'a': range(1000)}).group_by('a').len().height"
    assert process.results("import polars", [use, use], path=EXTRA) == [1000, 1000]


BLOCKS = {
    "polars, used": ("polars", "import polars; polars.DataFrame({'a': range(100000)}).group_by('a').len()", "library"),
    "duckdb, connected": (
        "duckdb",
        "import duckdb; c = duckdb.connect(); c.execute('select sum(i) from range(1000000) t(i)').fetchall()",
        "library",
    ),
    "zmq": ("zmq", "import zmq; c = zmq.Context(); s = c.socket(zmq.PUB)", "library"),
    "a thread": (
        "threading",
        "import threading, time; threading.Thread(target=time.sleep, args=(30,), name='mine', daemon=True).start()",
        "thread",
    ),
    "a timer": (
        "threading",
        "import threading; t = threading.Timer(30, print); t.name = 'mine'; t.daemon = True; t.start()",
        "thread",
    ),
    "a pool at work": (
        "concurrent",
        "import time; from concurrent.futures import ThreadPoolExecutor; p = ThreadPoolExecutor(1); p.submit(time.sleep, 2)",
        "thread",
    ),
    "a process": (
        "subprocess",
        "import subprocess, atexit; p = subprocess.Popen(['sleep', '3'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)",
        "process",
    ),
    "a pool of processes": (
        "multiprocessing",
        "import multiprocessing as m; p = m.get_context('fork').Pool(1); p.map(abs, [1])",
        "process",
    ),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_what_a_fork_would_break_is_named_and_nothing_is_forked(process: ForkingProcess, case: str) -> None:
    module, setup, kind = BLOCKS[case]
    if not is_there(module):
        pytest.skip(f"{module} is not installed")
    ending = "result = p.terminate() if hasattr(globals().get('p'), 'terminate') else None"
    about: dict[str, Any] = process.run(setup, ["result = 1"], path=EXTRA, source=ending)
    assert about["branches"] == []
    named = blocking(about["check"])
    assert kind in {k for k, _ in named}
    if kind == "library":
        assert [name for _, name in named if module in name] != []


def test_a_connection_to_sqlite_goes_on_in_each_branch_with_a_file_of_its_own(
    process: ForkingProcess, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    setup = f"""
        import sqlite3
        c = sqlite3.connect({str(folder / "db")!r}); c.execute("create table t (x)"); c.execute("insert into t values (1)")
        c.commit()
        c.execute("begin immediate"); c.execute("insert into t values (2)")
    """
    use = f"""
        c.execute("insert into t values (3)"); c.commit()
        again = sqlite3.connect({str(folder / "db")!r})
        result = [x for (x,) in again.execute("select x from t")] + list(again.execute("pragma integrity_check").fetchone())
    """
    look = "c.rollback(); result = [x for (x,) in c.execute('select x from t')]"
    about = process.run(setup, [use, use], overlay=folder, source=look)
    assert [b.get("result", b.get("error")) for b in about["branches"]] == [[1, 2, 3, "ok"]] * 2
    assert about["source"] == [1]


def test_a_database_in_wal_mode_goes_on_in_each_branch(process: ForkingProcess, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    setup = f"""
        import sqlite3
        c = sqlite3.connect({str(folder / "db")!r}); c.execute("pragma journal_mode=wal")
        c.execute("create table t (x)"); c.execute("insert into t values (1)"); c.commit()
    """
    use = f"""
        c.execute("insert into t values (2)"); c.commit()
        again = sqlite3.connect({str(folder / "db")!r})
        result = [x for (x,) in again.execute("select x from t")] + [x for (x,) in c.execute("select x from t")]
    """
    about = process.run(setup, [use, use], overlay=folder, source="result = c.execute('select * from t').fetchall()")
    assert [b.get("result", b.get("error")) for b in about["branches"]] == [[1, 2, 1, 2]] * 2
    assert about["source"] == [[1]]


def test_a_loop_of_the_users_with_a_pending_task_and_a_timer_goes_on(process: ForkingProcess) -> None:
    setup = """
        import asyncio, time
        loop = asyncio.new_event_loop()
        order = []
        async def later(): await asyncio.sleep(0.05); order.append("slept"); return 7
        task = loop.create_task(later())
        loop.call_later(0.01, order.append, "called")
        loop.run_until_complete(asyncio.sleep(0))
    """
    use = """
        result = [loop.run_until_complete(asyncio.wait_for(task, 5)), order]
        before = time.process_time(); loop.run_until_complete(asyncio.sleep(0.5)); spent = time.process_time() - before
        loop.run_in_executor(None, loop.call_soon_threadsafe, loop.stop); loop.run_forever()
        result.append(spent < 0.25)
    """
    assert process.results(setup, [use, use]) == [[7, ["called", "slept"], True]] * 2


IDENTIFIERS = {
    "uuid1": "import uuid; new = lambda: str(uuid.uuid1())",
    "uuid4": "import uuid; new = lambda: str(uuid.uuid4())",
    "secrets": "import secrets; new = secrets.token_hex",
    "tempfile": "import tempfile; new = lambda: next(tempfile._get_candidate_names())",
    "OpenSSL": "import ssl; new = lambda: ssl.RAND_bytes(16).hex()",
    "cryptography": "from cryptography.fernet import Fernet; new = lambda: Fernet.generate_key().decode()",
    "a key of cryptography": """
        from cryptography.hazmat.primitives.asymmetric import ec
        new = lambda: str(ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value)
        """,
    "numpy, not seeded": "import numpy as np; new = lambda: str(np.random.default_rng().integers(1 << 62))",
}


@pytest.mark.parametrize("case", IDENTIFIERS)
def test_identifiers_never_repeat_between_branches(process: ForkingProcess, case: str) -> None:
    if case.endswith("cryptography") and not is_there("cryptography"):
        pytest.skip("cryptography is not installed")
    use = "result = [new() for _ in range(200)]"
    about = process.run(
        f"{textwrap.dedent(IDENTIFIERS[case])}\nfirst = [new() for _ in range(3)]", [use] * 3, path=EXTRA, source=use
    )
    found = [value for b in about["branches"] for value in b["result"]] + about["source"]
    assert len(found) == 800
    assert len(set(found)) == 800


def test_no_two_branches_make_time_based_identifiers_from_the_same_node(process: ForkingProcess) -> None:
    use = "ids = [uuid.uuid1() for _ in range(3)]; result = [i.node for i in ids] + [uuid.getnode(), ids[0].version]"
    rows = process.results("import uuid; uuid.uuid1(); uuid.getnode()", [use] * 2)
    assert [len(set(row[:4])) for row in rows] == [1, 1]
    assert rows[0][0] != rows[1][0]
    assert [row[4] for row in rows] == [1, 1]


GENERATORS = """
import random, numpy as np
random.seed(1); np.random.seed(2); mine = random.Random(3); new = np.random.default_rng(4); old = np.random.RandomState(5)
kept = [np.random.default_rng(6)]
draw = lambda: [random.random(), np.random.random(), mine.random(), new.random(), old.random(), kept[0].random()]
draw()
"""


def test_generators_go_on_equal_by_default(process: ForkingProcess) -> None:
    about = process.run(GENERATORS, ["result = draw()"] * 2, source="result = draw()")
    first, second = (b["result"] for b in about["branches"])
    assert first == second == about["source"]


def test_generators_differ_everywhere_with_new_seeds(process: ForkingProcess) -> None:
    draws = "result = draw() + [new.spawn(1)[0].random()]"
    about = process.run(GENERATORS, [draws] * 2, source=draws, reseed=True)
    rows = [*(b["result"] for b in about["branches"]), about["source"]]
    for column in zip(*rows, strict=True):
        assert len(set(column)) == 3
    names = ["random", "numpy.random", "mine", "new", "old", "kept[0]"]
    assert about["branches"][0]["receipt"]["reseeded"] == names
