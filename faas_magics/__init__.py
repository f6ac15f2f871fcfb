"""Notebook cells that run in a sandbox.

`%load_ext faas_magics`, then a cell whose first line is `%%faas --env python-ai`. In ordinary cells `session()` gives
what the SDK has for the session: snapshots, branches, files, variables.
"""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faas import SyncExecution

    from faas_magics.magic import FaaSMagics

__all__ = ["load_ipython_extension", "session", "unload_ipython_extension"]

_loaded: dict[int, FaaSMagics] = {}


def load_ipython_extension(ipython: Any) -> None:
    """Register `%%faas`, `%faas` and their completion. Called by %load_ext; it starts nothing."""
    from faas_magics.complete import make_matcher
    from faas_magics.magic import FaaSMagics

    magics = FaaSMagics(ipython)
    ipython.register_magics(magics)
    ipython.Completer.custom_matchers.append(make_matcher(ipython, magics.sessions))
    _loaded[id(ipython)] = magics
    atexit.register(magics.sessions.close_at_exit)


def unload_ipython_extension(ipython: Any) -> None:
    """Take all of it away, and end the notebook's private session. Called by %unload_ext and %reload_ext."""
    from faas_magics.complete import IDENTIFIER
    from faas_magics.sessions import note

    magics = _loaded.pop(id(ipython), None)
    if magics is None:
        return
    for kind in ("line", "cell"):
        ipython.magics_manager.magics[kind].pop("faas", None)
    matchers = ipython.Completer.custom_matchers
    matchers[:] = [matcher for matcher in matchers if getattr(matcher, "matcher_identifier", "") != IDENTIFIER]
    atexit.unregister(magics.sessions.close_at_exit)
    if magics.sessions.close():
        note("the session of this notebook was closed, its variables and files are gone")


def session(name: str = "default") -> SyncExecution:
    """Return the session that this notebook's `%%faas` cells run in, as the SDK has it.

    Args:
        name: of a session that was opened with `--name`.

    Raises:
        SessionError: no cell has opened it yet, it has ended, or the extension is not loaded here.

    Example:
        >>> base = session().snapshot()
        >>> branches = base.branch(variables=[{"depth": 3}, {"depth": 5}])
    """
    from IPython.core.getipython import get_ipython

    from faas_magics.errors import SessionError

    shell: Any = get_ipython()
    magic: Any = None if shell is None else shell.find_cell_magic("faas")
    if magic is None:
        raise SessionError("the magics are not loaded in this notebook: run %load_ext faas_magics first")
    magics: FaaSMagics = magic.__self__
    return magics.sessions.handle(name)
