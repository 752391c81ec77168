"""One request on a pool of its own, for whoever wants to know what a provider says to a credential."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final

from tocsin.http2.messages import Failure, FailureKind, Header, Request
from tocsin.http2.network import Network
from tocsin.http2.pool import Pool, PoolOptions

_TIMEOUT_S: Final = 15.0
NOT_NOW: Final = "{who} answered {status} {reason}, which says nothing of the credential; check again in a while"


async def ask(
    url: str, tls: ssl.SSLContext, options: PoolOptions, headers: Sequence[Header], body: bytes, network: Network
) -> Request:
    """The request with its answer, or with the failure that it ended in. `headers` come without `:authority`."""
    answered: asyncio.Future[Request] = asyncio.get_running_loop().create_future()

    def done(requests: list[Request]) -> None:
        if not answered.done():
            answered.set_result(requests[0])

    pool = Pool(url, lambda: tls, done, options, network=network)
    # Pseudo-header fields come first (RFC 9113, 8.3).
    request = Request([(b":authority", pool.authority), *headers], body)
    try:
        pool.send([request])
        async with asyncio.timeout(_TIMEOUT_S):
            return await answered
    except TimeoutError:
        request.failure = Failure(FailureKind.TIMEOUT, f"no answer within {_TIMEOUT_S:g} s", unknown=True)
        return request
    finally:
        await pool.close()
