"""What two branches of a process hold is as it was, and no branch sees what another, or the source, does with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from forking_process import ForkingProcess


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> ForkingProcess:
    return ForkingProcess(tmp_path_factory.mktemp("guest"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Each branch sees it through a layer of its own."""
    made = tmp_path / "files"
    made.mkdir()
    return made


def test_an_open_file_goes_on_where_it_was_in_each_branch(process: ForkingProcess, folder: Path) -> None:
    setup = f"""
        import os
        f = open("{folder}/a", "w+b", buffering=0); f.write(b"abcdef"); f.seek(2)
        number, copy = f.fileno(), os.dup(f.fileno()); os.set_inheritable(copy, True)
        log = open("{folder}/log", "a", buffering=1); log.write("one\\n")
    """
    use = f"""
        f.write(b"XY"); log.write("two\\n")
        result = [f.fileno() == number, os.lseek(copy, 0, os.SEEK_CUR), os.get_inheritable(number), os.get_inheritable(copy)]
        result += [open("{folder}/a").read(), open("{folder}/log").read()]
    """
    look = f"result = [f.tell(), open('{folder}/a').read(), open('{folder}/log').read()]"
    about = process.run(setup, [use, use], overlay=folder, source=look)
    for branch in about["branches"]:
        assert branch["result"] == [True, 4, False, True, "abXYef", "one\ntwo\n"]
        assert branch["receipt"]["reopened_files"] == [f"{folder}/a", f"{folder}/log"]
    assert about["source"] == [2, "abcdef", "one\n"]


def test_a_file_that_is_only_read_has_an_offset_of_its_own(process: ForkingProcess, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("1\n2\n3\n")
    setup = f"f = open('{tmp_path}/lines'); next(f)"
    about = process.run(setup, ["result = f.read()"] * 2, source="result = f.read()")
    assert [b["result"] for b in about["branches"]] == ["2\n3\n"] * 2
    assert about["source"] == "2\n3\n"


def test_files_without_a_name_are_copied(process: ForkingProcess, folder: Path) -> None:
    setup = f"""
        import os, tempfile
        files = [tempfile.TemporaryFile(buffering=0), open("{folder}/gone", "w+b", buffering=0)]
        os.unlink("{folder}/gone")
        files.append(os.fdopen(os.memfd_create("m"), "w+b", buffering=0))
        for f in files: f.write(b"abcdef"); f.seek(1 << 22); f.write(b"end"); f.seek(3)
    """
    use = """
        result = []
        for f in files: f.write(b"X"); result.append([f.tell(), os.pread(f.fileno(), 6, 0).decode(), f.seek(0, 2)])
    """
    look = "result = [[f.tell(), os.pread(f.fileno(), 6, 0).decode(), os.fstat(f.fileno()).st_size] for f in files]"
    about = process.run(setup, [use, use], overlay=folder, source=look)
    size = (1 << 22) + 3
    for branch in about["branches"]:
        assert branch["result"] == [[4, "abcXef", size]] * 3
        assert len(branch["receipt"]["copied_files"]) == 3
    assert about["source"] == [[3, "abcdef", size]] * 3


def test_a_sealed_memory_file_stays_sealed(process: ForkingProcess) -> None:
    setup = """
        import fcntl, os
        m = os.memfd_create("m", os.MFD_ALLOW_SEALING); os.write(m, b"abc")
        fcntl.fcntl(m, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW)
    """
    use = "result = [fcntl.fcntl(m, fcntl.F_GET_SEALS) == fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW, os.pread(m, 9, 0).decode()]"
    assert process.results(setup, [use, use]) == [[True, "abc"]] * 2


def test_a_file_that_is_gone_becomes_empty_and_is_reported(process: ForkingProcess, tmp_path: Path) -> None:
    (tmp_path / "moved").write_text("abc")
    setup = f"import os; f = open('{tmp_path}/moved')"
    first = f"os.unlink('{tmp_path}/moved'); result = 1"
    about = process.run(setup, [first, "result = f.read()"])
    assert about["branches"][1]["result"] == ""
    (loss,) = about["branches"][1]["receipt"]["lost"]
    assert (loss["kind"], loss["name"], loss["effect"]) == ("file", f"{tmp_path}/moved", "lost")


def test_pipes_keep_what_waits_in_them(process: ForkingProcess) -> None:
    setup = """
        import os
        r, w = os.pipe(); os.write(w, b"waiting"); os.set_blocking(r, False)
        full_r, full_w = os.pipe(); os.write(full_w, b"x" * 65536)
        ended, nobody = os.pipe(); os.write(nobody, b"last"); os.close(nobody)
    """
    use = """
        os.write(w, b"+more")
        result = [os.read(r, 99).decode(), os.get_blocking(r), os.get_blocking(full_r), len(os.read(full_r, 1 << 20))]
        result += [os.read(ended, 99).decode(), os.read(ended, 99).decode()]
    """
    about = process.run(setup, [use, use], source="result = os.read(r, 99).decode()")
    assert [b["result"] for b in about["branches"]] == [["waiting+more", False, True, 65536, "last", ""]] * 2
    assert about["source"] == "waiting"


def test_counters_timers_and_pollers_are_as_they_were(process: ForkingProcess) -> None:
    setup = """
        import ctypes, os, select, selectors, signal, struct, time
        libc = ctypes.CDLL(None)
        counter = os.eventfd(3, os.EFD_SEMAPHORE | os.EFD_NONBLOCK); zero = os.eventfd(0, os.EFD_NONBLOCK)
        timer = libc.timerfd_create(1, os.O_NONBLOCK)
        libc.timerfd_settime(timer, 0, struct.pack("4l", 0, 0, 0, 100_000_000), None)
        r, w = os.pipe()
        s = selectors.DefaultSelector()
        for name in ("counter", "zero", "timer", "r"): s.register(globals()[name], selectors.EVENT_READ, name)
        ready = lambda wait=0: sorted(k.data for k, _ in s.select(wait))
        signal.setitimer(signal.ITIMER_REAL, 500, 7)
    """
    use = """
        result = [ready()]
        os.write(w, b"x"); os.eventfd_write(zero, 1); result.append(ready())
        time.sleep(0.15); result += [ready(), os.eventfd_read(counter)]
        left, interval = signal.getitimer(signal.ITIMER_REAL); result += [490 < left < 500, interval]
        s.unregister(r)
    """
    look = "left, interval = signal.getitimer(signal.ITIMER_REAL); result = [ready(), left > 490, interval]"
    about = process.run(setup, [use, use], source=look)
    want = [["counter"], ["counter", "r", "zero"], ["counter", "r", "timer", "zero"], 1, True, 7.0]
    assert [b["result"] for b in about["branches"]] == [want] * 2
    assert about["source"] == [["counter", "timer"], True, 7.0]


def test_the_session_keeps_its_sockets_and_a_branch_finds_them_closed(process: ForkingProcess) -> None:
    setup = """
        import socket
        server = socket.create_server(("127.0.0.1", 0)); address = server.getsockname()
        client = socket.create_connection(address); peer, _ = server.accept()
        for s in (server, client, peer): s.settimeout(5)
    """
    use = """
        result = []
        for action in (lambda: client.sendall(b"hello"), lambda: peer.recv(9).decode(), server.accept):
            try: result.append(action() if action is not server.accept else bool(server.accept()))
            except OSError as e: result.append(type(e).__name__)
    """
    goes_on = """
        other = socket.create_connection(address)
        client.sendall(b"hello")
        result = [peer.recv(9).decode(), server.accept()[0].close()]
    """
    about = process.run(setup, [goes_on, use], continuing=True, source=use)
    assert about["branches"][0]["result"] == ["hello", None]
    assert about["branches"][0]["receipt"]["closed_connections"] == []
    assert about["branches"][1]["result"] == ["BrokenPipeError", "", "OSError"]
    assert len(about["branches"][1]["receipt"]["closed_connections"]) == 3
    assert about["source"] == ["BrokenPipeError", "", "OSError"], "the dormant process has let go of them"


def test_a_pair_of_sockets_is_made_anew_with_what_waits_in_it(process: ForkingProcess) -> None:
    setup = """
        import socket
        a, b = socket.socketpair(); a.settimeout(5); b.setblocking(True)
        a.sendall(b"to b"); b.sendall(b"to a")
    """
    use = """
        a.sendall(b"!"); result = [b.recv(99).decode(), a.recv(99).decode(), b.gettimeout()]
        b.close(); result.append(a.recv(9).decode())
    """
    about = process.run(setup, [use, use], source=use)
    assert [b["result"] for b in about["branches"]] == [["to b!", "to a", None, ""]] * 2
    assert about["source"] == ["to b!", "to a", None, ""]
    assert about["branches"][0]["receipt"]["closed_connections"] == []


def test_a_branch_can_be_forked_again(process: ForkingProcess, folder: Path) -> None:
    setup = f"""
        import mmap, multiprocessing, os, sys, tempfile
        carry = sys.modules["faas_guest.carry"]
        f = open("{folder}/a", "w+b", buffering=0); f.write(b"0")
        t = tempfile.TemporaryFile(buffering=0); t.write(b"0")
        a = mmap.mmap(-1, 4096); a[0:1] = b"0"
        lock = multiprocessing.Lock()
        r, w = os.pipe(); os.write(w, b"0")
        def write(mark):
            f.write(mark); t.write(mark); os.write(w, mark); a[int(mark):int(mark) + 1] = mark
        def read(): return [os.pread(f.fileno(), 9, 0).decode(), os.pread(t.fileno(), 9, 0).decode(), a[:5].rstrip(b"\\0").decode(), os.read(r, 9).decode()]
    """
    use = """
        for generation in b"123":
            write(bytes([generation]))
            found = look(); assert found.can_fork, found.losses
            pid = os.fork()
            if pid: os.waitpid(pid, 0); os._exit(0)
            carry.carry(found, False)
        result = read() + [lock.acquire(False)]
    """
    about = process.run(setup, [use, use], source="result = read()")
    assert about["branches"][1]["result"][1:] == ["0123"] * 3 + [True]
    assert about["source"][1:] == ["0"] * 3


def test_shared_memory_is_each_ones_own(process: ForkingProcess) -> None:
    setup = """
        import mmap, multiprocessing, os
        a = mmap.mmap(-1, 8192); a[:3] = b"abc"
        m = os.memfd_create("m"); os.ftruncate(m, 8192); one = mmap.mmap(m, 8192); two = mmap.mmap(m, 4096, offset=4096)
        one[4096:4099] = b"def"
        lock = multiprocessing.Lock(); lock.acquire()
        value = multiprocessing.Value("i", 5)
    """
    use = """
        a[0:1] = b"X"; two[0:1] = b"Y"; value.value += 1
        result = [a[:3].decode(), one[4096:4099].decode(), os.pread(m, 3, 4096).decode(), value.value, lock.acquire(False)]
        lock.release(); result.append(lock.acquire(False))
    """
    look = "result = [a[:3].decode(), one[4096:4099].decode(), os.pread(m, 3, 4096).decode(), value.value, lock.acquire(False)]"
    about = process.run(setup, [use, use], source=look)
    assert [b["result"] for b in about["branches"]] == [["Xbc", "Yef", "Yef", 6, False, True]] * 2
    assert about["source"] == ["abc", "def", "def", 5, False]


def test_named_shared_memory_is_found_by_its_name_in_each(process: ForkingProcess) -> None:
    setup = """
        import os
        from multiprocessing import resource_tracker, shared_memory
        memory = shared_memory.SharedMemory(create=True, size=4096); memory.buf[:3] = b"abc"
        resource_tracker.unregister(memory._name, "shared_memory")
        os.kill(resource_tracker._resource_tracker._pid, 9); os.waitpid(resource_tracker._resource_tracker._pid, 0)
        resource_tracker._resource_tracker._pid = resource_tracker._resource_tracker._fd = None
    """
    use = """
        memory.buf[0:1] = b"X"
        with open(f"/dev/shm/{memory.name}", "rb") as f: result = [bytes(memory.buf[:3]).decode(), f.read(3).decode()]
    """
    look = """
        result = bytes(memory.buf[:3]).decode()
        os.unlink(f"/dev/shm/{memory.name}")
    """
    about = process.run(setup, [use, use], source=look)
    assert [b["result"] for b in about["branches"]] == [["Xbc", "Xbc"]] * 2
    assert about["source"] == "abc"


def test_a_mapped_file_goes_on_in_each_branch_and_the_frozen_one_is_never_written(
    process: ForkingProcess, folder: Path
) -> None:
    setup = f"""
        import numpy as np
        a = np.memmap("{folder}/a", dtype="u1", mode="w+", shape=8192); a[:] = 7
        read = np.memmap("{folder}/a", dtype="u1", mode="r")
    """
    use = f"""
        a[5000] = 1; a.flush()
        result = [int(a[0]), int(a[5000]), int(np.fromfile("{folder}/a", dtype="u1")[5000])]
    """
    about = process.run(setup, [use, use], overlay=folder, source="result = [int(a[5000]), int(read[5000])]")
    for branch in about["branches"]:
        assert branch["result"] == [7, 1, 1]
        assert branch["receipt"]["remapped"] == [f"{folder}/a"]
    assert about["source"] == [7, 7]
    assert (folder / "a").read_bytes()[5000] == 7


def test_a_lock_on_a_file_is_held_in_each_branch(process: ForkingProcess, folder: Path) -> None:
    setup = f"""
        import fcntl
        f = open("{folder}/lock", "w"); fcntl.flock(f, fcntl.LOCK_EX)
        g = open("{folder}/range", "w"); fcntl.lockf(g, fcntl.LOCK_EX, 10, 5)
    """
    use = f"""
        import subprocess, sys
        def taken(name, how):
            code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl." + how
            return subprocess.run([sys.executable, "-c", code, name], stderr=-3).returncode
        result = [taken("{folder}/lock", "flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"),
                  taken("{folder}/range", "lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 14)"),
                  taken("{folder}/range", "lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 15)")]
    """
    assert process.results(setup, [use, use], overlay=folder) == [[1, 1, 0]] * 2
