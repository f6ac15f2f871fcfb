"""A small interpreter for the classic BPF of seccomp filters: what would the kernel answer to this call?

It lets a test ask every question of every architecture's program, on any machine.
https://www.kernel.org/doc/html/latest/networking/filter.html
"""

from __future__ import annotations

import struct

ALLOW = "allow"
KILL = "kill"


def answer(program: bytes, architecture: int, number: int, *arguments: int) -> str | int:
    """ALLOW, KILL, or the error number that the call gets.

    Args:
        program: struct sock_filter, 8 bytes each.
        architecture: AUDIT_ARCH_* of the call.
        number: of the system call, as an unsigned 32-bit number.
        arguments: up to six, as the registers hold them: 64 bits.
    """
    padded = [value & (2**64 - 1) for value in (*arguments, 0, 0, 0, 0, 0, 0)][:6]
    data = struct.pack("<IIQ6Q", number & (2**32 - 1), architecture, 0, *padded)
    code = list(struct.iter_unpack("<HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        match operation:
            case 0x20:  # load a word of seccomp_data
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x05:
                at += value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x25:
                at += if_true if accumulator > value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x45:
                at += if_true if accumulator & value else if_false
            case 0x06:
                return _action(value)
            case _:
                raise ValueError(f"instruction {at - 1} has an operation that is not known: {operation:#x}")


def _action(value: int) -> str | int:
    if value == 0x7FFF0000:
        return ALLOW
    if value == 0x80000000:
        return KILL
    if value >> 16 == 0x0005:
        return value & 0xFFFF
    raise ValueError(f"an action that the policy does not use: {value:#x}")
