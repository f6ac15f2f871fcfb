"""Machines that cannot make sandboxes, or give them no proper disk: one clear error, or work that says what is degraded."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import LiveGateway, wait_until
from rings import OrdinaryGateway

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems for the gateway to meet")

TRY = """
import json
from faas import SyncFaaSClient, errors
answers = []
def attempt(call):
    try:
        answer = call()
        answers.append({"ok": answer})
    except errors.FaaSError as e:
        answers.append({"error": type(e).__name__, "message": e.message, "hint": e.hint, "code": getattr(e, "code", "")})
"""


def run(live: LiveGateway, before: str, code: str, timeout: float = 90) -> list[dict[str, Any]]:
    """Run a client's code, which starts the gateway, after shell commands in mount and user namespaces of their own."""
    program = f"{TRY}\n{code}\nprint(json.dumps(answers))"
    done = subprocess.run(
        [
            "unshare",
            *before.split("|")[0].split(),
            "sh",
            "-c",
            f'{before.split("|", 1)[1]}; exec "$0" -c "$1"',
            sys.executable,
            program,
        ],
        env={**os.environ, **live.env},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[LiveGateway]:
    """Folders of a gateway that is started in namespaces of its own."""
    live = LiveGateway(tmp_path / "gateway")
    yield live
    live.stop()
    wait_until(lambda: not live.left_over(), 15, f"nothing left behind ({live.left_over()})")


NO_NAMESPACES = "-Urm|echo 0 >/proc/sys/user/max_user_namespaces"


def test_without_user_namespaces_the_first_call_names_the_restriction_and_the_remedy(elsewhere: LiveGateway) -> None:
    code = """
with SyncFaaSClient() as client:
    for environment in ("alpine-fast", "notebook", "python"):
        attempt(lambda: client.executions.create(environment).id)
    attempt(lambda: client.execute("echo 1").stdout)
    attempt(lambda: [e.name for e in client.environments.list()])
"""
    *refused, listed = run(elsewhere, NO_NAMESPACES, code)
    assert len(refused) == 4
    for answer in refused:
        assert answer["error"] == "SandboxUnavailableError", answer
        assert "user namespaces" in answer["message"]
        assert "max_user_namespaces" in answer["message"]
        assert answer["hint"].startswith("sudo sysctl -w user.max_user_namespaces=")
    assert "python-ai" in listed["ok"]  # the gateway itself is well
    layers = elsewhere.state / "native" / "layers"
    assert not any(p.name.endswith(".part") for p in layers.glob(".*"))


def test_when_the_restriction_is_lifted_the_same_gateway_makes_sandboxes(elsewhere: LiveGateway) -> None:
    code = """
import os
with SyncFaaSClient() as client:
    attempt(lambda: client.execute("echo 1").stdout)
    with open("/proc/sys/user/max_user_namespaces", "w") as f: f.write("1000")
    attempt(lambda: client.execute("echo 2").stdout)
"""
    refused, then = run(elsewhere, NO_NAMESPACES, code)
    assert refused["error"] == "SandboxUnavailableError"
    if "error" in then:  # mapped to one user id, root cannot hand sandboxes to another: also that is said
        assert then["error"] in ("SandboxUnavailableError", "StartError")
        assert then["hint"]
    else:
        assert then["ok"] == "2\n"


@needs_root
def test_where_an_overlay_is_refused_files_are_kept_in_memory_and_it_is_said(tmp_path: Path) -> None:
    """An overlay's upper directory may not lie on an overlay, as in many containers."""
    live = LiveGateway(tmp_path / "gateway")
    overlay = tmp_path / "overlay"
    for name in ("lower", "upper", "work"):
        (overlay / name).mkdir(parents=True)
    mount = (
        f"mount -t overlay o -o lowerdir={overlay}/lower,upperdir={overlay}/upper,workdir={overlay}/work {live.state}"
    )
    code = """
with SyncFaaSClient() as client:
    for environment in ("alpine-fast", "notebook"):
        with client.executions.create(environment, resources={"disk_mb": 16, "memory_mb": 256}) as e:
            attempt(lambda: e.info.degraded)
            attempt(lambda: e.info.enforcement)
            e.files.write("x", b"kept")
            attempt(lambda: e.run(["cat", "x"]).stdout)
            attempt(lambda: e.run(["sh", "-c", "head -c 40000000 /dev/zero >y"]).stderr)
            attempt(lambda: e.run(["ls", "-a", "/usr/bin/env"]).exit_code)
    attempt(lambda: client.execute("echo 1 >x; cat x").stdout)
"""
    answers = run(live, f"-m|{mount}", code)
    try:
        assert all("ok" in answer for answer in answers), answers
        found = [answer["ok"] for answer in answers]
        for degraded, enforcement, kept, full, exit_code in (found[0:5], found[5:10]):
            assert any("in memory" in text and "doctor" in text for text in degraded)
            assert enforcement["disk_mb"] == "tmpfs"
            assert kept == "kept"
            assert "No space left" in full or "too large" in full
            assert exit_code == 0
        assert found[-1] == "1\n"
    finally:
        live.stop()
    wait_until(lambda: not live.left_over(), 15, f"nothing left behind ({live.left_over()})")


@needs_root
def test_a_full_disk_is_a_typed_error_and_recovers(tmp_path: Path) -> None:
    live = LiveGateway(tmp_path / "gateway")
    mount = f"mount -t tmpfs -o size=24m,mode=700 tmpfs {live.state}"
    code = f"""
import os
state = {str(live.state)!r}
with SyncFaaSClient() as client:
    with client.executions.create("notebook") as e:
        e.execute("x = 1")
        attempt(lambda: e.execute("with open('y', 'wb') as f:\\n  while True: f.write(bytes(1 << 20)); f.flush()").error.code)
        attempt(lambda: e.execute("print(x)").stdout)
        attempt(lambda: client.execute("echo 1", timeout=20).stdout)
        attempt(lambda: e.execute("import os; os.remove('y'); print(x)").stdout)
        attempt(lambda: client.execute("echo 2", timeout=20).stdout)
        filler = os.open(state + "/filler", os.O_CREAT | os.O_WRONLY)
        try:
            while True: os.write(filler, bytes(4096))
        except OSError: pass
        attempt(lambda: client.execute("echo 3", timeout=20).stdout)
        attempt(lambda: client.executions.create("alpine-fast").id)
        attempt(lambda: e.execute("print(x)").stdout)
        os.close(filler)
        os.remove(state + "/filler")
        attempt(lambda: client.execute("echo 4", timeout=20).stdout)
"""
    try:
        filled, before, beside, after, again, with_none, create, still, at_last = run(live, f"-m|{mount}", code)
        assert filled.get("ok") == "disk_full", (filled, before, live.log()[-2500:])
        assert before["ok"] == "1\n"
        for answer in (beside, with_none, create):
            assert answer.get("ok") or answer["error"] in ("StartError", "StorageUnavailableError"), answer
            assert answer.get("ok") or answer["message"]
        assert after["ok"] == "1\n"
        assert again["ok"] == "2\n"
        assert still["ok"] == "1\n"
        assert at_last.get("ok") == "4\n", (beside, with_none, create, at_last, live.log()[-1500:])
    finally:
        live.stop()


@pytest.mark.parametrize("kind", ["a file", "below a file", "not ours to write"])
def test_a_state_directory_that_cannot_be_used_is_named(kind: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0 and kind == "not ours to write":
            home = Path(tempfile.mkdtemp(prefix="faas-test-"))
            stack.callback(shutil.rmtree, home)
            live: LiveGateway = OrdinaryGateway(home)
        else:
            live = LiveGateway(tmp_path / "gateway")
        state = live.state / "file" / "below" if kind == "below a file" else live.state / "file"
        if kind == "not ours to write":
            state = live.state
            os.chown(state, 0, 0) if os.geteuid() == 0 else None
            state.chmod(0o555)
        else:
            (live.state / "file").write_text("")
        live.env["FAAS_STATE_DIR"] = str(state)
        code = f"{TRY}\nwith SyncFaaSClient() as client: attempt(lambda: client.execute('echo 1').stdout)\nprint(json.dumps(answers))"
        if isinstance(live, OrdinaryGateway):
            done = live.python(code)
        else:
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, **live.env},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        (answer,) = json.loads(done.stdout)
        assert answer["error"] == "GatewayStartError", answer
        assert str(state) in answer["message"] or "state" in answer["message"], answer
        assert "Traceback" not in answer["message"]
        wait_until(lambda: not live.processes(), 10, "the end of the gateway")
        if kind == "not ours to write":
            state.chmod(0o755)
