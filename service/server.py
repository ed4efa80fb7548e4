"""The HTTP server around the application: sockets, signals, draining."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from fastapi import FastAPI

from service.settings import Settings, SettingsProblem

LAST_CALL_SECONDS = 0.25
"""How long connections are still taken after SIGTERM: what had reached the kernel is answered."""


class Server(uvicorn.Server):
    """Uvicorn, with a last call before its doors close.

    Args:
        started: called once it listens.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        if self.started:
            self._tell()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn closes a kept-alive connection even when a request has just arrived on it and
        lies unread; a moment of ordinary service first reads and answers it."""
        structlog.get_logger().info("draining")
        await asyncio.sleep(LAST_CALL_SECONDS)
        await super().shutdown(sockets)


def run(
    app: FastAPI,
    settings: Settings,
    listening: socket.socket | None = None,
    started: Callable[[], object] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was taken and return.

    Args:
        listening: serve on it; the settings' own address if None.
        started: called once it listens.

    Raises:
        SettingsProblem: the address cannot be bound.
        SystemExit: the application failed to start (3).
    """
    listening = listening or bind(settings.host, settings.port)
    # Uvicorn raises the signal that stopped it again once it has drained; that is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    host, port = listening.getsockname()[:2]
    structlog.get_logger().info("listening", host=host, port=port)
    server = Server(config, started)
    server.run(sockets=[listening])
    if not server.started:
        sys.exit(3)


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; with ``shared`` one of several on the port, among which the kernel deals
    connections out. Raises ``SettingsProblem``."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        # The protocol is named because asyncio sets TCP_NODELAY only where it is; without it
        # every small answer waits 40 ms for a delayed acknowledgement.
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unbound(host, port, error) from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise _unbound(host, port, error) from None
    return listening


def reserve(host: str, port: int) -> socket.socket:
    """A socket that holds a port for the ``shared`` ones of other processes and takes no
    connection itself. Raises ``SettingsProblem``, also where another service shares the port."""
    alone = bind(host, port)
    family, kind, protocol = alone.family, alone.type, alone.proto
    address = alone.getsockname()
    alone.close()
    holding = socket.socket(family, kind, protocol)
    try:
        holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holding.bind(address)
    except OSError as error:
        holding.close()
        raise _unbound(host, port, error) from None
    return holding


def _unbound(host: str, port: int, error: OSError) -> SettingsProblem:
    return SettingsProblem(
        f"cannot listen on {host} port {port}: {error.strerror or error}; stop what uses it or "
        "give another --port"
    )


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  signal's signature
    raise SystemExit(0)
