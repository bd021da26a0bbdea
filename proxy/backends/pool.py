"""Kept connections to one address, and the opening of new ones."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from proxy.backends.connection import HttpConnection

_IDLE_S = 30.0  # shorter than servers keep theirs open, so that few are found closed
_RESOLVED_S = 60.0
_EYEBALLS_S = 0.25  # RFC 8305, section 8: head start of the preferred address family


class ConnectionPool:
    """The connection used last is used next, so that what is not needed grows old and is closed."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._idle: deque[HttpConnection] = deque()  # the oldest first
        self._open: set[HttpConnection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._addresses: list[AddrInfoType] = []
        self._resolved_until = 0.0

    def take(self) -> HttpConnection | None:
        """A kept connection, None where there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def open(self) -> HttpConnection:
        """A new connection. Raises `OSError` (`socket.gaierror`, `ssl.SSLError` among them)."""
        loop = asyncio.get_running_loop()
        addresses = await self._resolve(loop)
        try:
            sock = await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_EYEBALLS_S, loop=loop
            )
        except BaseException:
            self._resolved_until = 0.0
            raise
        try:
            _, connection = await loop.create_connection(
                lambda: HttpConnection(loop, self._forget),
                sock=sock,
                ssl=self._tls,
                server_hostname=self._host if self._tls is not None else None,
            )
        except BaseException:
            sock.close()
            raise
        self._open.add(connection)
        return connection

    def give_back(self, connection: HttpConnection) -> None:
        """Its exchange is over: it is kept, or closed where its reply was not read to the end."""
        if not connection.release():
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(_IDLE_S, self._sweep)

    async def close(self) -> None:
        """Every connection, used ones too."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self._open):
            connection.abort()
        while self._open:  # noqa: ASYNC110 - the loop says so in its next round
            await asyncio.sleep(0)

    async def _resolve(self, loop: asyncio.AbstractEventLoop) -> list[AddrInfoType]:
        if loop.time() >= self._resolved_until:
            self._addresses = list(await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
            self._resolved_until = loop.time() + _RESOLVED_S
        return self._addresses

    def _forget(self, connection: HttpConnection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _sweep(self) -> None:
        """Close what has not been used for a while; look again while anything is kept."""
        loop = asyncio.get_running_loop()
        self._sweeper = None
        while self._idle and loop.time() - self._idle[0].idle_since >= _IDLE_S:
            self._idle.popleft().abort()
        if self._idle:
            wait_s = _IDLE_S - (loop.time() - self._idle[0].idle_since)
            self._sweeper = loop.call_later(max(wait_s, 1.0), self._sweep)
