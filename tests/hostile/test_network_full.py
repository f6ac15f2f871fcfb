"""Network `full` as programs find it: real ones, in a network namespace whose only ways out are the proxy's ports."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from faas_gateway.backends.native.network import (
    HOST_NAME,
    HTTP_PORT,
    SOCKS_PORT,
    Allowance,
    Outlet,
    Policy,
    Proxy,
    environment,
)

pytestmark = pytest.mark.anyio

TOOL_S = 60.0
INIT = """
import fcntl, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0x41))
listeners = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[2:]]
with socket.socket(fileno=int(sys.argv[1])) as us:
    socket.send_fds(us, [b"x"], [listener.fileno() for listener in listeners])
for listener in listeners:
    listener.close()
sys.stdin.read()
"""


@dataclass
class Inside:
    """A network namespace with `lo` and nothing else, and its two listeners, which are with us."""

    pid: int
    listeners: list[socket.socket]
    home: Path

    async def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        """Run a program in it, as it would be in a sandbox: with these variables and no configuration of ours."""
        enter = ["nsenter", "-t", str(self.pid), "-U", "-n", "--preserve-credentials", "--"]
        clean = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8", "PIP_CONFIG_FILE": os.devnull}
        clean |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
        with anyio.fail_after(TOOL_S):
            return await anyio.run_process(
                [*enter, *command], env=clean | environment() | variables, check=False, cwd=self.home
            )


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    us, them = socket.socketpair()
    home = tmp_path / "home"
    home.mkdir()
    process = subprocess.Popen(
        [
            "unshare",
            "-U",
            "-r",
            "-n",
            sys.executable,
            "-I",
            "-c",
            INIT,
            str(them.fileno()),
            str(HTTP_PORT),
            str(SOCKS_PORT),
        ],
        pass_fds=[them.fileno()],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    them.close()
    us.settimeout(20)
    with us, process.stdin, process.stderr:
        _, fds, _, _ = socket.recv_fds(us, 1, 2)
        if not fds:
            process.wait(10)
            pytest.skip(f"no user and network namespace on this machine: {process.stderr.read().decode()}")
        yield Inside(process.pid, [socket.socket(fileno=fd) for fd in fds], home)
        process.stdin.close()
        process.wait(10)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A web server on the host's loopback: its port and its folder."""
    root = tmp_path / "www"
    root.mkdir()
    (root / "hello.txt").write_text("hello\n")
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(root)))
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield served.server_port, root
    served.shutdown()
    thread.join()
    served.server_close()


@contextlib.asynccontextmanager
async def proxied(inside: Inside, policy: Policy) -> AsyncIterator[Outlet]:
    async with Proxy() as proxy:
        yield proxy.serve(inside.listeners[0], inside.listeners[1], policy)


def _own_address() -> str:
    """One of this machine's, on the way out where there is one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, contextlib.suppress(OSError):
        s.connect(("1.1.1.1", 9))  # sends nothing
        return str(s.getsockname()[0])
    return "127.0.0.3"


def opened(port: int) -> Policy:
    return Policy.full(Allowance.parse(f"127.0.0.1:{port}"))


async def test_nothing_leads_out_but_the_proxy(inside: Inside, server: tuple[int, Path]) -> None:
    port, _ = server
    async with proxied(inside, opened(port)) as outlet:
        for address in (f"127.0.0.1:{port}", "1.1.1.1:80", "169.254.169.254:80"):
            done = await inside.run("curl", "-sS", "-m", "5", "--noproxy", "*", f"http://{address}/")
            assert done.returncode == 7, done.stderr
        assert outlet.usage.connections == 0


async def test_without_an_operators_allowance_the_host_is_shut(inside: Inside, server: tuple[int, Path]) -> None:
    port, _ = server
    async with proxied(inside, Policy.full()) as outlet:
        hosts = [
            HOST_NAME,
            "127.0.0.2",
            "169.254.169.254",
            "10.0.0.1",
            _own_address(),
            "metadata.google.internal",
            "[::1]",
            "0.0.0.0",
        ]
        for host in hosts:
            for options in (["--noproxy", ""], ["--noproxy", "", "-p"]):
                done = await inside.run(
                    "curl", "-sS", "-m", "20", "-w", "%{http_code} %{http_connect}", *options, f"http://{host}:{port}/"
                )
                assert b"403" in done.stdout, (host, done.stdout, done.stderr)
        for host in hosts[:5]:
            done = await inside.run(
                "curl",
                "-sS",
                "-m",
                "20",
                "-x",
                environment()["FAAS_SOCKS_PROXY"],
                "--noproxy",
                "",
                f"http://{host}:{port}/",
            )
            assert done.returncode == 97, done.stderr  # CURLE_PROXY
        assert outlet.usage.refused == 2 * len(hosts) + 5
        assert outlet.usage.sent_bytes == 0


async def test_a_redirect_to_a_private_address_is_refused(inside: Inside, server: tuple[int, Path]) -> None:
    port, _ = server

    class Redirects(_Quiet):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"http://{HOST_NAME}:{port}/hello.txt")
            self.end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirects) as redirects:
        thread = threading.Thread(target=redirects.serve_forever)
        thread.start()
        try:
            async with proxied(inside, opened(redirects.server_port)) as outlet:
                done = await inside.run(
                    "curl", "-sSL", "-w", "%{http_code}", f"http://{HOST_NAME}:{redirects.server_port}/"
                )
        finally:
            redirects.shutdown()
            thread.join()
    assert done.stdout.endswith(b"403")
    assert b"loopback" in done.stdout
    assert outlet.usage.refused == 1


@pytest.mark.parametrize(
    "options", [[], ["-p"], ["-x", environment()["FAAS_SOCKS_PROXY"]]], ids=["http", "tunnel", "socks"]
)
async def test_curl_fetches_what_was_sent(inside: Inside, server: tuple[int, Path], options: list[str]) -> None:
    port, root = server
    data = os.urandom(20 << 20)
    (root / "large").write_bytes(data)
    async with proxied(inside, opened(port)) as outlet:
        done = await inside.run("curl", "-sSf", *options, f"http://{HOST_NAME}:{port}/large")
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest(), done.stderr
        assert outlet.usage.received_bytes > len(data)


async def test_git_clones_through_it_and_not_without_an_allowance(inside: Inside, server: tuple[int, Path]) -> None:
    port, root = server
    repository = root / "repository"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(repository)]
    await anyio.run_process(["git", "init", "-q", str(repository)])
    (repository / "file").write_text("content\n")
    for command in (["add", "file"], ["commit", "-q", "-m", "first"], ["update-server-info"]):
        await anyio.run_process([*git, *command])
    url = f"http://{HOST_NAME}:{port}/repository/.git"
    async with proxied(inside, opened(port)) as outlet:
        done = await inside.run("git", "clone", "-q", url, "clone")
        assert done.returncode == 0, done.stderr
        assert (inside.home / "clone" / "file").read_text() == "content\n"
        outlet.policy = Policy.full()
        done = await inside.run("git", "clone", "-q", url, "again")
        assert b"403" in done.stderr


def _index(root: Path) -> None:
    """A simple index (PEP 503) with one wheel."""
    folder = root / "simple" / "faas-demo"
    folder.mkdir(parents=True)
    name = "faas_demo-1.0-py3-none-any.whl"
    files = {
        "faas_demo.py": "answer = 42\n",
        "faas_demo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: faas-demo\nVersion: 1.0\n",
        "faas_demo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["faas_demo-1.0.dist-info/RECORD"] = "".join(f"{file},,\n" for file in files)
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{name}">{name}</a>')


async def test_pip_installs_through_it_and_says_why_it_cannot(inside: Inside, server: tuple[int, Path]) -> None:
    port, root = server
    _index(root)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--retries",
        "0",
        "install",
        "-vv",  # else pip says only that there are no versions
        "--no-deps",
        "--target",
    ]
    where = ["--index-url", f"http://{HOST_NAME}:{port}/simple", "--trusted-host", HOST_NAME, "faas-demo"]
    async with proxied(inside, opened(port)) as outlet:
        done = await inside.run(*pip, "packages", *where)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (inside.home / "packages" / "faas_demo.py").exists()
        outlet.policy = Policy.full()
        done = await inside.run(*pip, "again", "--no-cache-dir", *where)
        assert b"403" in done.stdout + done.stderr
        assert b"FAAS_NETWORK_ALLOW" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import urllib.request as u; print(u.urlopen(URL).read().decode(), end='')",
        "import requests; print(requests.get(URL).text, end='')",
        "import httpx; print(httpx.get(URL).text, end='')",
    ],
    ids=["urllib", "requests", "httpx"],
)
async def test_pythons_clients_go_by_the_variables(inside: Inside, server: tuple[int, Path], code: str) -> None:
    port, _ = server
    async with proxied(inside, opened(port)) as outlet:
        done = await inside.run(sys.executable, "-c", f"URL = 'http://{HOST_NAME}:{port}/hello.txt'\n{code}")
        assert done.stdout == b"hello\n", done.stderr
        assert outlet.usage.connections == 1


async def test_a_sandboxs_own_servers_need_no_proxy(inside: Inside) -> None:
    code = """
import http.server, threading, urllib.request
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.handle_request, daemon=True).start()
for host in ("localhost",):
    print(urllib.request.urlopen(f"http://{host}:{server.server_port}/").status)
"""
    async with proxied(inside, Policy.full()) as outlet:
        done = await inside.run(sys.executable, "-c", code)
        assert done.stdout == b"200\n", done.stderr
        assert outlet.usage.connections == 0


async def test_the_proxys_ports_cannot_be_taken_over(inside: Inside, server: tuple[int, Path]) -> None:
    port, _ = server
    code = f"""
import errno, socket
for number in ({HTTP_PORT}, {SOCKS_PORT}):
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                s.bind((address, number)); s.listen()
                print("taken", address, number)
            except OSError as e:
                print(errno.errorcode[e.errno])
"""
    async with proxied(inside, opened(port)):
        done = await inside.run(sys.executable, "-c", code)
        assert done.stdout.split() == [b"EADDRINUSE"] * 4, done.stderr


async def test_a_closed_outlet_lets_the_namespace_go(inside: Inside) -> None:
    async with proxied(inside, Policy.full()) as outlet:
        holding = await inside.run("readlink", "/proc/self/ns/net")
        assert holding.stdout.startswith(b"net:")
        await outlet.aclose()
        done = await inside.run("curl", "-sS", "-m", "5", "http://example.org/")
        assert done.returncode == 7  # nobody listens there any more


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here")
async def test_apt_goes_by_the_variables(inside: Inside, server: tuple[int, Path]) -> None:
    port, root = server
    (root / "Release").write_text("Origin: test\n")
    async with proxied(inside, opened(port)) as outlet:
        helper = Path("/usr/lib/apt/apt-helper")
        if not helper.exists():
            pytest.skip("apt has no apt-helper here")
        done = await inside.run(
            str(helper),
            "-o",
            "APT::Sandbox::User=root",
            "download-file",
            f"http://{HOST_NAME}:{port}/Release",
            str(inside.home / "Release"),
        )
        assert (inside.home / "Release").exists(), done.stdout + done.stderr
        assert outlet.usage.connections >= 1
