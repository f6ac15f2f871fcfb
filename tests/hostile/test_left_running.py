"""What the gateway does inside a sandbox, and what a cell leaves running: neither can be used to stay or to get more."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from faas import errors
from rings import Ring

pytestmark = pytest.mark.usefixtures("unharmed")

# ---- what works in it for the gateway -----------------------------------------------------------------------
KILLERS = """
import subprocess
killer = subprocess.Popen(["sh", "-c", "while :; do pkill -{} faas-agent; done"])
"""


def test_code_that_ends_the_gateways_helpers_hurts_itself_only(ring: Ring) -> None:
    with ring.victim() as victim:
        victim.cell("x = 1\n" + KILLERS.format("KILL"))
        for call in (
            lambda: victim.execution.files.write("x", b"x" * 5_000_000),
            lambda: victim.execution.files.read("x"),
            lambda: victim.execution.files.list("."),
        ):
            # the last: a transfer that had begun breaks off
            with contextlib.suppress(errors.FileError, errors.UnknownFileError, errors.ConnectionLostError):
                call()
        result = victim.execution.run(["true"], timeout=5)
        assert result.error is None or result.error.code in ("killed", "exit_code", "timeout")
        assert victim.value("killer.kill()\nprint(x)") == "1"


WRITER = """
n = 0
while True:
    try:
        with open(f"x{n}", "wb") as f: f.write(bytes(1 << 20))
    except OSError: pass
    n += 1
"""


@pytest.mark.parametrize("signal", ["KILL", "STOP"])
def test_who_ends_or_stops_what_counts_the_disk_does_not_get_more_of_it(ring: Ring, signal: str) -> None:
    with ring.victim(disk_mb=16) as victim:
        victim.cell(KILLERS.format(signal))
        result = victim.cell("import time; time.sleep(0.1)\n" + WRITER, timeout=60)
        assert result.error is not None
        assert result.error.code in ("killed", "disk_full"), result.error
        victim.assert_gone()


# ---- what stays behind --------------------------------------------------------------------------------------
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    os.chdir("/"); os.closerange(0, 300)
    import signal
    for n in signal.valid_signals():
        try: signal.signal(n, signal.SIG_IGN)
        except (OSError, ValueError): pass
    while True: time.sleep(1000)
os.wait()
"""


@pytest.mark.parametrize(
    "code",
    [
        DAEMON,
        "import subprocess; subprocess.Popen(['sh', '-c', 'trap \"\" TERM HUP INT; setsid sleep 1000 & setsid setsid sleep 1000'])",
        "import subprocess; subprocess.Popen(['nohup', 'sleep', '1000'], start_new_session=True)",
        "import threading, time; [threading.Thread(target=time.sleep, args=(1000,)).start() for _ in range(10)]",
        "import os, signal\nif os.fork() == 0:\n  os.kill(os.getpid(), signal.SIGSTOP)",
        "import os\nfor _ in range(20):\n  if os.fork() == 0: os._exit(0)",
    ],
)
def test_what_a_cell_leaves_running_is_gone_after_close(ring: Ring, code: str) -> None:
    with ring.victim() as victim:
        assert victim.cell(code).status == "success"
        assert victim.look()


def test_a_session_can_be_closed_while_everything_goes_on_in_it(ring: Ring) -> None:
    with ring.victim() as victim:
        victim.look()
        threads = [
            threading.Thread(target=victim.execution.execute, args=("while True: print('x' * 1000)",)),
            threading.Thread(target=victim.execution.run, args=(["yes"],), kwargs={"timeout": 20}),
            threading.Thread(target=victim.execution.run, args=(["sleep", "1000"],), kwargs={"timeout": 20}),
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        victim.execution.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
