"""A process that is forked with what survives a fork made anew: run by the tests, in the interpreter of the tests.

python forked.py FOLDER SPEC        FOLDER: where faas_guest lies; SPEC: JSON

SPEC: setup, code run in the source; branches, one code for each child, run one after the other in the source's
namespace and answering with what it assigns to `result`; source, code run in the source afterwards. `overlay`: each
child sees that folder through a layer of its own, as a branch does. Prints one JSON object.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any

FOLDER, SPEC = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, FOLDER)
carry, inventory, linux, runtimes = (
    importlib.import_module(f"faas_guest.{name}") for name in ("carry", "inventory", "linux", "runtimes")
)
sys.path.remove(FOLDER)
sys.path.extend(SPEC["path"])
ANSWER_S = 40
OURS = {0, 1, 2}


def main() -> None:
    namespace: dict[str, Any] = {"__name__": "session", "look": lambda: inventory.look(ours(), sandbox=False)}
    exec(SPEC["setup"], namespace)
    before = inventory.look(ours(), sandbox=False)
    about: dict[str, Any] = {"check": before.losses, "branches": []}
    if before.can_fork:
        about["ended"] = runtimes.prepare()
        found = inventory.look(ours(), sandbox=False)
        about["losses"] = found.losses
        if found.can_fork:
            carry.hold(found)
            state = carry.save_random()
            for number, code in enumerate(SPEC["branches"]):
                about["branches"].append(child(found, state, code, namespace, number))
            carry.unhold(found)
    if SPEC["source"]:
        exec(SPEC["source"], namespace)
        about["source"] = namespace["result"]
    runtimes.prepare()  # pools of processes would leave their semaphores behind
    print(json.dumps(about), flush=True)
    os._exit(0)


def ours() -> set[int]:
    return OURS


def child(found: Any, state: Any, code: str, namespace: dict[str, Any], number: int) -> dict[str, Any]:
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        OURS.add(there.fileno())
        try:
            carry.restore_random(state)
            if SPEC["overlay"]:
                cover(SPEC["overlay"], f"{SPEC['overlay']}.{number}")
            receipt = carry.carry(found, SPEC["continuing"] and number == 0)
            if SPEC["reseed"]:
                receipt["reseeded"] = carry.reseed(namespace)
            exec(code, namespace)
            answer = {"receipt": receipt, "result": namespace["result"]}
            runtimes.prepare()
        except BaseException:  # noqa: BLE001 - whatever it is, the test is to see it
            answer = {"error": traceback.format_exc()}
        there.sendall(json.dumps(answer).encode())
        os._exit(0)
    there.close()
    text = bytearray()
    while True:
        ready, _, _ = select.select([here], [], [], ANSWER_S)
        data = here.recv(1 << 20) if ready else b""
        text += data
        if not data:
            break
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    here.close()
    if number == 0 and SPEC["continuing"]:
        carry.release(found)
    return json.loads(text) if text else {"error": "no answer: it hangs, or ended"}


def cover(folder: str, upper: str) -> None:
    user, group = os.getuid(), os.getgid()
    linux.unshare(linux.NEWUSER | linux.NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as f:
            f.write(text)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_SLAVE)
    for part in ("upper", "work"):
        os.makedirs(f"{upper}/{part}")
    linux.overlay(folder, [folder], f"{upper}/upper", f"{upper}/work")


main()
