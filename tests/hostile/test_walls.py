"""What a cell cannot reach: the host, its init, other sandboxes, the kernel's machinery, a network."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faas import errors
from rings import Ring, Victim

pytestmark = pytest.mark.usefixtures("unharmed")

TRY = """
import ctypes, errno, os, socket, subprocess
def attempt(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except OSError as e:
        return errno.errorcode.get(e.errno, e.errno)
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *args):
    result = libc.syscall(ctypes.c_long(number), *[a if isinstance(a, bytes) else ctypes.c_long(a) for a in args])
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result
"""


@pytest.fixture(scope="module")
def open_victim(ring: Ring) -> Iterator[Victim]:
    """One for all that is only tried and refused."""
    with ring.victim(memory_mb=512) as victim:
        victim.cell(TRY)
        yield victim


# ---- processes --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["environ", "mem", "maps", "cwd", "exe", "root", "fd", "auxv", "stack", "ns/user", "syscall"]
)
def test_its_init_is_shut(open_victim: Victim, name: str) -> None:
    path = f"/proc/1/{name}"
    code = f"""
def look():
    if os.path.isdir({path!r}): return os.listdir({path!r})
    if os.path.islink({path!r}): return os.readlink({path!r})
    with open({path!r}, "rb") as f: return f.read(1)
print(attempt(look))
"""
    assert open_victim.value(code) in ("EACCES", "EPERM")


def test_its_init_says_nothing_of_the_host(open_victim: Victim) -> None:
    line = open_victim.value("print(open('/proc/1/cmdline').read().replace(chr(0), ' '))")
    assert str(open_victim.ring.live.state) not in line
    assert "faas_gateway" not in line


def test_it_sees_its_own_processes_only(open_victim: Victim) -> None:
    code = """
for number in sorted(int(n) for n in os.listdir("/proc") if n.isdigit()):
    try: name = open(f"/proc/{number}/comm").read().strip()
    except OSError: continue
    print("itself" if number == os.getpid() else name)
"""
    names = open_victim.value(code).split()
    assert set(names) - {"faas-agent"} == {"faas-init", "itself"}  # an agent looks at what it uses, now and then


def test_it_has_no_effective_capability_and_a_filter(open_victim: Victim) -> None:
    """What a snapshot's branches need to enter their namespaces is held without effect, in the sandbox's user namespace
    alone, and nothing that is executed has it."""
    entering = 1 << 21 | 1 << 18  # CAP_SYS_ADMIN and CAP_SYS_CHROOT
    lines = dict(
        line.split(":\t", 1) for line in open_victim.value("print(open('/proc/self/status').read())").splitlines()
    )
    for name in ("CapInh", "CapEff", "CapBnd", "CapAmb"):
        assert int(lines[name], 16) == 0, name
    assert int(lines["CapPrm"], 16) == entering
    assert lines["NoNewPrivs"] == "1"
    assert lines["Seccomp"] == "2"


def test_commands_and_shells_have_no_capability_and_a_filter(ring: Ring, open_victim: Victim) -> None:
    code = "grep -E 'Cap|NoNew|Seccomp:' /proc/self/status"
    by_command = open_victim.execution.run(["sh", "-c", code]).stdout
    with ring.victim("alpine-fast") as victim:
        for text in (by_command, victim.value(code)):
            fields = dict(line.split(":\t", 1) for line in text.splitlines())
            assert all(int(fields[name], 16) == 0 for name in fields if name.startswith("Cap"))
            assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_it_inherits_no_descriptor_of_the_host(open_victim: Victim) -> None:
    code = """
for number in os.listdir("/proc/self/fd"):
    try: print(number, os.readlink(f"/proc/self/fd/{number}"))
    except OSError: pass
"""
    for line in open_victim.value(code).splitlines():
        number, target = line.split(" ", 1)
        assert target.startswith(("pipe:", "socket:", "anon_inode:", "/dev/null", "/proc/")), (number, target)


def test_it_has_nothing_of_the_hosts_environment(open_victim: Victim) -> None:
    names = set(open_victim.value("print(*os.environ)").split())
    assert not names & {"FAAS_RUNTIME_DIR", "FAAS_STATE_DIR", "PYTEST_CURRENT_TEST", "VIRTUAL_ENV", "PWD_OLD"}
    by_shell = open_victim.execution.run(["env"]).stdout
    assert "FAAS_" not in by_shell
    assert "PYTEST" not in by_shell


# ---- the kernel -------------------------------------------------------------------------------------------
# setns is allowed to a guest, for its snapshots, and gives it nothing: see test_snapshot_walls
NUMBERS = {  # x86_64 and aarch64; one number from 424 on, where they are the same everywhere
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "syslog": (103, 116),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "sethostname": (170, 161),
    "fanotify_init": (300, 262),
    "io_uring_setup": (425,),
    "open_tree": (428,),
    "fsopen": (430,),
    "mount_setattr": (442,),
    "pidfd_getfd": (438,),
    "memfd_secret": (447,),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_system_call_that_it_has_no_need_of_is_refused(open_victim: Victim, name: str) -> None:
    numbers = NUMBERS[name]
    number = numbers[0] if os.uname().machine == "x86_64" else numbers[-1]
    assert open_victim.value(f"print(syscall({number}, 0, 0, 0, 0, 0))") == "EPERM"


def test_clone3_is_not_there_so_that_libc_takes_the_one_that_can_be_checked(open_victim: Victim) -> None:
    assert open_victim.value("print(syscall(435, 0, 0))") == "ENOSYS"


def test_no_namespace_can_be_made(open_victim: Victim) -> None:
    assert "EPERM" in open_victim.value("print(attempt(os.unshare, 0x10000000) if hasattr(os, 'unshare') else 'EPERM')")
    result = open_victim.execution.run(["unshare", "-Ur", "id"])
    assert result.status == "error"
    assert "Operation not permitted" in result.stderr + (result.error.evalue if result.error else "")


@pytest.mark.parametrize("family", ["AF_PACKET", "AF_VSOCK", "AF_ALG", "AF_BLUETOOTH", "AF_CAN", "AF_TIPC"])
def test_a_socket_of_a_strange_family_is_refused(open_victim: Victim, family: str) -> None:
    number = getattr(socket, family, 30)
    assert open_victim.value(f"print(attempt(socket.socket, {int(number)}, 3))") in ("EAFNOSUPPORT", "EPERM")


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sysrq-trigger",
        "/proc/self/oom_score_adj_of_another",
        "/proc/1/oom_score_adj",
        "/proc/irq/0/smp_affinity",
        "/proc/self/uid_map",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/devices/system/cpu/cpu0/online",
        "/sys/fs/cgroup/cgroup.procs",
        "/dev/kmsg",
        "/dev/mem",
        "/dev/sda",
        "/dev/vda",
        "/dev/fuse",
        "/usr/bin/env",
        "/usr/lib/x",
        "/opt/faas/faas_guest/main.py",
    ],
)
def test_what_is_the_machines_cannot_be_written(ring: Ring, path: str) -> None:
    with ring.victim() as victim:
        victim.cell(TRY)
        before = Path(path).read_bytes() if path.startswith("/usr/bin") else b""
        code = f"""
def scribble():
    if not os.path.exists({path!r}) and not os.access(os.path.dirname({path!r}), os.W_OK): return "ENOENT"
    with open({path!r}, "w") as f: return f.write("1")
print(attempt(scribble))
"""
        answer = victim.value(code)
        if path.startswith(("/dev", "/opt")):
            # its own copies may be written where they are files of the sandbox; none is a device, or the layer itself
            assert answer in ("EACCES", "EROFS", "EPERM", "ENOENT", "1")
        else:
            assert answer in ("EACCES", "EROFS", "EPERM", "ENOENT", "EINVAL", "EIO")
        if before:
            assert Path(path).read_bytes() == before


def test_a_write_into_a_layer_stays_in_the_session(ring: Ring) -> None:
    path = "/opt/faas/faas_guest/main.py"
    with ring.victim() as one, ring.victim() as other:
        before = other.value(f"print(len(open({path!r}).read()))")
        one.cell(f"open({path!r}, 'w').write('broken')")
        one.cell("import os; os.remove('/opt/env/bin/python')")
        assert other.value(f"print(len(open({path!r}).read()))") == before
    with ring.victim() as later:
        assert later.value(f"print(len(open({path!r}).read()))") == before
        assert later.execution.run(["python", "-c", "print(1)"]).stdout == "1\n"


def test_devices_are_the_harmless_ones_and_none_can_be_made(open_victim: Victim) -> None:
    names = set(open_victim.value("print(*os.listdir('/dev'))").split())
    assert names == {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "fd",
        "stdin",
        "stdout",
        "stderr",
        "ptmx",
        "pts",
        "shm",
    }
    assert (
        open_victim.value("import stat; print(attempt(os.mknod, 'd', 0o600 | stat.S_IFCHR, os.makedev(1, 1)))")
        == "EPERM"
    )
    assert (
        open_victim.value("import stat; print(attempt(os.mknod, 'd', 0o600 | stat.S_IFBLK, os.makedev(8, 0)))")
        == "EPERM"
    )


def test_every_mount_is_nosuid_and_the_hosts_trees_are_read_only(open_victim: Victim) -> None:
    for line in open_victim.value("print(open('/proc/self/mountinfo').read())").splitlines():
        fields = line.split()
        target, options = fields[4], fields[5].split(",")
        is_device = fields[fields.index("-") + 1] == "devtmpfs"  # nodev would make it unusable
        assert "nosuid" in options, line
        if target.startswith(("/usr", "/bin", "/lib", "/sbin", "/sys", "/proc/sys")):
            assert "ro" in options, line
        assert "nodev" in options or is_device or target.startswith("/dev"), line


@pytest.mark.parametrize("name", ["kallsyms", "keys", "key-users", "timer_list", "kmsg", "sched_debug", "interrupts"])
def test_what_speaks_of_the_host_is_masked(open_victim: Victim, name: str) -> None:
    code = f"print(attempt(lambda: len(open('/proc/{name}', 'rb').read(100))))"
    assert open_victim.value(code) in ("0", "ENOENT", "EACCES", "EPERM")


# ---- files of the host ------------------------------------------------------------------------------------
def test_nothing_of_the_host_is_visible(ring: Ring, open_victim: Victim) -> None:
    with tempfile.NamedTemporaryFile(prefix="faas-host-file-") as secret:
        os.chmod(secret.name, 0o644)
        state, runtime = ring.live.state, ring.live.runtime
        paths = [
            *(
                "/etc/shadow",
                "/etc/ssh",
                "/etc/machine-id",
                "/root/.ssh",
                "/root/.bashrc",
                "/home/root",
                "/boot",
                "/srv",
            ),
            *("/var/run/docker.sock", "/run/docker.sock", "/run/systemd", "/run/user", "/var/lib", "/sys/fs/cgroup"),
            *("/sys/class", "/sys/kernel/security", "/sys/firmware", "/proc/1/root/etc", "/store", "/ro", "/skel"),
            *(secret.name, str(state), str(runtime), str(ring.live.socket), str(Path(__file__))),
        ]
        there = open_victim.value(f"print([p for p in {paths!r} if os.path.lexists(p)])")
        assert there == "[]"


def test_only_names_of_the_sandbox_are_in_its_user_database(open_victim: Victim) -> None:
    assert open_victim.value("import pwd; print([u.pw_name for u in pwd.getpwall()])") == "['root', 'user', 'nobody']"
    assert (
        open_victim.value("print(os.uname().nodename, os.getuid(), os.getgid(), os.getgroups())")
        == "sandbox 1000 1000 []"
    )


@pytest.mark.parametrize(
    "path", ["../../etc/shadow", "/proc/1/root/etc/shadow", "link/etc/shadow", "/proc/self/root/etc/shadow"]
)
def test_no_path_leads_out_through_the_gateway(open_victim: Victim, path: str) -> None:
    """/etc of the sandbox has no shadow: a host's would come from outside."""
    open_victim.cell("os.path.lexists('link') or os.symlink('/proc/1/root', 'link')")
    with pytest.raises((errors.UnknownFileError, errors.FileError)):
        open_victim.execution.files.read(path)


def test_no_link_leads_out_through_a_download(open_victim: Victim, tmp_path: Path) -> None:
    open_victim.cell(
        "os.makedirs('out', exist_ok=True); os.symlink('/etc/passwd', 'out/absolute'); os.symlink('../../../../etc/passwd', 'out/up')"
    )
    try:
        open_victim.execution.files.download("out", tmp_path / "out")
    except errors.UnsafeArchiveError:
        return
    for found in (tmp_path / "out").rglob("*"):
        assert not found.resolve().is_relative_to("/etc")


def test_a_pipe_or_a_device_is_not_read_for_ever(open_victim: Victim) -> None:
    open_victim.cell("os.path.lexists('fifo') or os.mkfifo('fifo')")
    begun = time.monotonic()
    for path in ("fifo", "/dev/zero", "/dev/random"):
        with pytest.raises(errors.FileError):
            open_victim.execution.files.read(path)
    assert time.monotonic() - begun < 5


# ---- network ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "code",
    [
        "socket.create_connection(('1.1.1.1', 53), 3)",
        "socket.create_connection(('169.254.169.254', 80), 3)",
        "socket.create_connection(('2606:4700:4700::1111', 53), 3)",
        "socket.create_connection(('10.0.0.1', 80), 3)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))",
        "socket.getaddrinfo('example.com', 80)",
        "socket.gethostbyname('metadata.google.internal')",
    ],
)
def test_there_is_no_network(open_victim: Victim, code: str) -> None:
    begun = time.monotonic()
    result = open_victim.cell(code, timeout=10)
    assert result.status == "error"
    assert result.error is not None
    assert result.error.ename in ("OSError", "gaierror", "ConnectionRefusedError"), result.error
    assert time.monotonic() - begun < 5


def test_loopback_is_its_own(open_victim: Victim) -> None:
    with socket.socket() as server, socket.socket(socket.AF_UNIX) as abstract:
        server.bind(("127.0.0.1", 0))
        server.listen()
        name = f"\0faas-host-{os.getpid()}"
        abstract.bind(name)
        abstract.listen()
        port = server.getsockname()[1]
        assert (
            open_victim.value(f"print(attempt(socket.create_connection, ('127.0.0.1', {port}), 3))") == "ECONNREFUSED"
        )
        assert open_victim.value(f"print(attempt(socket.socket(socket.AF_UNIX).connect, {name!r}))") == "ECONNREFUSED"
    assert open_victim.value("print([name for _, name in socket.if_nameindex()])") == "['lo']"
    code = "s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); print(c.getpeername()[0])"
    assert open_victim.value(code) == "127.0.0.1"
