"""One HTTPS exchange with the sign-in service: bounded in bytes and time, no redirects, errors that quote no answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from tocsin.bounded_answer import read_bounded

_MOST_BYTES: Final = 256 * 1024
_MOST_CONNECTIONS: Final = 32


class ExchangeFailed(Exception):  # noqa: N818 (it says what is so)
    """There is no usable answer; the message says why, and quotes nothing of what was sent or received."""


class Exchange:
    """The connections to the sign-in service, opened when they are needed.

    Raises:
        OSError: `ca_file` cannot be read, or is not a file with certificates.
    """

    def __init__(
        self, ca_file: Path | None, timeout_s: float, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            verify=tls,
            # What carries the requests; None is the network.
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_MOST_CONNECTIONS),
        )

    async def get(self, url: str) -> bytes:
        """The body of the `200` that answers.

        Raises:
            ExchangeFailed: there is no such answer within the bounds.
        """
        return await self._ask("GET", url, None, {})

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> bytes:
        """The same as `get`, for a form."""
        return await self._ask("POST", url, form, headers)

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, method: str, url: str, form: Mapping[str, str] | None, headers: Mapping[str, str]) -> bytes:
        where = _place(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                status, body = await self._exchange(method, url, form, headers)
        except (TimeoutError, httpx.TimeoutException):
            raise ExchangeFailed(f"{where}: no answer within {self._timeout_s:g} s") from None
        except httpx.ConnectError as error:
            # Of the operating system and of TLS; nothing in it comes from an answer.
            raise ExchangeFailed(f"{where}: {str(error) or 'cannot connect'}") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            # Their texts may quote what the server has sent, and that may quote the session.
            raise ExchangeFailed(f"{where}: {type(error).__name__}") from None
        if body is None:
            raise ExchangeFailed(f"{where}: the answer is larger than {_MOST_BYTES} bytes")
        if status != 200:
            raise ExchangeFailed(f"{where}: answered {status}")
        return body

    async def _exchange(
        self, method: str, url: str, form: Mapping[str, str] | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes | None]:
        """The status, and the body unless it is too large."""
        asked = {"accept": "application/json", "accept-encoding": "identity", **headers}
        async with self._client.stream(method, url, data=form, headers=asked) as response:
            return response.status_code, await read_bounded(response, _MOST_BYTES)


def _place(url: str) -> str:
    """The URL without its query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
