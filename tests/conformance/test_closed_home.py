"""A gateway run by root whose Python lies in a folder that nobody else may enter, as below /root."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
from contract import Create, value

from faas_gateway.backends.base import HostInterpreter, Recipe
from faas_gateway.backends.native import NativeBackend

pytestmark = [pytest.mark.anyio, pytest.mark.root]


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> HostInterpreter:
    """A copy of the base interpreter below a 0700 folder, with the packages of this environment on its path."""
    if os.geteuid() != 0:
        pytest.skip("only root's sandboxes are another user on the host")
    home = tmp_path_factory.mktemp("closed")
    home.chmod(0o700)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    prefix = home / "python"
    (prefix / "bin").mkdir(parents=True)
    executable = prefix / "bin" / version
    shutil.copy(os.path.realpath(sys.executable), executable)
    unwanted = shutil.ignore_patterns("dist-packages", "site-packages", "test", "idlelib", "tkinter")
    shutil.copytree(sysconfig.get_path("stdlib"), prefix / "lib" / version, ignore=unwanted, symlinks=True)
    packages = sysconfig.get_path("purelib")
    return HostInterpreter(str(executable), str(prefix), str(prefix), (packages,))


async def test_the_interpreter_runs_and_nothing_else_of_the_home_is_there(
    backend: NativeBackend, create: Create, interpreter: HostInterpreter
) -> None:
    (Path(interpreter.prefix).parent / "secret").write_text("not to be seen")
    image = await backend.build(Recipe("notebook", "python", interpreter=interpreter), lambda _report: None)
    sandbox = await create(image)
    assert await value(sandbox, "import sys; print(sys.prefix)") == interpreter.prefix
    listed = await value(sandbox, f"import os; print(os.listdir({str(Path(interpreter.prefix).parent)!r}))")
    assert listed == "['python']"
    child = (
        "import subprocess; subprocess.run([sys.executable, '-c', 'import sys; print(sys.base_prefix)'], check=True)"
    )
    assert await value(sandbox, child) == interpreter.prefix
