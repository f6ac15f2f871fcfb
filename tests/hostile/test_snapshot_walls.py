"""What the source of a snapshot and its branches cannot reach: the dormant process, its init, and one another.

`setns` is among their system calls, and two capabilities that it asks for can be made effective: here they are, always.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from relatives import Family, family
from rings import Ring, Victim

pytestmark = [pytest.mark.usefixtures("unharmed"), pytest.mark.xdist_group("hostile-snapshot-walls")]

ATTACK = """
import ctypes, errno, fcntl, mmap, os, resource, signal, socket, struct, sys, threading
from faas_guest import linux
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
def attempt(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except OSError as e:
        return errno.errorcode.get(e.errno, e.errno)
def syscall(numbers, *args):
    number = numbers[0] if X86 else numbers[-1]
    args = [a if isinstance(a, (bytes, ctypes.Array)) else ctypes.c_long(a) for a in args]
    result = libc.syscall(ctypes.c_long(number), *args)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result
def numbers():
    near = range(max(2, os.getpid() - 400), os.getpid() + 400)
    return [n for n in sorted({*range(1, 5001), *near, *GUESSED}) if n != os.getpid()]
def there(n):
    try: os.kill(n, 0)
    except ProcessLookupError: return False
    except PermissionError: pass
    return True
def comm(n):
    try: return open(f"/proc/{n}/comm").read().strip()
    except OSError: return ""
def others():
    return {n for n in numbers() if there(n) and comm(n) not in ("", "faas-init", "faas-agent")}
"""

SHARED = """
import mmap, select, socket, os, fcntl
for path in ("/workspace/f", "/tmp/f", "/home/user/f", "/var/tmp/f", "/dev/shm/f"):
    open(path, "w").write("base")
deleted = open("/workspace/deleted", "w+b", buffering=0); n = deleted.write(b"base"); os.unlink("/workspace/deleted")
def map_new(path):
    with open(path, "w+b") as f: return f.truncate(4096) and mmap.mmap(f.fileno(), 4096)
array = map_new("/workspace/array"); segment = map_new("/dev/shm/segment")
file = open("/workspace/mapped", "w+b"); n = file.truncate(4096); mapped = mmap.mmap(file.fileno(), 4096)
anonymous = mmap.mmap(-1, 4096)
memory = os.memfd_create("m"); n = os.write(memory, b"base")
read, write = os.pipe(); left, right = socket.socketpair(); event = os.eventfd(0, os.EFD_NONBLOCK)
for end in (read, write): os.set_blocking(end, False)
for end in (left, right): end.setblocking(False)
poll = select.epoll(); poll.register(read, select.EPOLLIN)
lock = open("/workspace/lock", "w"); fcntl.flock(lock, fcntl.LOCK_EX)
"""

WRITE = """
for path in ("/workspace/f", "/tmp/f", "/home/user/f", "/var/tmp/f", "/dev/shm/f"):
    with open(path, "w") as f: n = f.write("other")
n = os.pwrite(deleted.fileno(), b"evil", 0); array[:4] = b"evil"; array.flush(); mapped[:4] = b"evil"; mapped.flush()
anonymous[:4] = b"evil"; segment[:4] = b"evil"; n = os.pwrite(memory, b"evil", 0)
n = os.write(write, b"evil"); n = left.send(b"evil"); os.eventfd_write(event, 7)
"""

LOOK = """
seen = {path: open(path).read() for path in ("/workspace/f", "/tmp/f", "/home/user/f", "/var/tmp/f", "/dev/shm/f")}
seen["deleted"] = os.pread(deleted.fileno(), 9, 0); seen["array"] = bytes(array[:4]); seen["mapped"] = bytes(mapped[:4])
seen["file"] = os.pread(file.fileno(), 4, 0); seen["anonymous"] = bytes(anonymous[:4])
seen["segment"] = bytes(segment[:4]); seen["memory"] = os.pread(memory, 9, 0)
seen["pipe"] = attempt(os.read, read, 9); seen["pair"] = attempt(right.recv, 9)
seen["event"] = attempt(os.eventfd_read, event); seen["epoll"] = poll.poll(0)
print(seen)
"""

UNTOUCHED: dict[str, object] = {
    **dict.fromkeys(("/workspace/f", "/tmp/f", "/home/user/f", "/var/tmp/f", "/dev/shm/f"), "base"),
    **dict.fromkeys(("deleted", "memory"), b"base"),
    **dict.fromkeys(("mapped", "file", "array", "anonymous", "segment"), bytes(4)),
    **dict.fromkeys(("pipe", "pair", "event"), "EAGAIN"),
    "epoll": [],
}


@pytest.fixture(scope="module")
def relatives(ring: Ring) -> Iterator[Family]:
    """A source, what it was, which is dormant, and two branches: `members`, in this order without the dormant one."""
    with family(ring) as made:
        source = made.open(memory_mb=512, pids=64)
        dormant = source.look()
        source.value(SHARED)
        snapshot = made.snapshot(source)
        source.seen.clear()
        source.look()
        source.seen |= dormant
        made.branch(snapshot, 2)
        guessed = [number_inside(p) for p in dormant]
        for member in made.members:
            member.value(
                f"GUESSED = {[*guessed, *(p.pid for p in dormant)]!r}\n{ATTACK}\nlinux.raise_capabilities(*linux.ENTERING)"
            )
        yield made
        assert made.branch(snapshot)[0].value("print(1)") == "1", "the dormant process is as it was"


def number_inside(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


@pytest.fixture(params=["source", "branch"])
def attacker(request: pytest.FixtureRequest, relatives: Family) -> Victim:
    return relatives.members[0 if request.param == "source" else 1]


# ---- processes --------------------------------------------------------------------------------------------
def test_no_relative_is_listed_or_found_by_number(attacker: Victim) -> None:
    assert attacker.value(
        "print(others(), [n for n in os.listdir('/proc') if n.isdigit() and int(n) in others()])"
    ) == ("set() []")


def test_no_relative_can_be_signalled(attacker: Victim, relatives: Family) -> None:
    code = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
answers = {str(attempt(os.kill, -1, signal.SIGKILL))}
print(answers, end=" ")
found = [n for n in numbers() if n > 1]
killed = {n for n in found if comm(n) != "faas-agent" and attempt(os.kill, n, signal.SIGKILL) is None}
groups = {n for n in found if attempt(os.killpg, n, signal.SIGKILL) is None and n != os.getpgid(0)}
opened = {n for n in found if isinstance(attempt(os.pidfd_open, n), int) and comm(n) != "faas-agent"}
print(killed, opened)
"""
    assert attacker.value(code) == "{'EPERM'} set() set()"
    for other in relatives.members:
        assert other.value("print('here')") == "here"


def test_no_relative_is_signalled_by_a_descriptor(attacker: Victim) -> None:
    """fcntl(F_SETOWN) names who gets a signal when input comes: only by a number that one can see."""
    code = """
left, right = socket.socketpair()
def owned(n):
    try: fcntl.fcntl(left, fcntl.F_SETOWN, n); return True
    except OSError: return False
fcntl.fcntl(left, 10, signal.SIGKILL)
print([n for n in numbers() if n > 1 and comm(n) != "faas-agent" and owned(n)])
fcntl.fcntl(left, fcntl.F_SETOWN, 0)
"""
    assert attacker.value(code) == "[]"


def test_no_relative_can_be_limited_or_placed(attacker: Victim) -> None:
    code = """
def reached(n):
    tries = [
        lambda: resource.prlimit(n, resource.RLIMIT_CPU), lambda: os.sched_setaffinity(n, {0}),
        lambda: os.setpriority(os.PRIO_PROCESS, n, 19), lambda: os.setpriority(os.PRIO_PGRP, n, 19),
        lambda: os.sched_setscheduler(n, os.SCHED_IDLE, os.sched_param(0)), lambda: os.getsid(n), lambda: os.getpgid(n),
    ]
    return [attempt(t) for t in tries if attempt(t) not in ("ESRCH", "EPERM")]
print([n for n in numbers() if n > 1 and comm(n) != "faas-agent" and reached(n)])
"""
    assert attacker.value(code) == "[]"


def test_all_of_ones_user_id_are_those_that_one_sees(attacker: Victim, relatives: Family) -> None:
    before = {p: p.nice() for m in relatives.members for p in m.seen if p.is_running()}
    attacker.value("for uid in (0, 1000): attempt(os.setpriority, os.PRIO_USER, uid, 5)")
    changed = {p for p, nice in before.items() if p.is_running() and p.nice() != nice}
    assert changed <= attacker.look()


@pytest.mark.parametrize("name", ["environ", "mem", "maps", "cwd", "exe", "root", "fd", "ns/mnt", "ns/user", "stack"])
def test_the_init_is_shut_with_capabilities_raised(attacker: Victim, name: str) -> None:
    code = f"print(attempt(os.open, '/proc/1/{name}', os.O_RDONLY), attempt(os.readlink, '/proc/1/{name}'))"
    assert set(attacker.value(code).split()) <= {"EACCES", "EPERM", "EINVAL", "ENOENT"}


def test_the_init_cannot_be_entered_by_a_pidfd(attacker: Victim) -> None:
    code = """
fd = os.pidfd_open(1)
kinds = [*linux.NAMESPACES.values(), linux.NEWNS | linux.NEWNET, linux.NEWUSER | linux.NEWNS]
print({attempt(linux.setns, fd, kind) for kind in kinds}, syscall((438,), fd, 0, 0), syscall((101, 117), 16, 1, 0, 0))
"""
    assert attacker.value(code) == "{'EPERM'} EPERM EPERM"


# ---- namespaces -------------------------------------------------------------------------------------------
IN = """
def entered():
    out = {}
    linux.raise_capabilities(*linux.ENTERING)
    before = (sorted(os.listdir("/")), os.stat("/").st_ino, [n for _, n in socket.if_nameindex()])
    for name, kind in linux.NAMESPACES.items():
        fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
        answer = attempt(linux.setns, fd, kind)
        if answer not in (None, "EINVAL", "EPERM"): out[name] = answer
        requests = (*range(0xB701, 0xB710), *(d << 30 | s << 16 | 0xB700 | n
                    for d in (0, 2) for s in (8, 16, 32) for n in range(1, 16)))
        asked = {attempt(fcntl.ioctl, fd, request, bytearray(64)) for request in requests}
        if asked != {"EPERM"}: out["ioctl " + name] = asked
        os.close(fd)
    if (sorted(os.listdir("/")), os.stat("/").st_ino, [n for _, n in socket.if_nameindex()]) != before: out["moved"] = 1
    for name in ("child", "pid_for_children", "time", "time_for_children"):
        answer = attempt(lambda n=name: linux.setns(os.open(f"/proc/self/ns/{n}", os.O_RDONLY), 0))
        if answer not in (None, "EINVAL", "EPERM", "ENOENT", "EUSERS"): out[name] = answer
    out |= {p: 1 for p in ("/store", "/ro", "/skel") if os.path.exists(p)}
    out["seen"] = others() - {os.getppid(), threading.get_native_id()}
    return out
"""


def test_ones_own_namespaces_lead_nowhere(attacker: Victim) -> None:
    assert attacker.value(f"{IN}\nprint(entered())") == "{'seen': set()}"


def test_nor_from_a_child_without_exec(attacker: Victim) -> None:
    code = f"""{IN}
r, w = os.pipe()
if (child := os.fork()) == 0:
    try: os.write(w, repr(entered()).encode())
    except BaseException as e: os.write(w, repr(e).encode())
    os._exit(0)
os.waitpid(child, 0); print(os.read(r, 4096).decode())
"""
    assert attacker.value(code) == "{'seen': set()}"


def test_nor_from_a_thread(attacker: Victim) -> None:
    """A thread may not leave its process's user and mount namespaces at all (setns(2))."""
    code = f"""{IN}
def safely():
    try: answers.append(entered())
    except BaseException as e: answers.append(e)
answers = []; t = threading.Thread(target=safely); t.start(); t.join(20); print(answers)
"""
    assert attacker.value(code) == "[{'seen': set()}]"


REFUSED = {
    "mount": "(165, 40), b'none', b'/tmp', b'tmpfs', 0, 0",
    "bind": "(165, 40), b'/', b'/tmp', 0, 4096, 0",
    "umount": "(166, 39), b'/proc', 2",
    "chroot": "(161, 51), b'/tmp'",
    "pivot_root": "(155, 41), b'.', b'.'",
    "unshare user": "(272, 97), 0x10000000",
    "unshare mnt": "(272, 97), 0x20000",
    "clone user": "(56, 220), 0x10000000 | 17, 0, 0, 0, 0",
    "clone pid": "(56, 220), 0x20000000 | 17, 0, 0, 0, 0",
    "fsopen": "(430,), b'tmpfs', 0",
    "open_tree": "(428,), -100, b'/', 1",
    "move_mount": "(429,), -100, b'/tmp', -100, b'/mnt', 0",
    "mount_setattr": "(442,), -100, b'/usr', 0, b'', 32",
    "sethostname": "(170, 161), b'evil', 4",
    "setdomainname": "(171, 162), b'evil', 4",
    "bpf": "(321, 280), 5, 0, 0",
    "keyctl": "(250, 219), 0, -3, 0",
    "quotactl": "(179, 60), 0, 0, 0, 0",
    "perf_event_open": "(298, 241), 0, 0, -1, -1, 0",
    "process_vm_readv": "(310, 270), 1, 0, 0, 0, 0, 0",
    "pidfd_getfd": "(438,), 0, 0, 0",
    "open_by_handle_at": "(304, 265), -100, 0, 0",
    "fanotify_init": "(300, 262), 0, 0",
    "userfaultfd": "(323, 282), 0",
    "vmsplice": "(278, 75), 1, 0, 0, 0",
    "swapon": "(167, 224), b'/f', 0",
}


@pytest.mark.parametrize("name", REFUSED)
def test_two_capabilities_are_of_no_use(attacker: Victim, name: str) -> None:
    assert attacker.value(f"linux.raise_capabilities(*linux.ENTERING); print(syscall({REFUSED[name]}))") == "EPERM"


def test_what_the_filter_does_not_know_is_not_there(attacker: Victim) -> None:
    """clone3, statmount, listmount, open_tree_attr, listns: mounts and namespaces by number."""
    assert attacker.value("print({syscall((n,), 0, 0, 0, 0) for n in (435, 457, 458, 467, 470)})") == "{'ENOSYS'}"


def test_the_kernels_settings_stay_shut(attacker: Victim) -> None:
    code = """
def scribble(path):
    with open(path, "w") as f: return f.write("77")
paths = [os.path.join(d, f) for top in ("kernel", "user", "net", "vm", "fs") for d, _, files in os.walk(f"/proc/sys/{top}") for f in files]
answers = {p: attempt(scribble, p) for p in [*paths, "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups"]}
print(len(paths) > 50, {p: a for p, a in answers.items() if a not in ("EROFS", "EACCES", "EPERM", "ENOENT", "EINVAL")})
"""
    assert attacker.value(code) == "True {}"


# ---- what a fork would share ------------------------------------------------------------------------------
def test_none_sees_what_another_writes(relatives: Family) -> None:
    source, first, second = relatives.members[:3]
    source.value(WRITE)
    assert eval(second.value(LOOK)) == UNTOUCHED
    first.value(WRITE)
    assert eval(second.value(LOOK)) == UNTOUCHED
    watch = "fresh = socket.socketpair(); n = fresh[0].send(b'x'); print(fresh[1].recv(9))"
    assert second.value(watch) == "b'x'"


def test_locks_are_each_ones_own(relatives: Family) -> None:
    source, first, second = relatives.members[:3]
    take = "fcntl.flock(lock, fcntl.LOCK_UN); fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB); print('taken')"
    for member in (source, first, second):
        assert member.value(take) == "taken"
        assert member.value("fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB); print('taken')") == "taken"


def test_no_server_is_reached_from_another(relatives: Family) -> None:
    source, first, second = relatives.members[:3]
    serve = """
tcp = socket.create_server(("127.0.0.1", 7700)); udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 7701))
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\\0relatives"); abstract.listen()
path = socket.socket(socket.AF_UNIX); path.bind(f"/workspace/sock{os.getpid()}"); path.listen()
"""
    reach = """
def udp_reached():
    s = socket.socket(type=socket.SOCK_DGRAM); s.connect(("127.0.0.1", 7701)); s.send(b"x"); s.settimeout(0.2); s.recv(1)
print({attempt(socket.create_connection, ("127.0.0.1", 7700), 2), attempt(udp_reached),
       attempt(socket.socket(socket.AF_UNIX).connect, "\\0relatives")}, [f for f in os.listdir() if f.startswith("sock")])
"""
    source.value(serve)
    assert second.value(reach) == "{'ECONNREFUSED'} []"
    first.value(serve)
    assert second.value(reach) == "{'ECONNREFUSED'} []"
    second.value("server = socket.create_server(('127.0.0.1', 7700))")


def test_message_passing_is_each_ones_own(relatives: Family) -> None:
    source, first, second = relatives.members[:3]
    make = """
key, IPC = 0x5EED, 0o1666
made = [syscall((29, 194), key, 4096, IPC), syscall((64, 190), key, 1, IPC), syscall((68, 186), key, IPC),
        syscall((240, 180), b"queue", 0o102, 0o600, 0)]
print(*made)
"""
    look = """
found = [syscall((29, 194), 0x5EED, 0, 0), syscall((64, 190), 0x5EED, 0, 0), syscall((68, 186), 0x5EED, 0),
         syscall((240, 180), b"queue", 2, 0, 0)]
print(*found)
"""
    for maker in (source, first):
        made = maker.value(make).split()
        assert all(re.fullmatch(r"\d+", m) for m in made), made
        assert second.value(look) == "ENOENT ENOENT ENOENT ENOENT"


def test_killing_all_pythons_by_name_ends_one_session_alone(relatives: Family, ring: Ring) -> None:
    """`pkill -9 python`, by hand where the sandbox lacks it: each session has only itself to kill."""
    snapshot = relatives.snapshots[0]
    (doomed,) = relatives.branch(snapshot)
    kill = (
        "for p in /proc/[0-9]*; do read n < $p/comm && case $n in faas-*|sh) ;; *) kill -9 ${p#/proc/};; esac; done; "
        "kill -9 -1"
    )
    with contextlib.suppress(Exception):
        doomed.execution.run(["sh", "-c", kill], timeout=20)
    with contextlib.suppress(Exception):
        doomed.cell("print(1)", timeout=20)
    assert doomed.end_code() == "died"
    for other in relatives.members[:3]:
        assert other.value("print('here')") == "here"
    assert relatives.branch(snapshot)[0].value("print('here')") == "here"
