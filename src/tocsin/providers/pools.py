"""What a provider sends: requests that carry their push, over connections that ask delivery before they send."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import TypeVar

from tocsin.http2.messages import Request
from tocsin.http2.pool import Pool, PoolOptions
from tocsin.http2.traffic import Traffic
from tocsin.providers.base import Context, Push


class PushRequest(Request, kw_only=True, eq=False, gc=False):
    """A push on its way."""

    push: Push


R = TypeVar("R", bound=PushRequest)


def open_pool(
    context: Context,
    origin: str,
    tls: Callable[[], ssl.SSLContext],
    finished: Callable[[list[R]], None],
    options: PoolOptions,
) -> Pool[R]:
    """Connections to `origin`, on which nothing is sent that delivery has withdrawn, or while it may not send. What
    they are not to send any more, as its credential was replaced, is made anew."""
    dispatcher = context.dispatcher

    def withdrawn(requests: Sequence[R]) -> Sequence[R]:
        pushes = set(dispatcher.withdrawn([request.push for request in requests]))
        return [request for request in requests if request.push in pushes] if pushes else ()

    def revoked(requests: Sequence[R]) -> bool:
        return dispatcher.revoked([request.push for request in requests])

    def unsent(requests: Sequence[R]) -> None:
        dispatcher.send_anew([request.push for request in requests])

    return Pool(
        origin,
        tls,
        finished,
        options,
        network=context.network,
        withdrawn=withdrawn,
        revoked=revoked,
        may_send=dispatcher.may_send,
        unsent=unsent,
        random=context.random.random,
        traffic=context.traffic.setdefault(origin, Traffic()),
    )
