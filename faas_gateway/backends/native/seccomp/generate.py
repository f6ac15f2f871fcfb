"""Compile the policy into one BPF program for each architecture: needs libseccomp, on any of them.

    python -m faas_gateway.backends.native.seccomp.generate

writes a program for each architecture and each of the two kinds of process beside this file. They are committed, so
that users need no libseccomp.
Format: an array of struct sock_filter, 8 bytes each, little-endian, as seccomp(2) takes it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

from faas_gateway.backends.native.seccomp import policy
from faas_gateway.backends.native.seccomp.arguments import Rule
from faas_gateway.backends.native.seccomp.filter import file_name

LIBRARY = "libseccomp.so.2"

#: AUDIT_ARCH_* of linux/audit.h, which are libseccomp's names for them too.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SCMP_ARCH_NATIVE = 0
MAX_INSTRUCTIONS = 4096

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
ATTRIBUTE_BAD_ARCH = 2
ATTRIBUTE_OPTIMIZE = 8
BINARY_TREE = 2
MASKED_EQUAL = 7
UNKNOWN_NAME = -1  # __NR_SCMP_ERROR


def _errno_action(number: int) -> int:
    return 0x00050000 | number


DEFAULT = _errno_action(errno.ENOSYS)


class _ArgumentComparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


class LibraryMissing(Exception):
    """libseccomp is not installed."""


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise LibraryMissing(f"{LIBRARY} is needed to compile the filter: {error}") from error
    library.seccomp_version.restype = ctypes.POINTER(_Version)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_release.restype = None
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_arch_remove.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_arch_native.restype = ctypes.c_uint32
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    library.seccomp_syscall_resolve_num_arch.argtypes = (ctypes.c_uint32, ctypes.c_int)
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    library.free.argtypes = (ctypes.c_void_p,)
    library.free.restype = None
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_ArgumentComparison),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library


def library_version() -> tuple[int, int, int]:
    """The version of the libseccomp that `compile_policy` uses. Raises LibraryMissing."""
    version = _library().seccomp_version().contents
    return version.major, version.minor, version.micro


def syscall_number(name: str, machine: str) -> int | None:
    """The number of a call on that machine, None where it has none. Raises LibraryMissing, ValueError."""
    if name in policy.ALLOWED_NEW:
        return policy.ALLOWED_NEW[name]
    number = _library().seccomp_syscall_resolve_name_arch(ARCHITECTURES[machine], name.encode())
    if number == UNKNOWN_NAME:
        raise ValueError(f"libseccomp knows no system call {name!r}")
    return number if number >= 0 else None


def known_syscalls(machine: str, numbers: range) -> set[str]:
    """The names that libseccomp has for these numbers on that machine. Raises LibraryMissing."""
    library, names = _library(), set[str]()
    for number in numbers:
        name = library.seccomp_syscall_resolve_num_arch(ARCHITECTURES[machine], number)
        if name:
            names.add(ctypes.string_at(name).decode())
            library.free(name)
    return names


def compile_policy(machine: str, kind: str = "command") -> bytes:
    """The program for one of ARCHITECTURES and one of policy.KINDS.

    Raises LibraryMissing, OSError when libseccomp refuses a rule.
    """
    library = _library()
    context = library.seccomp_init(DEFAULT)
    if not context:
        raise OSError(errno.ENOMEM, "seccomp_init failed")
    try:
        _choose_architecture(library, context, ARCHITECTURES[machine])
        _check(library.seccomp_attr_set(context, ATTRIBUTE_BAD_ARCH, KILL_PROCESS), "bad architecture action")
        _check(library.seccomp_attr_set(context, ATTRIBUTE_OPTIMIZE, BINARY_TREE), "binary tree")
        for rule in _rules(kind):
            if syscall_number(rule.syscall, machine) is not None:
                _add(library, context, rule)
        program = _new_calls(ARCHITECTURES[machine]) + _export(library, context)
    finally:
        library.seccomp_release(context)
    size = len(program) // 8
    if size > MAX_INSTRUCTIONS:
        raise ValueError(f"{machine}: {size} instructions, the kernel takes {MAX_INSTRUCTIONS}")
    return program


def _rules(kind: str) -> list[Rule]:
    own = [*policy.guest_rules(), *(Rule(name, ()) for name in policy.GUEST_ALLOWED)] if kind == "guest" else []
    ruled = {rule.syscall for rule in own}
    return [
        *(Rule(name, ()) for group in policy.ALLOWED for name in group.syscalls if name not in ruled),
        *(Rule(name, (), errno.EPERM) for group in policy.REFUSED for name in group.syscalls if name not in ruled),
        *policy.argument_rules(),
        *own,
    ]


def _choose_architecture(library: ctypes.CDLL, context: int, architecture: int) -> None:
    if library.seccomp_arch_native() != architecture:
        _check(library.seccomp_arch_add(context, architecture), "seccomp_arch_add")
        _check(library.seccomp_arch_remove(context, SCMP_ARCH_NATIVE), "seccomp_arch_remove")


def _add(library: ctypes.CDLL, context: int, rule: Rule) -> None:
    # libseccomp takes the native number, or a negative one for a name that is not native, and translates it.
    number = library.seccomp_syscall_resolve_name(rule.syscall.encode())
    comparisons = (_ArgumentComparison * len(rule.matches))(
        *(_ArgumentComparison(m.argument, MASKED_EQUAL, m.mask, m.value) for m in rule.matches)
    )
    action = ALLOW if rule.errno is None else _errno_action(rule.errno)
    result = library.seccomp_rule_add_array(context, action, number, len(rule.matches), comparisons)
    _check(result, f"rule for {rule.syscall}")


def _export(library: ctypes.CDLL, context: int) -> bytes:
    descriptor = os.memfd_create("filter")
    with os.fdopen(descriptor, "rb") as file:
        _check(library.seccomp_export_bpf(context, descriptor), "seccomp_export_bpf")
        file.seek(0)
        return file.read()


def _new_calls(architecture: int) -> bytes:
    """Instructions that allow ALLOWED_NEW by number and leave every other call to what follows them.

    libseccomp 2.5 can add a number that it has no name for on the native architecture, but on no other.
    """
    load, jump_if_equal, jump, answer = 0x20, 0x15, 0x05, 0x06
    number_offset, architecture_offset = 0, 4
    numbers = sorted(policy.ALLOWED_NEW.values())
    code = [
        (load, 0, 0, architecture_offset),
        (jump_if_equal, 1, 0, architecture),
        (jump, 0, 0, len(numbers) + 3),
        (load, 0, 0, number_offset),
        *((jump_if_equal, len(numbers) - at, 0, number) for at, number in enumerate(numbers)),
        (jump, 0, 0, 1),
        (answer, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"libseccomp: {what}: {os.strerror(-result)}")


def main() -> None:
    """Write the program of every architecture beside this file."""
    for machine in ARCHITECTURES:
        for kind in policy.KINDS:
            program = compile_policy(machine, kind)
            path = Path(__file__).with_name(file_name(machine, kind))
            path.write_bytes(program)
            print(f"{path.name}: {len(program) // 8} instructions")


if __name__ == "__main__":
    main()
