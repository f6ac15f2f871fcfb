"""The probe says what is so: on this machine, and on ones that are restricted for the test."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import ordinary
import pytest

from faas_gateway.backends.native.identity import HOST_UID
from faas_gateway.backends.native.probe import Check, explain, run_checks, tried, unavailable
from faas_gateway.backends.native.probe.limits import check_cgroups
from faas_gateway.backends.native.probe.restrictions import Facts
from faas_gateway.backends.native.seccomp import filter as seccomp_filter

PROBE = [sys.executable, "-m", "faas_gateway.backends.native.probe", "--json"]
NAMES = [
    "kernel", "user namespaces", "namespaces", "mounts", "nested namespaces", "process numbers", "overlay",
    "seccomp", "pidfd", "memory limit", "process limit", "CPU limit", "memory", "disk", "Python",
]  # fmt: skip
SYSCTL = "sudo sysctl -w user.max_user_namespaces=28633"


@pytest.fixture
def home() -> Generator[Path]:
    with ordinary.home() as folder:
        yield folder


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def probed(done: subprocess.CompletedProcess[str]) -> dict[str, Check]:
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)["checks"]
    assert done.returncode == (0 if all(check["ok"] for check in found) else 1)
    return {c["name"]: Check(c["name"], c["state"], c["detail"], c["remedy"]) for c in found}


def restricted(home: Path, prepare: str, probe: list[str] = PROBE, namespaces: str = "-Urm") -> dict[str, Check]:
    """Probe as an ordinary user after `prepare` ran as root of a user namespace of its own."""
    check = ordinary.run(["unshare", namespaces, "true"], home)
    if check.returncode:
        pytest.skip(f"the machine to be restricted has no user namespaces: {check.stderr.strip()}")
    script = f"set -e; {prepare}; exec {shlex.join(probe)}"
    return probed(ordinary.run(["unshare", namespaces, "sh", "-c", script], home))


#: What becomes an ordinary user again inside, so that the probe does not take itself for root.
AS_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


def test_every_thing_is_checked_in_order(tmp_path: Path) -> None:
    checks = run_checks(tmp_path)
    assert [check.name for check in checks] == NAMES
    for check in checks:
        assert check.detail
        assert not check.remedy if check.state == "ok" else check.remedy or "not tried" in check.detail


def test_this_machine_can_make_sandboxes(tmp_path: Path) -> None:
    """As far as the kernel says so by itself: a namespace that unshare(1) can make, the probe can make."""
    made = subprocess.run(["unshare", "-Urmpfn", "--mount-proc", "true"], capture_output=True, timeout=20, check=False)
    checks = run_checks(tmp_path)
    assert (unavailable(checks) is None) == (made.returncode == 0), checks


def test_the_state_dir_is_not_made_and_nothing_is_left(tmp_path: Path) -> None:
    checks = by_name(run_checks(tmp_path / "not" / "yet"))
    assert list(tmp_path.iterdir()) == []
    assert f"{tmp_path}/not/yet" in checks["disk"].detail
    deadline = time.monotonic() + 5  # a probe of another test may be at work
    while left := [path for path, _, _ in os.walk("/sys/fs/cgroup") if "faas-probe" in path]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_an_ordinary_user_gets_an_answer(home: Path) -> None:
    checks = probed(ordinary.run(PROBE, home))
    assert list(checks) == NAMES
    uid = ordinary.NOONE if os.geteuid() == 0 else os.geteuid()
    if checks["user namespaces"].ok:
        assert checks["user namespaces"].detail == f"a sandbox's root is uid {uid} outside"
    assert str(home / ".local/state/faas") in checks["disk"].detail
    assert list(home.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
def test_root_of_the_machine_is_not_root_of_a_sandbox(tmp_path: Path) -> None:
    found = by_name(run_checks(tmp_path))["user namespaces"]
    assert found.detail == f"a sandbox's root is uid {HOST_UID} outside"


def test_a_folder_that_only_root_can_enter_works_for_root(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert by_name(run_checks(closed / "state"))["overlay"].state != "missing"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_state_dir_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    found = by_name(run_checks(closed / "state"))["disk"]
    assert (found.state, found.detail) == ("missing", f"{closed} is not writable")
    assert found.remedy == f"sudo chown {os.geteuid()} {closed}"


# ---- restricted machines ----


def test_user_namespaces_switched_off_names_the_sysctl(home: Path) -> None:
    checks = restricted(home, "echo 0 > /proc/sys/user/max_user_namespaces", namespaces="-Ur")
    broken = checks["user namespaces"]
    assert (broken.state, broken.remedy) == ("missing", SYSCTL)
    assert "unshare(CLONE_NEWUSER) failed with ENOSPC: user namespaces are switched off" in broken.detail
    assert unavailable(list(checks.values())) == broken
    assert checks["overlay"].detail.startswith("not tried")


def test_an_outer_seccomp_filter_names_the_containers_option(home: Path) -> None:
    filtered = [sys.executable, "-I", "-S", str(seccomp_filter.__file__), *PROBE]
    checks = probed(ordinary.run(filtered, home))
    broken = checks["user namespaces"]
    assert "failed with EPERM: a seccomp filter, such as a container's, refuses it" in broken.detail
    assert broken.remedy.startswith("docker run --security-opt seccomp=unconfined")
    assert checks["seccomp"].ok


def test_a_masked_proc_names_the_containers_option(home: Path) -> None:
    checks = restricted(home, "mount -t tmpfs none /proc/bus", [*AS_USER, *PROBE])
    assert checks["user namespaces"].ok
    broken = checks["mounts"]
    assert (broken.state, broken.remedy) == (
        "missing",
        "docker run --security-opt systempaths=unconfined ...",
    )
    assert "mount(proc) failed with EPERM: this container hides parts of /proc" in broken.detail


def test_a_state_dir_that_refuses_overlays_is_degraded(home: Path) -> None:
    layers = f"{home}/layers"
    prepare = (
        f"mkdir {layers}; mount -t tmpfs none {layers}; cd {layers}; mkdir l u w m;"
        " mount -t overlay none -o lowerdir=l,upperdir=u,workdir=w m; chmod 777 m"
    )
    checks = restricted(home, prepare, [*AS_USER, *PROBE, "--state-dir", f"{layers}/m/state"])
    found = checks["overlay"]
    assert found.state == "degraded"
    assert found.detail.startswith(f"{layers}/m/state cannot hold an overlay's upper directory")
    assert "FAAS_STATE_DIR" in found.remedy
    assert unavailable(list(checks.values())) is None


def test_root_of_a_container_with_few_ids_is_told_to_be_a_user(home: Path) -> None:
    checks = restricted(home, "true")
    broken = checks["mounts"]
    assert broken.state == "missing"
    assert f"chown(uid {HOST_UID}) failed with EINVAL: the container" in broken.detail
    assert broken.remedy == "start it as an ordinary user of the container (docker run --user 1000 ...)"


def test_root_without_rights_over_its_mounts_is_told_to_be_a_user(home: Path) -> None:
    checks = restricted(home, "true", namespaces="-Ur")
    broken = checks["mounts"]
    assert broken.state == "missing"
    assert "this root has no rights over the mounts around it" in broken.detail
    assert "docker run --user 1000" in broken.remedy


def test_a_trial_that_hangs_is_ended_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, time\n"
        'os.write(1, b\'{"step": "pidfd", "errno": 0, "call": "pidfd_open", "note": ""}\\n\')\n'
        "os.fork()\ntime.sleep(60)\n"
    )
    monkeypatch.setattr(tried, "TRIAL", slow)
    monkeypatch.setattr(tried, "TRIAL_S", 0.5)
    started = time.monotonic()
    checks = by_name(run_checks(tmp_path))
    assert time.monotonic() - started < 5
    assert checks["pidfd"].ok
    assert checks["user namespaces"].detail == "not tried: no answer within 0.5 seconds"
    assert [path.name for path in tmp_path.iterdir()] == ["slow.py"]


def test_a_trial_that_dies_is_reported_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module\n")
    monkeypatch.setattr(tried, "TRIAL", broken)
    found = unavailable(run_checks(tmp_path))
    assert found == Check(
        "user namespaces", "missing", "not tried: ModuleNotFoundError: No module named 'no_such_module'"
    )


# ---- machines that we do not have ----

NEWUSER = "unshare(0x10000000)"
DEBIAN = Facts(release="5.10.0-8-amd64", unprivileged_userns_clone=0, max_user_namespaces=15000)
UBUNTU = Facts(release="6.8.0-31-generic", apparmor_restricts=1, max_user_namespaces=15000)
DOCKER = Facts(release="6.1.0", seccomp=True, container=True, euid=0, max_user_namespaces=15000)


@pytest.mark.parametrize(
    ("number", "call", "facts", "problem", "remedy"),
    [
        (errno.EPERM, NEWUSER, DEBIAN, "kernel.unprivileged_userns_clone is 0",
         "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        (errno.EPERM, "unshare(0x20020000)", UBUNTU,
         "unshare(CLONE_NEWNS|CLONE_NEWPID) failed with EPERM: AppArmor",
         "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        (errno.EACCES, "mount('none', '/', None)", UBUNTU, "AppArmor",
         "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        (errno.EPERM, NEWUSER, DOCKER, "a seccomp filter", "--security-opt seccomp=unconfined"),
        (errno.ENOSPC, NEWUSER, Facts(max_user_namespaces=0), "switched off", SYSCTL),
        (errno.ENOSPC, NEWUSER, Facts(max_user_namespaces=9), "a limit on namespaces is reached", SYSCTL),
        (errno.EPERM, NEWUSER, Facts(chroot=True), "in a chroot", "outside the chroot"),
        (errno.EPERM, NEWUSER, Facts(selinux=True), "SELinux", "sudo ausearch -m avc"),
        (errno.EPERM, NEWUSER, Facts(), "a security module", "sudo dmesg"),
        (errno.EINVAL, NEWUSER, Facts(release="4.4.0-19041-Microsoft"), "WSL 1", "wsl --set-version"),
        (errno.EINVAL, NEWUSER, Facts(release="3.10.0"), "3.10.0 does not have it", "CONFIG_USER_NS=y"),
        (errno.EPERM, "mount('proc', '/tmp/x/proc', proc, None)", Facts(masked_proc=True, container=True),
         "hides parts of /proc", "--security-opt systempaths=unconfined"),
        (errno.ENOENT, "write(ns_last_pid)", Facts(), "CONFIG_CHECKPOINT_RESTORE", "standard kernel"),
        (errno.EIO, "fork", Facts(), "fork failed with EIO: Input/output error", "dmesg"),
    ],
)  # fmt: skip
def test_a_restriction_is_named_with_what_lifts_it(
    number: int, call: str, facts: Facts, problem: str, remedy: str
) -> None:
    said, cure = explain(number, call, facts)
    assert problem in said
    assert remedy in cure


def test_switches_for_ordinary_users_are_not_blamed_for_root() -> None:
    for facts in (DEBIAN, UBUNTU):
        said, _cure = explain(errno.EPERM, "unshare", Facts(**{**vars(facts), "euid": 0}))
        assert "security module" in said


def test_each_limit_without_a_control_group_is_degraded_with_a_remedy() -> None:
    found = check_cgroups(0, frozenset())
    assert [(check.name, check.state) for check in found] == [
        ("memory limit", "degraded"),
        ("process limit", "degraded"),
        ("CPU limit", "degraded"),
    ]
    assert all(check.remedy for check in found)
    partly = check_cgroups(2, frozenset({"memory", "pids"}))
    assert [check.state for check in partly] == ["ok", "ok", "degraded"]
    assert partly[0].detail == "by cgroup v2"
