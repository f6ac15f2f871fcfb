"""The programs in the README are run as they stand, and those of the other pages are the ones that tests run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest
from live import ROOT
from test_api_programs import BRANCHES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAMS = [
    block
    for block in re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    if "from faas import" in block
]


def run(program: str, environment: Mapping[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


def test_the_readme_has_two_programs():
    assert len(PROGRAMS) == 2


def test_the_readmes_first_program_says_hello_and_keeps_state(gateway_env: Mapping[str, str]):
    assert run(PROGRAMS[0], gateway_env) == ["Hello World", "", "21", "2 data.csv", ""]


def test_the_readmes_program_about_branches_compares_them(gateway_env: Mapping[str, str]):
    found = [re.fullmatch(r"depth (\d+): 0\.(\d{3})", line) for line in run(PROGRAMS[1], gateway_env)]
    assert [match and match[1] for match in found] == ["2", "5", "10", "20"]
    scores = [int(match[2]) for match in found if match]
    assert scores[0] < scores[1] < scores[2]


def test_the_program_of_the_page_about_snapshots_is_the_apis():
    page = (ROOT / "docs" / "snapshots.md").read_text()
    program = BRANCHES.replace("...", "git clone https://git.example.org/project.git .")
    assert _unbroken(program) in _unbroken(page)


def _unbroken(text: str) -> str:
    """Without spaces, line breaks and the commas before them: what a formatter may change."""
    return re.sub(r",(?=[)\]])", "", re.sub(r"\s+", "", text))


def test_no_page_leads_to_a_file_that_is_not_there():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
