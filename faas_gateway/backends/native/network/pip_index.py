"""Which package index pip asks in a sandbox with a network: the one that pip on this machine is told to ask.

Its own configuration is not there to be read, and pypi.org is often not what a company's machine may ask. Only the
addresses of indexes go in: no credentials, no paths of this machine. Whether an index may be reached is the proxy's
decision all the same (see policy.py).
"""

from __future__ import annotations

import configparser
import ipaddress
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from faas_gateway.backends.native.network.policy import HOST_NAME

_ADDRESSES = ("index-url", "extra-index-url")
_TRUSTED = "trusted-host"


def pip_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for pip in a sandbox, made of the configuration files and variables of pip's that count here.

    An index on this machine's loopback is called host.faas.internal in a sandbox, and is trusted there as loopback is
    by pip. Credentials in an address stay outside; pip then fails with the index's 401 instead of asking for them.
    """
    environ = os.environ if environ is None else environ
    told = _configured(environ)
    found: dict[str, str] = {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    trusted = told.get(_TRUSTED, "").split()
    for key in _ADDRESSES:
        inside: list[str] = []
        for address in told.get(key, "").split():
            url = urlsplit(address)
            if url.scheme not in ("http", "https") or not url.hostname:
                continue  # a folder of this machine, which is not in the sandbox
            if _is_loopback(url.hostname):
                trusted.append(HOST_NAME)
            inside.append(_seen_from_inside(url))
        if inside:
            found[_variable(key)] = " ".join(inside)
    if trusted:
        found[_variable(_TRUSTED)] = " ".join(dict.fromkeys(trusted))
    return found


def _seen_from_inside(url: SplitResult) -> str:
    host = url.netloc.rpartition("@")[2]
    if _is_loopback(url.hostname or ""):
        host = HOST_NAME if url.port is None else f"{HOST_NAME}:{url.port}"
    return url._replace(netloc=host).geturl()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _variable(key: str) -> str:
    return "PIP_" + key.upper().replace("-", "_")


def _configured(environ: Mapping[str, str]) -> dict[str, str]:
    """What pip would read of its files and variables (https://pip.pypa.io/en/stable/topics/configuration/)."""
    told: dict[str, str] = {}
    for path in _files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip on this machine will say so to whoever uses it
        for section in ("global", "install"):
            if parser.has_section(section):
                told |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    for key in (*_ADDRESSES, _TRUSTED):
        if environ.get(_variable(key)):
            told[key] = environ[_variable(key)]
    return told


def _files(environ: Mapping[str, str]) -> Iterable[Path]:
    own = environ.get("PIP_CONFIG_FILE", "")
    if own == os.devnull:
        return
    for folder in reversed(environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")):
        yield Path(folder, "pip", "pip.conf")
    yield Path("/etc/pip.conf")
    home = environ.get("HOME", "")
    if home:
        yield Path(home, ".pip", "pip.conf")
        yield Path(environ.get("XDG_CONFIG_HOME") or Path(home, ".config"), "pip", "pip.conf")
    yield Path(sys.prefix, "pip.conf")
    if own:
        yield Path(own)
