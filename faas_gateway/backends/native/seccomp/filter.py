"""Put the calling process under the sandbox's seccomp filter.

Standard library only, and nothing of this package: a guest runs it by path from a bare interpreter. As a
program, `python -I -S filter.py COMMAND [ARGUMENT ...]` becomes COMMAND under the filter.

https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1

#: The number of seccomp(2), for each machine that there is a program for.
_SECCOMP = {"x86_64": 317, "aarch64": 277}


class _Program(ctypes.Structure):  # struct sock_fprog
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def file_name(machine: str, kind: str) -> str:
    """The file that holds the program for a machine and a kind of process: `command`, or `guest`."""
    return f"{machine}.bpf" if kind == "command" else f"{machine}.{kind}.bpf"


def program(machine: str | None = None, kind: str = "command") -> bytes:
    """The compiled filter for a machine, as `uname -m` names it; this one by default.

    Raises NotImplementedError for a machine that has none: run nothing there.
    """
    machine = machine or _machine()
    _syscall_number(machine)
    with open(os.path.join(os.path.dirname(__file__), file_name(machine, kind)), "rb") as file:
        return file.read()


def install(program: bytes) -> None:
    """Filter all threads of this process and all that it starts from now on. There is no way back.

    Sets no_new_privs first, without which only root may install one. Raises OSError when the kernel refuses,
    NotImplementedError on a machine that has no filter.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) < 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")
    filter_ = _Program(len(program) // 8, program)
    result = libc.syscall(
        ctypes.c_long(_syscall_number(_machine())),
        ctypes.c_ulong(SECCOMP_SET_MODE_FILTER),
        # Without TSYNC a thread that was started earlier would stay free.
        ctypes.c_ulong(SECCOMP_FILTER_FLAG_TSYNC),
        ctypes.byref(filter_),
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp(SECCOMP_SET_MODE_FILTER) failed: {os.strerror(number)}")
    if result > 0:
        raise OSError(0, f"seccomp: thread {result} already has another filter")


def _syscall_number(machine: str) -> int:
    if machine not in _SECCOMP:
        known = " and ".join(sorted(_SECCOMP))
        raise NotImplementedError(f"there is no seccomp filter for {machine}, only for {known}")
    return _SECCOMP[machine]


def _machine() -> str:
    machine = os.uname().machine
    # A 32-bit interpreter on a 64-bit kernel makes calls of the other table: the filter would kill it.
    return machine if sys.maxsize > 2**32 else f"{machine} with a 32-bit interpreter"


def main(arguments: list[str]) -> None:
    """Install the filter and become the command."""
    if not arguments:
        raise SystemExit("usage: filter.py COMMAND [ARGUMENT ...]")
    install(program())
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        raise SystemExit(f"{arguments[0]}: {error.strerror}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
