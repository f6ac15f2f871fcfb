"""No two sessions share random numbers, whoever owns them, though all are forks of one warm process.

Equal by design: the hash seed of str and bytes (`PYTHONHASHSEED`'s, drawn when the warm process starts), which decides the
order of sets, and the state of generators that a preloaded module has made for itself. Neither is a secret of anybody.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from typing import Any

import pytest
from faas import FaaSClient

pytestmark = pytest.mark.anyio

SESSIONS = 20
DRAW = """
import json, os, random, secrets, ssl, sys, tempfile, uuid
drawn = {
    "OpenSSL": ssl.RAND_bytes(16).hex(),
    "os.urandom": os.urandom(16).hex(),
    "secrets": secrets.token_hex(16),
    "random": random.random(),
    "random integers": random.getrandbits(128),
    "a Random of its own": random.Random().random(),
    "uuid4": str(uuid.uuid4()),
    "uuid1": str(uuid.uuid1()),
    "a temporary name": next(tempfile._get_candidate_names()),
    "a temporary file": os.path.basename(tempfile.mkstemp()[1]),
    "a hash with OpenSSL's salt": __import__("hashlib").scrypt(b"x", salt=ssl.RAND_bytes(8), n=2, r=1, p=1).hex(),
    "pid": os.getpid(),
    "kernel session": get_ipython().kernel.session.session,
}
if "numpy" in sys.modules:
    import numpy
    drawn["numpy"] = numpy.random.rand()
    drawn["numpy integers"] = int(numpy.random.randint(2**62))
    drawn["a numpy generator"] = numpy.random.default_rng().random()
if "sklearn" in sys.modules:
    from sklearn.utils import check_random_state
    drawn["scikit-learn"] = check_random_state(None).rand()
try:
    from cryptography.hazmat.primitives.asymmetric import ec
    drawn["an elliptic key"] = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
except ImportError:
    pass
print(json.dumps(drawn))
"""


async def draw(client: FaaSClient, environment: str, code: str) -> dict[str, Any]:
    async with await client.executions.create(environment) as execution:
        result = await execution.execute(code, timeout=60)
        assert result.status == "success", result.error
        return json.loads(result.stdout)


def assert_distinct(drawn: list[dict[str, Any]]) -> None:
    by_source: defaultdict[str, list[Any]] = defaultdict(list)
    for one in drawn:
        for source, found in one.items():
            by_source[source].append(found)
    assert all(len(found) == len(drawn) for found in by_source.values())
    shared = [source for source, found in by_source.items() if len(set(map(str, found))) < len(found)]
    assert not shared, f"sessions share: {shared}"


@pytest.mark.timeout(300)
async def test_sessions_that_are_made_at_once_share_no_random_numbers(aclient: FaaSClient) -> None:
    assert_distinct(await asyncio.gather(*[draw(aclient, "python", DRAW) for _ in range(SESSIONS)]))


@pytest.mark.timeout(600)
async def test_nor_do_those_of_the_environment_for_data(aclient: FaaSClient) -> None:
    """Its warm process has numpy and scikit-learn loaded, and their generators with them. The first use builds it."""
    drawn = await asyncio.gather(*[draw(aclient, "python-ai", DRAW) for _ in range(SESSIONS)])
    assert {"numpy", "scikit-learn"} <= drawn[0].keys()
    assert_distinct(drawn)


@pytest.mark.timeout(300)
async def test_nor_do_those_with_the_notebooks_own_packages(aclient: FaaSClient) -> None:
    code = "import importlib.util\nif importlib.util.find_spec('numpy'): import numpy\n" + DRAW
    drawn = await asyncio.gather(*[draw(aclient, "notebook", code) for _ in range(8)])
    assert_distinct(drawn)


@pytest.mark.timeout(300)
async def test_one_after_the_other_share_none_either(aclient: FaaSClient) -> None:
    """Each is a sandbox that was made ahead, while the one before it was in use."""
    assert_distinct([await draw(aclient, "python", DRAW) for _ in range(6)])


@pytest.mark.timeout(300)
async def test_children_of_two_sessions_share_none(aclient: FaaSClient) -> None:
    code = """
import json, os, sys
read, write = os.pipe()
if os.fork() == 0:
    import random, secrets, ssl, tempfile
    drawn = {"OpenSSL": ssl.RAND_bytes(16).hex(), "random": random.random(), "name": next(tempfile._get_candidate_names())}
    os.write(write, json.dumps(drawn).encode())
    os._exit(0)
print(os.read(read, 4096).decode())
"""
    assert_distinct(await asyncio.gather(*[draw(aclient, "python", code) for _ in range(8)]))


@pytest.mark.timeout(300)
async def test_the_hash_seed_is_equal_by_design_and_drawn_anew_by_every_program(aclient: FaaSClient) -> None:
    code = """
import json, subprocess, sys
outside = subprocess.check_output([sys.executable, "-c", "print(hash('x'))"]).decode().strip()
print(json.dumps({"inside": str(hash("x")), "outside": outside}))
"""
    drawn = [await draw(aclient, "python", code) for _ in range(4)]
    assert len({one["inside"] for one in drawn}) == 1
    assert len({one["outside"] for one in drawn}) == 4
