"""The seccomp filter of a sandbox: what it may ask of the kernel.

`policy` says it in words, `generate` compiles it (for developers), `filter` installs the compiled program.
"""

from faas_gateway.backends.native.seccomp.filter import install, program

__all__ = ["install", "program"]
