"""The layer that every Python environment of ours lies on: IPython's kernel and our guest, from what is installed here.

Nothing is downloaded: the files of ipykernel and all that it requires are copied from the gateway's own
environment, so the guest runs exactly the versions that were installed and tested with the gateway.
"""

from __future__ import annotations

import compileall
import ensurepip
import functools
import os
import shutil
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from faas_gateway.backends.native.interpreter import ENV_PREFIX, GUEST_PREFIX, HostPython
from faas_gateway.backends.native.layers import digest

ROOTS = ("ipykernel", "ipywidgets", "cloudpickle", "pip")
_PACKAGE = Path(__file__).resolve().parents[2]
_PIP = "import sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n"
_SDK_VALUES = "faas.values"


@functools.cache
def distributions(roots: tuple[str, ...] = ROOTS) -> list[metadata.Distribution]:
    """The installed distributions that roots need, themselves included, sorted by name."""
    found: dict[str, metadata.Distribution] = {}
    wanted = list(roots)
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # needed on another platform, or an optional root
        for text in found[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    return [found[name] for name in sorted(found)]


def guest_files() -> dict[str, Path]:
    """Name in the package faas_guest to source file."""
    import faas.values

    files = {p.name: p for p in (_PACKAGE / "guest").glob("*.py")}
    seccomp = _PACKAGE / "backends" / "native" / "seccomp"
    files |= {p.name: p for p in (seccomp / "filter.py", *seccomp.glob("*.bpf"))}
    codec = Path(faas.values.__file__)
    if codec.name == "__init__.py":
        files |= {f"values/{p.name}": p for p in codec.parent.glob("*.py")}
    else:
        files["values.py"] = codec
    return files


@functools.cache
def guest_digest() -> str:
    return digest({name: path.read_text("latin-1") for name, path in sorted(guest_files().items())})


@functools.cache
def runtime_digest(python: HostPython) -> str:
    """The layer's name: interpreter, distributions and our own guest."""
    parts = [(d.name, d.version) for d in distributions()]
    return digest("runtime", 4, python.executable, python.version, parts, guest_digest())


def write_guest(folder: Path) -> None:
    """Lay the guest down as it is seen in a sandbox (a layer root)."""
    for name, source in guest_files().items():
        target = folder / GUEST_PREFIX[1:] / "faas_guest" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    compileall.compile_dir(folder / GUEST_PREFIX[1:], quiet=2, stripdir=str(folder))


def write_runtime(folder: Path, python: HostPython) -> None:
    """Build the layer in folder: a virtual environment at /opt/env that holds the distributions, and the guest."""
    env = folder / ENV_PREFIX[1:]
    site = env / python.site_packages
    site.mkdir(parents=True)
    write_venv(env, python)
    for distribution in distributions():
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            relative = os.path.normpath(str(file))
            if relative.startswith("..") or not source.is_file():
                continue  # scripts and shared data outside site-packages
            target = site / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    write_pip(env, site)
    write_guest(folder)
    compileall.compile_dir(env, quiet=2, stripdir=str(folder))


def write_pip(env: Path, site: Path) -> None:
    """pip for the sessions: the gateway's own, or the one that comes with Python (ensurepip)."""
    if not (site / "pip").is_dir():
        wheels = sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
        if not wheels:
            return  # a distribution that splits it off: then there is none
        with zipfile.ZipFile(wheels[-1]) as wheel:
            wheel.extractall(site)
    for name in ("pip", "pip3"):
        script = env / "bin" / name
        script.write_text(f"#!{ENV_PREFIX}/bin/python\n{_PIP}")
        script.chmod(0o755)


def write_venv(env: Path, python: HostPython) -> None:
    """What makes a folder a virtual environment (PEP 405)."""
    (env / "bin").mkdir(parents=True, exist_ok=True)
    version = f"{python.version[0]}.{python.version[1]}"
    for name in ("python", "python3", f"python{version}"):
        (env / "bin" / name).symlink_to(python.executable)
    home = os.path.dirname(python.executable)
    (env / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\nversion = {version}\n")
