"""The compiled filters say what the policy says, on both architectures: an interpreter of BPF is asked."""

from __future__ import annotations

import errno
import os
import signal
import socket

import pytest
from seccomp_bpf import ALLOW, KILL, answer

from faas_gateway.backends.native import seccomp
from faas_gateway.backends.native.seccomp import generate, policy

HIGH = 0xDEADBEEF << 32  # bits above an int: the kernel does not look at them, so they must change nothing
COMPILED_WITH = (2, 5, 4)
#: Known to libseccomp, and in no group: answered with ENOSYS on purpose.
UNSUPPORTED = {
    *("clone3", "modify_ldt", "uselib", "ustat", "sysfs", "_sysctl", "create_module", "get_kernel_syms"),
    *("query_module", "nfsservctl", "getpmsg", "putpmsg", "afs_syscall", "tuxcall", "security", "vserver"),
    *("set_thread_area", "get_thread_area", "epoll_ctl_old", "epoll_wait_old", "process_mrelease"),
}


@pytest.fixture(params=sorted(generate.ARCHITECTURES))
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def libseccomp() -> None:
    try:
        generate.library_version()
    except generate.LibraryMissing as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def asked(machine: str, number: int, *arguments: int) -> str | int:
    return answer(seccomp.program(machine), generate.ARCHITECTURES[machine], number, *arguments)


def numbers(groups: tuple[policy.Group, ...], machine: str) -> dict[str, int]:
    found = {name: generate.syscall_number(name, machine) for group in groups for name in group.syscalls}
    return {name: number for name, number in found.items() if number is not None}


@pytest.mark.usefixtures("libseccomp")
@pytest.mark.parametrize("kind", policy.KINDS)
def test_the_committed_program_is_what_the_policy_compiles_to(machine: str, kind: str) -> None:
    compiled, committed = generate.compile_policy(machine, kind), seccomp.program(machine, kind)
    if generate.library_version() == COMPILED_WITH:
        assert compiled == committed, "run: python -m faas_gateway.backends.native.seccomp.generate"
    # another libseccomp may order the same decisions differently
    architecture = generate.ARCHITECTURES[machine]
    for number in range(600):
        for value in (0, 1, 2, 10, 16, 17, 35, 0x5412, 0x541C, 0x10000011, 0x40000, 0xFFFFFFFF):
            call = (number, value, value, value)
            assert answer(compiled, architecture, *call) == answer(committed, architecture, *call), call


@pytest.mark.usefixtures("libseccomp")
def test_allowed_calls_are_allowed_whatever_their_arguments(machine: str) -> None:
    allowed = numbers(policy.ALLOWED, machine) | policy.ALLOWED_NEW
    for arguments in ((0,) * 6, (2**64 - 1,) * 6):
        refused = {name for name, number in allowed.items() if asked(machine, number, *arguments) != ALLOW}
        assert not refused


@pytest.mark.usefixtures("libseccomp")
def test_refused_calls_get_eperm_whatever_their_arguments(machine: str) -> None:
    for arguments in ((0,) * 6, (2**64 - 1,) * 6):
        answers = {
            name: asked(machine, number, *arguments) for name, number in numbers(policy.REFUSED, machine).items()
        }
        assert set(answers.values()) == {errno.EPERM}, answers


@pytest.mark.usefixtures("libseccomp")
def test_every_other_number_is_a_call_that_does_not_exist(machine: str) -> None:
    named = {*numbers(policy.ALLOWED, machine).values(), *numbers(policy.REFUSED, machine).values()}
    named |= set(policy.ALLOWED_NEW.values())
    named |= {generate.syscall_number(rule.syscall, machine) for rule in policy.argument_rules()}
    others = set(range(1024)) - named
    assert {asked(machine, number) for number in others} == {errno.ENOSYS}
    assert generate.syscall_number("clone3", machine) in others


@pytest.mark.usefixtures("libseccomp")
def test_every_known_call_has_been_decided_on(machine: str) -> None:
    named = {name for group in (*policy.ALLOWED, *policy.REFUSED) for name in group.syscalls}
    named |= {rule.syscall for rule in policy.argument_rules()} | set(policy.ALLOWED_NEW)
    known = generate.known_syscalls(machine, range(457))
    assert len(known) > 300
    assert known - named <= UNSUPPORTED
    assert not named & UNSUPPORTED


@pytest.mark.usefixtures("libseccomp")
def test_no_call_is_named_twice() -> None:
    names = [name for group in (*policy.ALLOWED, *policy.REFUSED) for name in group.syscalls]
    names += list(policy.ALLOWED_NEW)
    names += list({rule.syscall for rule in policy.argument_rules()})
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", policy.KINDS)
def test_the_programs_fit_into_the_kernels_limit(machine: str, kind: str) -> None:
    assert 0 < len(seccomp.program(machine, kind)) // 8 <= generate.MAX_INSTRUCTIONS


@pytest.mark.usefixtures("libseccomp")
def test_a_guest_may_enter_namespaces_and_not_raise_its_process_limit(machine: str) -> None:
    program, architecture = seccomp.program(machine, "guest"), generate.ARCHITECTURES[machine]

    def guest(call: str, *arguments: int) -> str | int:
        number = generate.syscall_number(call, machine)
        assert number is not None
        return answer(program, architecture, number, *arguments)

    assert guest("setns", 3, 0x20000000) == ALLOW
    assert guest("unshare", 0x10000000) == errno.EPERM
    processes, files = 6, 7
    assert guest("setrlimit", processes, 1) == errno.EPERM
    assert guest("setrlimit", files, 1) == ALLOW
    assert guest("prlimit64", 0, processes, 0, 1 << 40) == ALLOW
    for pointer in (1, 1 << 32, 1 << 47, 0x7FFF_0000_1000):
        assert guest("prlimit64", 0, processes, pointer) == errno.EPERM
        assert guest("prlimit64", 0, HIGH | processes, pointer) == errno.EPERM
        assert guest("prlimit64", 0, files, pointer) == ALLOW
    assert guest("kill", 2**32 - 1, 9) == guest("kill", HIGH | 2**32 - 1, 9) == errno.EPERM
    assert guest("kill", 300, 9) == guest("kill", 2**32 - 300, 9) == guest("kill", 0, 9) == ALLOW


@pytest.mark.usefixtures("libseccomp")
def test_a_guest_gets_every_other_answer_that_a_command_gets(machine: str) -> None:
    own = {generate.syscall_number(r.syscall, machine) for r in policy.guest_rules()}
    own |= {generate.syscall_number(name, machine) for name in policy.GUEST_ALLOWED}
    guest, architecture = seccomp.program(machine, "guest"), generate.ARCHITECTURES[machine]
    for number in set(range(600)) - own:
        for value in (0, 1, 2, 10, 16, 17, 35, 0x5412, 0x10000011, 0xFFFFFFFF):
            call = (number, value, value, value)
            assert answer(guest, architecture, *call) == asked(machine, *call), call


AF_PACKET, AF_ALG, AF_VSOCK, NETLINK_AUDIT = 17, 38, 40, 9
NO_FAMILY = errno.EAFNOSUPPORT
THREAD_FLAGS = 0x3D0F00  # what pthread_create gives: CLONE_VM, FS, FILES, SIGHAND, THREAD, ...


@pytest.mark.parametrize("high", [0, HIGH], ids=["plain", "high bits set"])
@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("clone", (signal.SIGCHLD,), ALLOW),
        ("clone", (THREAD_FLAGS,), ALLOW),
        *[("clone", (1 << bit | signal.SIGCHLD,), errno.EPERM) for bit in (17, 25, 26, 27, 28, 29, 30)],
        ("clone", (0x7E020000,), errno.EPERM),
        ("socket", (socket.AF_UNIX, socket.SOCK_DGRAM, 0), ALLOW),
        ("socket", (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP), ALLOW),
        ("socket", (socket.AF_INET, socket.SOCK_RAW, 0), ALLOW),  # the kernel asks for CAP_NET_RAW
        ("socket", (socket.AF_INET, policy.SOCK_PACKET, 0), NO_FAMILY),
        ("socket", (socket.AF_INET, policy.SOCK_PACKET | socket.SOCK_CLOEXEC, 0), NO_FAMILY),
        ("socket", (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP), ALLOW),
        ("socket", (socket.AF_NETLINK, socket.SOCK_RAW, 0), ALLOW),
        *[("socket", (socket.AF_NETLINK, socket.SOCK_RAW, n), NO_FAMILY) for n in (1, 2, NETLINK_AUDIT, 15, 1 << 31)],
        *[
            ("socket", (family, socket.SOCK_RAW, 0), NO_FAMILY)
            for family in (0, 3, 4, 9, 11, 15, AF_PACKET, 29, 31, AF_ALG, AF_VSOCK, 44, 45, 0xFFFFFFFF)
        ],
        ("socketpair", (socket.AF_UNIX, socket.SOCK_STREAM, 0), ALLOW),
        ("socketpair", (socket.AF_INET, socket.SOCK_STREAM, 0), NO_FAMILY),
        ("socketpair", (AF_PACKET, socket.SOCK_STREAM, 0), NO_FAMILY),
        *[("ioctl", (0, request), errno.EPERM) for request in (0x5412, 0x541C, 0x5423)],
        *[("ioctl", (0, request), ALLOW) for request in (0x5401, 0x5411, 0x5413, 0x541B, 0x541D, 0x5421, 0x8914)],
        *[("ioctl", (0, request), errno.EPERM) for request in (0xB701, 0xB703, 0x8010B70B, 0x8020B70C, 0xC010B7FF)],
        *[("ioctl", (0, request), ALLOW) for request in (0xB601, 0x80045430, 0x54B7)],
        ("prctl", (35,), errno.EPERM),
        *[("prctl", (option,), ALLOW) for option in (1, 4, 15, 22, 34, 36, 38, 0x59616D61)],
        *[("personality", (value,), ALLOW) for value in (0, 0x40000, 0xFFFFFFFF)],
        *[("personality", (value,), errno.EPERM) for value in (1, 8, 0x20000, 0x100000, 0x400000, 0xFFFFFFFE)],
    ],
)
@pytest.mark.usefixtures("libseccomp")
def test_arguments_decide(machine: str, call: str, arguments: tuple[int, ...], expected: str | int, high: int) -> None:
    number = generate.syscall_number(call, machine)
    assert number is not None
    assert asked(machine, number, *(value | high for value in arguments)) == expected


def test_calls_of_other_architectures_kill(machine: str) -> None:
    i386, arm, other = 0x40000003, 0x40000028, {"x86_64": "aarch64", "aarch64": "x86_64"}[machine]
    for architecture in (i386, arm, generate.ARCHITECTURES[other], 0):
        for number in (0, 1, 20, 39, 120, 462):
            assert answer(seccomp.program(machine), architecture, number) == KILL


def test_calls_of_the_x32_table_kill() -> None:
    for number in (0, 1, 39, 101, 165, 334, 462, 512, 547):
        assert asked("x86_64", 0x40000000 | number) == KILL


def test_another_machine_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match="no seccomp filter for riscv64, only for aarch64 and x86_64"):
        seccomp.program("riscv64")
