"""Two sandboxes never see each other, nor anything of a session before them."""

from __future__ import annotations

import contextlib

import pytest
from contract import Create, execute, run, value

from faas_gateway.backends.base import Image, Sandbox, SandboxEnded

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("conformance-separation")]


@pytest.fixture(params=["python", "shell"])
async def pair(request: pytest.FixtureRequest, create: Create, python: Image, shell: Image) -> tuple[Sandbox, Sandbox]:
    """A Python session, and another one or a shell."""
    return await create(python), await create(python if request.param == "python" else shell)


@pytest.mark.parametrize("folder", ["/workspace", "/tmp", "/dev/shm", "/home/user", "/run/faas", "/var/tmp"])
async def test_files_are_each_ones_own(pair: tuple[Sandbox, Sandbox], folder: str) -> None:
    one, other = pair
    await value(one, f"open('{folder}/mine', 'w').write('x')")
    _, recorder = await run(other, "ls", "-A", folder)
    assert "mine" not in recorder.text().split()


async def test_processes_are_each_ones_own(pair: tuple[Sandbox, Sandbox]) -> None:
    one, other = pair
    await value(one, "import subprocess; p = subprocess.Popen(['sleep', '1234'])")
    _, recorder = await run(other, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "1234" not in recorder.text()
    with contextlib.suppress(SandboxEnded):
        await run(other, "sh", "-c", "kill -9 $(seq 2 2000) 2>/dev/null; kill -9 -1")
    assert await value(one, "print(p.poll())") == "None"


async def test_abstract_sockets_and_loopback_ports_are_each_ones_own(create: Create, python: Image) -> None:
    one, other = await create(python), await create(python)
    code = """
import socket
a = socket.socket(socket.AF_UNIX); a.bind("\\0name"); a.listen()
t = socket.create_server(("127.0.0.1", 4321))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 4321))
"""
    await value(one, code)
    tries = """
import socket
for family, address in ((socket.AF_UNIX, "\\0name"), (socket.AF_INET, ("127.0.0.1", 4321))):
    try: socket.socket(family).connect(address); print("reached")
    except OSError as e: print(e.strerror)
"""
    assert await value(other, tries) == "Connection refused\nConnection refused"
    await value(other, code)  # and the names are free there


async def test_shared_memory_and_queues_are_each_ones_own(create: Create, python: Image) -> None:
    one, other = await create(python), await create(python)
    code = """
import ctypes
from multiprocessing import shared_memory
libc = ctypes.CDLL(None, use_errno=True)
segment = libc.shmget(77, 4096, 0o1666)  # IPC_CREAT
queue = libc.msgget(77, 0o1666)
memory = shared_memory.SharedMemory("name", create=True, size=10)
print(segment >= 0, queue >= 0)
"""
    assert await value(one, code) == "True True"
    look = """
import ctypes
from multiprocessing import shared_memory
libc = ctypes.CDLL(None, use_errno=True)
print(libc.shmget(77, 4096, 0), libc.msgget(77, 0))
try: shared_memory.SharedMemory("name")
except FileNotFoundError: print("none")
"""
    assert await value(other, look) == "-1 -1\nnone"


async def test_namespaces_differ_one_by_one(create: Create, python: Image) -> None:
    code = "import os; print([os.readlink(f'/proc/self/ns/{n}') for n in ('cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts')])"
    one, other = await value(await create(python), code), await value(await create(python), code)
    assert not set(one.strip("[]").split(", ")) & set(other.strip("[]").split(", "))


async def test_what_one_session_does_to_its_interpreter_is_not_in_the_next(create: Create, python: Image) -> None:
    one = await create(python)
    await execute(
        one,
        "import builtins, sys, os; builtins.print = None; sys.path.append('/mine'); os.environ['MINE'] = '1'; x = 1",
    )
    await one.aclose()
    other = await create(python)
    code = (
        "import os, sys\nprint('/mine' in sys.path, 'MINE' in os.environ, 'x' in globals(), In, Out, os.listdir('.'))"
    )
    assert (await value(other, code)).startswith("False False False ['', ")


async def test_a_warm_process_has_run_none_of_the_users_code(create: Create, python: Image) -> None:
    for _ in range(2):  # the second may have been made ahead
        sandbox = await create(python)
        assert await value(sandbox, "print(len(In), list(_dh), _oh)") == "2 [PosixPath('/workspace')] {}"
