"""What programs in a sandbox are told of the proxy: environment variables that each of them reads by itself."""

from __future__ import annotations

HTTP_PORT = 3128
SOCKS_PORT = 1080
"""On 127.0.0.1 of the sandbox; taken before any user code runs."""


def environment(http_port: int = HTTP_PORT, socks_port: int = SOCKS_PORT) -> dict[str, str]:
    """The variables of a sandbox with a network.

    pip, requests, httpx, urllib, git, curl, wget, apt, npm, cargo, Go and uv go by these. ALL_PROXY is the HTTP proxy
    as well: httpx fails at once on a SOCKS URL where `socksio` is missing, requests where PySocks is. What speaks SOCKS
    finds it in FAAS_SOCKS_PROXY.
    """
    http = f"http://127.0.0.1:{http_port}"
    local = "localhost,127.0.0.1,::1"
    variables = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), http) | {"no_proxy": local}
    return {
        **variables,
        **{name.upper(): value for name, value in variables.items()},
        "FAAS_SOCKS_PROXY": f"socks5h://127.0.0.1:{socks_port}",
        "NODE_USE_ENV_PROXY": "1",  # Node's fetch looks at the variables only when told to
    }
