"""A download through the proxy of network `full`, beside the same one without it, on this machine's loopback.

python -m benchmarks.network
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Generator

import uvloop

from benchmarks.plan import Plan
from benchmarks.report import Report
from benchmarks.stats import median
from faas_gateway.backends.native.network import Allowance, Policy, Proxy

BAR_GBIT, AIM_GBIT = 1.0, 5.0
SERVER = """
import socket, sys
size = int(sys.argv[1])
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        s, _ = listener.accept()
        with s:
            s.recv(65536)
            s.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % size)
            for at in range(0, size, 1_000_000):
                s.sendall(bytes(min(1_000_000, size - at)))
"""


@contextlib.contextmanager
def _server(size: int) -> Generator[int]:
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(size)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
            process.wait(10)


def _curl(arguments: list[str], size: int) -> float:
    begun = time.perf_counter()
    command = ["curl", "-sSf", "-m", "120", "-o", "/dev/null", "-w", "%{size_download}", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    if int(done.stdout) != size:
        raise OSError(f"{done.stdout} of {size} bytes have arrived")
    return time.perf_counter() - begun


async def _measure(rounds: int, size: int, port: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    http, socks = (listener.getsockname()[1] for listener in listeners)
    url = f"http://127.0.0.1:{port}/"
    ways = {
        "without a proxy": [url],
        "http through it": ["-x", f"http://127.0.0.1:{http}", url],
        "tunnel (as for https)": ["-p", "-x", f"http://127.0.0.1:{http}", url],
        "SOCKS5": ["-x", f"socks5h://127.0.0.1:{socks}", url],
    }
    took: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    async with Proxy() as proxy:
        proxy.serve(*listeners, Policy.full(Allowance.parse(f"127.0.0.1:{port}")))
        for _ in range(rounds):
            for way, arguments in ways.items():
                before = time.process_time()
                took[way].append(await asyncio.to_thread(_curl, arguments, size))
                cpu[way].append(time.process_time() - before)
    return took, cpu


def run(plan: Plan) -> Report:
    size = plan.times(200, 20) * 1_000_000
    with _server(size) as port:
        took, cpu = uvloop.run(_measure(plan.times(5, 1), size, port))
    gbit = {way: size * 8e-9 / median(samples) for way, samples in took.items()}
    slowest = min(list(gbit.values())[1:])
    rows = [
        [way, f"{median(took[way]):.3f}", f"{gbit[way]:.1f}", f"{median(cpu[way]):.3f}", str(len(took[way]))]
        for way in took
    ]
    return Report(
        name="network",
        work=f"a download of {size / 1e6:g} MB over loopback",
        bar=f"{BAR_GBIT:g} Gbit/s",
        aim=f"{AIM_GBIT:g} Gbit/s",
        measured=f"{slowest:.1f} Gbit/s",
        bar_met=slowest >= BAR_GBIT,
        aim_met=slowest >= AIM_GBIT,
        columns=["way", "s", "Gbit/s", "CPU of the gateway, s", "n"],
        rows=rows,
        numbers={f"{way} gbit_s": value for way, value in gbit.items()},
    )


if __name__ == "__main__":
    sys.stdout.write(run(Plan()).text() + "\n")
