"""Which gateway, and how it is reached: no I/O."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from faas import _paths
from faas.errors import ConfigurationError

__all__ = ["Config", "resolve"]

#: The host part of URLs on a Unix socket: HTTP needs one, nobody looks it up.
_SOCKET_URL = "http://localhost"
_TEAM_GATEWAY_URL = "http://localhost:8080"


@dataclass(frozen=True)
class Config:
    """One client's endpoint."""

    kind: Literal["embedded", "unix", "http"]
    base_url: str
    socket: str | None = None
    api_key: str | None = field(default=None, repr=False)

    @property
    def display(self) -> str:
        """The endpoint, for messages."""
        return f"unix://{self.socket}" if self.socket else self.base_url

    @property
    def same_machine(self) -> bool:
        """Whether the gateway surely sees the files of this machine."""
        return self.kind != "http"


def resolve(api_key: str | None = None, endpoint: str | None = None) -> Config:
    """Find the endpoint.

    The explicit one, else FAAS_ENDPOINT, else localhost:8080 when there is a key, else the embedded gateway.

    Raises:
        ConfigurationError: the endpoint is neither http(s):// nor unix:///.
    """
    key = api_key or os.environ.get("FAAS_API_KEY") or None
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigurationError("The API key has characters that no key has", hint="check FAAS_API_KEY")
    source = "endpoint" if endpoint else "FAAS_ENDPOINT"
    url = endpoint or os.environ.get("FAAS_ENDPOINT") or (_TEAM_GATEWAY_URL if key else None)
    if url is None:
        return Config("embedded", _SOCKET_URL, socket=os.fspath(_paths.socket_path()))
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"{source} is {url!r}, which is not a URL: {error}") from error
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Config("unix", _SOCKET_URL, socket=parts.path, api_key=key)
    if parts.scheme in ("http", "https") and host and not (parts.query or parts.fragment or parts.username):
        return Config("http", url.rstrip("/"), api_key=key)
    raise ConfigurationError(
        f"{source} is {url!r}, which is no endpoint",
        hint="http://HOST:PORT, https://HOST or unix:///PATH.sock",
    )
