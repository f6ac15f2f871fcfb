"""Digests of variables: equal for equal values, whatever interpreter they are in."""

from __future__ import annotations

from guest.portable_pair import Pair

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
