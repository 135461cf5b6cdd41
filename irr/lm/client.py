"""HTTP: bytes posted to the servers of an LM, over connections that are kept open.

One aiohttp session for each event loop, closed with `Client.aclose` or when its loop ends. The
proxies are those of the environment (``HTTPS_PROXY``, ``NO_PROXY`` …), looked up once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

__all__ = ["CONNECT_SECONDS", "Client"]

CONNECT_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 30.0

_Session = tuple[aiohttp.ClientSession, AsyncGenerator[aiohttp.ClientSession]]


class Client:
    """Posts to ``/chat/completions`` under one of `bases`."""

    def __init__(self, bases: Sequence[str], key: str, timeout: float) -> None:
        self._targets = [(URL(f"{base}/chat/completions"), _proxy(base)) for base in bases]
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=timeout
        )
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}

    async def post(self, place: int, data: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, body) of the answer of server number `place`; redirects are none.

        Raises:
            aiohttp.ClientError, OSError, TimeoutError: no whole answer came.
        """
        url, proxy = self._targets[place]
        session = await self._session()
        async with session.post(url, data=data, proxy=proxy, allow_redirects=False) as response:
            return response.status, response.headers, await response.read()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        found = self._sessions.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found[1].aclose()

    async def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        found = self._sessions.get(loop)
        if found is None:
            # asyncio.run ends the generators of its loop: sessions close also where nobody says so.
            lasting = self._lasting(loop)
            found = self._sessions[loop] = (await anext(lasting), lasting)
        return found[0]

    async def _lasting(
        self, loop: asyncio.AbstractEventLoop
    ) -> AsyncGenerator[aiohttp.ClientSession]:
        session = aiohttp.ClientSession(
            # How many are in flight is for the engine to say.
            connector=aiohttp.TCPConnector(
                limit=0, ttl_dns_cache=300, keepalive_timeout=_KEEP_ALIVE_SECONDS
            ),
            headers=self._headers,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        try:
            yield session
        finally:
            await session.close()
            self._sessions.pop(loop, None)


def _proxy(base: str) -> str | None:
    """The proxy that the environment names for an address."""
    parts = urlsplit(base)
    if proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
