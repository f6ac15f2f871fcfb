"""A session that cheats when it is parked or branches: it harms its own family, and nothing else.

The guest's code lies in the interpreter that user code runs in, so all of it can be replaced.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from faas import errors
from relatives import Family, family
from rings import Ring, Victim

pytestmark = [pytest.mark.usefixtures("unharmed"), pytest.mark.xdist_group("hostile-snapshot-cheats")]

NO_ANSWER_S = 30.0
"""A guest that does not answer is given up after 20 s (START_S of the launcher)."""

CHEAT = """
import ctypes, errno, fcntl, json, os, signal, socket, threading, time
from faas_guest import births, carry, inventory, linux, parking, runtimes, wire
def attempt(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except OSError as e:
        return errno.errorcode.get(e.errno, e.errno)
def forged(*datagrams, stay=True):
    def park(control, channel, standard, namespace):
        for d in datagrams: attempt(control.send, d)
        while stay: time.sleep(1)
        os._exit(0)
    parking.park = park
def child(function):
    "Run by each child of the dormant process, in its namespaces, with all capabilities in them."
    give_up = births.Birth.give_up_rights
    def before(self):
        function(self)
        give_up(self)
    births.Birth.give_up_rights = before
"""


@pytest.fixture
def relatives(ring: Ring) -> Iterator[Family]:
    with family(ring) as made:
        yield made


@pytest.fixture
def cheat(relatives: Family) -> Victim:
    victim = relatives.open(memory_mb=256, pids=32)
    victim.value(CHEAT + "\nx = 41")
    return victim


def fails(relatives: Family, victim: Victim, within: float = 10.0) -> errors.FaaSError:
    """The snapshot comes to nothing, in time, with a reason."""
    begun = time.monotonic()
    with pytest.raises(errors.FaaSError) as caught:
        relatives.snapshot(victim)
    assert time.monotonic() - begun < within
    assert str(caught.value)
    assert not isinstance(caught.value, errors.InternalError), caught.value
    return caught.value


# ---- what it says when it parks ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    "datagrams",
    [
        "b'rubbish'",
        "b'[]'",
        "b'null'",
        r"b'\xff\xfe'",
        "b'[' * 100_000",
        "b'9' * 100_000",
        "b'{\"refused\": 5}'",
        'b\'{"refused": [5, {"name": 1}, {}]}\'',
        "b'{\"refused\": [' + b','.join([b'{}'] * 40_000) + b']}'",
        'b\'{"error": [], "errno": "x", "where": 3}\'',
        'b\'{"parked": 1e999, "paused_runtimes": {"a": 1}}\'',
        'b\'{"parked": NaN, "paused_runtimes": [1, null, "x"]}\'',
    ],
)
def test_rubbish_in_place_of_an_answer(relatives: Family, cheat: Victim, datagrams: str) -> None:
    cheat.value(f"forged({datagrams}, stay=False)")
    fails(relatives, cheat)


def test_more_of_a_refusal_than_fits_into_a_message(relatives: Family, cheat: Victim) -> None:
    cheat.value("forged(b'{\"refused\": [' + b','.join([b'{\"kind\": \"thread\"}'] * 6000) + b']}', stay=False)")
    assert isinstance(fails(relatives, cheat), errors.CannotForkError)


FLOOD = """
def park(control, channel, standard, namespace):
    null = [os.open("/dev/null", os.O_RDONLY) for _ in range(60)]
    socket.send_fds(control, [b'{"parked": 1.5}'], null)
    begun = time.monotonic()
    while time.monotonic() < begun + 2: socket.send_fds(control, [b'{"box": "1", "status": 0}'], null)
    while True: time.sleep(1)
parking.park = park
"""


def test_one_that_never_answers_is_given_up(relatives: Family) -> None:
    """Nor one that sends messages and descriptors that nobody asked for. All at once: each takes its whole deadline."""
    if relatives.ring.identity != ("root" if os.geteuid() == 0 else "user"):
        pytest.skip("20 s that are the same for every identity")
    (launcher,) = relatives.ring.live.launchers()
    silent = ("forged()", "forged(b'{\"parked\": 1.5}')", "carry.carry = lambda *args: time.sleep(99)", FLOOD)
    victims = [relatives.open(memory_mb=256, pids=32) for _ in silent]
    for victim, code in zip(victims, silent, strict=True):
        victim.value(CHEAT + code)
    held = launcher.num_fds()
    with ThreadPoolExecutor() as pool:
        given_up = [pool.submit(fails, relatives, victim, NO_ANSWER_S) for victim in victims]
        assert relatives.open(memory_mb=256, pids=32).value("print(1)") == "1", "others are served meanwhile"
        for one in given_up:
            one.result()
    assert launcher.num_fds() <= held + 20


# ---- once it is dormant -----------------------------------------------------------------------------------
@pytest.mark.parametrize("datagram", ["b'[[['", 'b\'{"box": "1", "status": 0}\'', 'b\'{"box": [], "status": 1e9}\''])
def test_a_dormant_one_that_says_what_it_cannot_know_is_not_listened_to(
    relatives: Family, cheat: Victim, datagram: str
) -> None:
    cheat.value(
        f"""
settle = parking._let_go
def go(*args):
    settle(*args)
    ends = [int(f) for f in os.listdir("/proc/self/fd") if str(attempt(os.readlink, f"/proc/self/fd/{{f}}"))[:7] == "socket:"]
    for end in ends:
        for _ in range(20): attempt(os.write, end, {datagram})
    while True: time.sleep(1)
parking._let_go = go
"""
    )
    snapshot = relatives.snapshot(cheat)
    time.sleep(0.3)
    with pytest.raises(errors.FaaSError):
        relatives.branch(snapshot)
    assert cheat.value("print(x)") == "41", "the session goes on"


# ---- while it branches ------------------------------------------------------------------------------------
BIRTHS = {
    "rubbish": "births.Birth.report = lambda self, about: (self.ready.send(b'rubbish'), time.sleep(99))",
    "a list": "births.Birth.report = lambda self, about: (self.ready.send(b'[]'), time.sleep(99))",
    "an error": "births.Birth.report = lambda self, about: (self.ready.send(b'{\"error\": [1]}'), time.sleep(99))",
    "exits": "births.Birth.report = lambda self, about: os._exit(3)",
    "exits at the fork": "os.register_at_fork(after_in_child=lambda: os._exit(7))",
    "exits before the fork": "os.register_at_fork(before=lambda: os._exit(7))",
    "closes its descriptors": "births.Birth.give_up_rights = lambda self: os.closerange(0, 200)",
    "does not enter": "births.Birth.enter = lambda self: None",
    "raises": "carry.carry = lambda *args: 1 / 0",
    "forges its number": """
import struct
def report(self, about):
    who = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("3i", 1, os.getuid(), os.getgid()))
    attempt(self.ready.sendmsg, [b"{}"], [who]); os._exit(0)
births.Birth.report = report
""",
}


@pytest.mark.parametrize("name", BIRTHS)
def test_a_child_that_does_not_come_to_life(relatives: Family, cheat: Victim, name: str) -> None:
    cheat.value(BIRTHS[name])
    fails(relatives, cheat)


LIVES = {
    "deep": "self.ready.send(b'{\"receipt\": ' + b'[' * 900 + b']' * 900 + b'}'); self.ready.recv(99)",
    "long": "self.ready.send(json.dumps({'receipt': {'remapped': ['x' * 900] * 120}}).encode()); self.ready.recv(99)",
    "wrong types": 'self.ready.send(b\'{"receipt": {"lost": {}, "remapped": [1, {}]}, "at": []}\'); self.ready.recv(99)',
    "descriptors": "socket.send_fds(self.ready, [b'{}'], [0] * 60); self.ready.recv(99)",
}


@pytest.mark.parametrize("name", LIVES)
def test_a_receipt_of_its_own_invention(relatives: Family, cheat: Victim, name: str) -> None:
    cheat.value(f"def report(self, about): {LIVES[name]}\nbirths.Birth.report = report")
    snapshot = relatives.snapshot(cheat)
    assert relatives.branch(snapshot)[0].value("print(x)") == cheat.value("print(x)") == "41"


def test_a_source_that_ends_itself_once_it_has_forked(relatives: Family, cheat: Victim) -> None:
    """It dies during the snapshot: either there is none, or it says that its process has ended."""
    cheat.value("os.register_at_fork(after_in_parent=lambda: os._exit(7))")
    snapshot = relatives.snapshot(cheat)
    assert cheat.value("print(x)") == "41"
    with pytest.raises(errors.SnapshotGoneError):
        relatives.branch(snapshot)


def test_a_second_process_in_each_branch_ends_with_it(relatives: Family, cheat: Victim) -> None:
    cheat.value(
        """
def twice(self):
    if os.fork() == 0:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        while True: time.sleep(1)
child(twice)
"""
    )
    snapshot = relatives.snapshot(cheat)
    (branch,) = relatives.branch(snapshot)
    assert branch.value("print(x)") == "41"
    assert len(branch.look()) >= 3, "its init, itself and that one"


# ---- keeping every capability -----------------------------------------------------------------------------
ALL = "births.Birth.give_up_rights = lambda self: linux.prctl(linux.PR_SET_DUMPABLE, 1)"
TRY_ALL = """
X86 = os.uname().machine == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
def syscall(x86, arm, *args):
    args = [a if isinstance(a, bytes) else ctypes.c_long(a) for a in args]
    result = libc.syscall(ctypes.c_long(x86 if X86 else arm), *args)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result
answers = {}
for name in ("mem", "root", "cwd", "exe", "fd", "environ", "maps", "ns/mnt", "ns/user", "ns/pid", "auxv", "stack"):
    for flags in (os.O_RDONLY, os.O_RDWR):
        answers[name, flags] = attempt(os.open, f"/proc/1/{name}", flags)
init = os.pidfd_open(1)
answers |= {f"setns {name}": attempt(linux.setns, init, kind) for name, kind in linux.NAMESPACES.items()}
answers["getfd"] = syscall(438, 438, init, 0, 0)
answers["ptrace"] = syscall(101, 117, 16, 1, 0, 0)
answers["vm_readv"] = syscall(310, 270, 1, 0, 0, 0, 0, 0)
answers["mount"] = syscall(165, 40, b"none", b"/tmp", b"tmpfs", 0, 0)
answers["open_tree"] = syscall(428, 428, -100, b"/", 1)
answers["chroot"] = syscall(161, 51, b"/tmp")
answers["unshare"] = syscall(272, 97, 0x10000000)
answers["clone"] = syscall(56, 220, 0x10000000 | 17, 0, 0, 0, 0)
answers["handle"] = syscall(304, 265, -100, 0, 0)
answers["bpf"] = syscall(321, 280, 5, 0, 0)
answers["device"] = attempt(os.mknod, "d", 0o20600, os.makedev(1, 1))
answers["packet"] = attempt(socket.socket, 17, 3, 0)
for name in ("mnt", "user", "pid"):
    fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
    for request in (0xB701, 0xB702, 0x8010B70B, 0x8010B70C): answers[name, request] = attempt(fcntl.ioctl, fd, request, bytearray(16))
def scribble(path):
    with open(path, "w") as f: f.write("1")
for path in ("core_pattern", "ns_last_pid", "modprobe"): answers[path] = attempt(scribble, f"/proc/sys/kernel/{path}")
answers["oom"] = attempt(scribble, "/proc/1/oom_score_adj")
effective = next(line for line in open("/proc/self/status") if line.startswith("CapEff")).split()[1]
print(int(effective, 16) > 1 << 38, {k: a for k, a in answers.items() if a not in ("EPERM", "EACCES", "EROFS", "EAFNOSUPPORT", "EISDIR", "ENOENT")})
print([p for p in ("/store", "/ro", "/skel") if os.path.exists(p)], [n for n in os.listdir("/proc") if n.isdigit()] == ["1", str(os.getpid())])
"""


def test_every_capability_behind_the_filter_does_not_lead_to_its_init(relatives: Family, cheat: Victim) -> None:
    """A branch that keeps what entering its user namespace gave it, from its birth on."""
    cheat.value(ALL)
    snapshot = relatives.snapshot(cheat)
    for member in (cheat, *relatives.branch(snapshot)):
        assert member.value(TRY_ALL) == "True {}\n[] True"


SPY = """
def spy(until):
    "Look for an init that may be entered or written to, below us: it is in the base tree, with all files of all."
    attempt(linux.raise_capabilities, *linux.ENTERING)
    base = max(int(n) for n in os.listdir("/proc") if n.isdigit())
    open("/workspace/spied", "w").close()
    while time.monotonic() < until:
        for n in range(base + 1, base + 12):
            for name, flags in (("ns/mnt", os.O_RDONLY), ("mem", os.O_RDWR), ("root", os.O_PATH | os.O_DIRECTORY)):
                try:
                    fd = os.open(f"/proc/{n}/{name}", flags)
                    with open(f"/proc/{n}/comm") as f: comm = f.read()
                except OSError: continue
                os.close(fd)
                if comm.startswith("faas-"): open(f"/workspace/FOUND {name[:2]}", "w").close()
real = parking.park
inventory.Inventory.can_fork = property(lambda self: True)
def park(*args):
    "Another process goes on until it is ended, and a thread of the dormant one for longer."
    until = time.monotonic() + 1.5
    if os.fork() == 0:
        spy(until)
        os._exit(0)
    threading.Thread(target=spy, args=(until,), daemon=True).start()
    return real(*args)
parking.park = park
"""


@pytest.mark.parametrize("rights", ["two capabilities", "all"])
def test_one_that_only_pretends_to_sleep_finds_no_way_into_the_base_tree(
    relatives: Family, cheat: Victim, rights: str
) -> None:
    """What is made below it passes by, and it owns the user namespaces there: none of those inits may be entered."""
    cheat.value(ALL if rights == "all" else "pass")
    first = relatives.snapshot(cheat)
    (below,) = relatives.branch(first)
    below.value(SPY)
    snapshot = relatives.snapshot(below)
    with contextlib.suppress(errors.FaaSError, AssertionError):  # a fork beside a thread may break what it makes
        relatives.branch(snapshot, 3)
    time.sleep(1.6)
    names = {p.name for p in relatives.ring.live.state.glob("native/runs/*/boxes/*/u/workspace/*")}
    assert "spied" in names, "it looked"
    assert not {name for name in names if name.startswith("FOUND")}
