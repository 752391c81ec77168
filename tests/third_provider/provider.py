"""Sends: one connection pool per origin, one lane per origin, one payload per device."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace

from tests.third_provider.rules import NAME, PostRules, parse
from tocsin.domain.credentials import Credential
from tocsin.domain.devices import Address, Device
from tocsin.domain.events import Event
from tocsin.domain.outcomes import (
    Answer,
    Backoff,
    Delivered,
    Misconfigured,
    Outcome,
    RetryLater,
    TokenDead,
)
from tocsin.domain.routes import Route
from tocsin.http2.pool import Pool, PoolOptions
from tocsin.providers.answers import AT_ONCE, judged, no_answer, retry_after_s
from tocsin.providers.base import AccountStatus, CheckResult, Context, Origin, Preview, Push, delivery_id
from tocsin.providers.pools import PushRequest, open_pool

_SOON: Final = Backoff(0.05, 1.0)


class PostProvider:
    """See `base.Provider`. Its credential is what it signs its requests with, under the account `default`."""

    request_timeout_s = 5.0

    def __init__(self, tls: ssl.SSLContext, context: Context) -> None:
        self.rules = PostRules()
        self.unknown_answers = 0
        self._tls = tls
        self._context = context
        self._pools: dict[str, Pool[PushRequest]] = {}
        self._secret: bytes | None = None

    def configure(self, credentials: Iterable[Credential]) -> set[str]:
        before, self._secret = self._secret, next((one.content for one in credentials), None)
        return {_lane(origin) for origin in self._pools} if before != self._secret else set()

    def route(self, device: Device) -> Route:
        return _route(parse(device.address).url)

    def send(self, pushes: Sequence[Push]) -> None:
        if self._secret is None:
            why = Misconfigured(Answer(0, "no secret"))
            self._context.dispatcher.report([(push, why) for push in pushes])
            return
        requests: dict[str, list[PushRequest]] = {}
        for push in pushes:
            url = urlsplit(push.route.variant)
            request = PushRequest(
                [
                    (b":method", b"POST"),
                    (b":scheme", b"https"),
                    (b":authority", url.netloc.encode()),
                    (b":path", url.path.encode()),
                    (b"authorization", b"Bearer " + self._secret),
                    (b"x-id", delivery_id(push.content.event.id, push.device.token).encode()),
                ],
                _encrypted(push),
                push.content.event.urgent,
                push=push,
            )
            requests.setdefault(push.route.account, []).append(request)
        for origin, batch in requests.items():
            self._pool(origin).send(batch)

    def learned(self, push: Push) -> Address:
        return replace(parse(push.device.address), url=push.route.variant).text()

    def resume(self) -> None:
        for pool in self._pools.values():
            pool.resume()

    def pools(self) -> Iterable[Pool[Any]]:
        return self._pools.values()

    def status(self) -> list[AccountStatus]:
        return [] if self._secret is None else [AccountStatus("default", "secret")]

    def origins(self) -> list[Origin]:
        return [Origin(origin, "pushes", None, None) for origin in self._pools]

    def preview(self, event: Event, device: Device) -> Preview:
        return Preview(parse(device.address).url, [], event.body)

    async def check(self, account: str, *, sandbox: bool) -> CheckResult:
        return CheckResult(self._secret is not None, "there is a secret" if self._secret else "no secret")

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()

    def _pool(self, origin: str) -> Pool[PushRequest]:
        if origin not in self._pools:
            options = PoolOptions(request_timeout_s=self.request_timeout_s)
            self._pools[origin] = open_pool(self._context, origin, lambda: self._tls, self._finished, options)
        return self._pools[origin]

    def _finished(self, requests: list[PushRequest]) -> None:
        self._context.dispatcher.report([(one.push, judged(NAME, self._judge, one)) for one in requests])

    def _judge(self, request: PushRequest) -> Outcome:
        if request.failure is not None:
            return no_answer(request.failure)
        answer = Answer(request.status, "")
        match request.status:
            case 201:
                return Delivered(answer)
            case 401:
                return Misconfigured(answer)
            case 410:
                return TokenDead(answer)
            case 308:
                moved = request.response_header(b"location")
                assert moved is not None
                return RetryLater(answer, AT_ONCE, next_route=_route(moved.decode()))
            case _:
                return RetryLater(answer, _SOON, retry_after_s(request, self._context.wall_clock()))


def _lane(origin: str) -> str:
    return f"{NAME}:{origin}"


def _route(url: str) -> Route:
    parts = urlsplit(url)
    origin = f"https://{parts.netloc}"
    return Route(NAME, origin, _lane(origin), variant=url)


def _encrypted(push: Push) -> bytes:
    """For this device alone: nothing of it can be shared with another."""
    key = bytes.fromhex(parse(push.device.address).key)
    nonce = delivery_id(push.content.event.id, push.device.token).replace("-", "")[:24]
    sealed = AESGCM(key).encrypt(bytes.fromhex(nonce), push.content.event.body, push.device.token.encode())
    return msgspec.json.encode({"nonce": nonce, "encrypted": sealed.hex()})
