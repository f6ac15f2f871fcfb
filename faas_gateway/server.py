"""The embedded server: one per user, on a Unix socket, started on demand, gone when nobody needs it."""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager

import anyio
import uvicorn
from faas import _paths
from faas.errors import FaaSError
from starlette.types import ASGIApp

from faas_gateway import logs
from faas_gateway.activity import Activity
from faas_gateway.app import create_app
from faas_gateway.backends import BackendFactory
from faas_gateway.errors import BACKEND_ERRORS, GatewayError, from_backend
from faas_gateway.listener import ClaimError, Listener, listen
from faas_gateway.managers.gateway import Gateway, open_gateway
from faas_gateway.protocol import protocol_for
from faas_gateway.settings import Settings

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 300
CLAIM_DEADLINE_S = 15.0
#: Of the stop deadline, for answers that are on their way; the rest is for the backend.
DRAIN_S = 4


class ReadyLine:
    """Tells who started the gateway how that went: one line, once.

    Args:
        fd: the writing end of a pipe; None when nobody wants to know.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)  # a child that held it would keep the reader waiting

    def ready(self) -> None:
        self._write("ready")

    def error(self, reason: str) -> None:
        self._write("error " + " ".join(reason.split()))

    def _write(self, line: str) -> None:
        fd, self._fd = self._fd, None
        if fd is None:
            return
        try:
            os.write(fd, line.encode() + b"\n")
        except BrokenPipeError:
            log.info("who started the gateway did not wait for it")
        finally:
            os.close(fd)


def serve_embedded(make_backend: BackendFactory, *, ready_fd: int | None = None, idle_timeout_s: float = 900.0) -> int:
    """Run the embedded gateway of this user until it is told to stop, or idle.

    Args:
        make_backend: makes the backend, which the gateway owns.
        ready_fd: gets `ready` when the gateway answers, or `error REASON`; then it is closed. A gateway that finds
            another one answering on the socket leaves it the place: that is `ready` too.
        idle_timeout_s: with no execution open and no request for so long it ends, seconds.

    Returns:
        The process's exit code.
    """
    logs.configure()
    ready = ReadyLine(ready_fd)
    try:
        settings = Settings(state_dir=_paths.state_dir())
        path = _paths.socket_path(_paths.ensure_private_dir(_paths.runtime_dir()))
        listener = listen(path, settings.state_dir, CLAIM_DEADLINE_S)
        if listener is None:
            ready.ready()
            return 0
        try:
            anyio.run(
                _serve,
                settings,
                make_backend,
                listener,
                ready,
                idle_timeout_s,
                backend_options={"use_uvloop": True},
            )
        finally:
            listener.close()
    except (GatewayError, *BACKEND_ERRORS) as exc:
        error = from_backend(exc)
        return _failed(ready, f"{error.detail} {error.hint}")
    except (FaaSError, ClaimError, OSError) as exc:
        return _failed(ready, str(exc))
    except Exception as exc:
        log.exception("the gateway failed")
        return _failed(ready, f"the gateway failed ({type(exc).__name__}); its log has the reason")
    return 0


def _failed(ready: ReadyLine, reason: str) -> int:
    log.error("%s", reason)
    ready.error(reason)
    return 1


async def _serve(
    settings: Settings,
    make_backend: BackendFactory,
    listener: Listener,
    ready: ReadyLine,
    idle_timeout_s: float,
) -> None:
    activity = Activity()
    backend = make_backend(settings.state_dir, idle_template_s=settings.idle_template_s)
    async with open_gateway(settings, backend) as gateway:
        config = server_config(create_app(gateway, activity), settings, activity)
        server = _Server(config, ready)
        async with anyio.create_task_group() as group:

            async def stop(reason: str) -> None:
                log.info("stopping: %s", reason)
                listener.withdraw()
                # The kernel's own deadline: it also holds where the loop or the backend hangs.
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(math.ceil(settings.stop_deadline_s))
                server.should_exit = True
                await gateway.executions.shutdown()

            async def stop_on_signal() -> None:
                with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                    async for signum in signals:
                        await stop(signal.Signals(signum).name)

            async def stop_when_idle() -> None:
                await _wait_until_idle(gateway, activity, idle_timeout_s)
                await stop(f"idle for {idle_timeout_s:g} s")

            group.start_soon(stop_on_signal)
            group.start_soon(stop_when_idle)
            await server.serve(sockets=[listener.sock])
            group.cancel_scope.cancel()


def server_config(app: ASGIApp, settings: Settings, activity: Activity) -> uvicorn.Config:
    """uvicorn's settings for a gateway on a Unix socket."""
    return uvicorn.Config(
        app,
        http=protocol_for(settings, activity),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )


async def _wait_until_idle(gateway: Gateway, activity: Activity, idle_timeout_s: float) -> None:
    while True:
        if not gateway.executions.is_idle:
            activity.touch()
        left = idle_timeout_s - activity.quiet_s
        if left <= 0:
            return
        await anyio.sleep(max(0.01, min(left, idle_timeout_s / 10)))


class _Server(uvicorn.Server):
    """uvicorn's server, whose start is reported and whose signals are ours."""

    def __init__(self, config: uvicorn.Config, ready: ReadyLine) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.freeze()  # or a full collection walks all that was imported, in the middle of making many executions
        self._ready.ready()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
