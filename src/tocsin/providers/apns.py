"""Apple: pushes to `/3/device/<token>`, one pool of connections per origin and credential.

Source: Apple, "Sending notification requests to APNs".
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from tocsin.domain.devices import Device, team_id
from tocsin.domain.events import URGENT
from tocsin.domain.lanes import Route, apns_lane
from tocsin.domain.outcomes import (
    Answer,
    Delivered,
    Misconfigured,
    Outcome,
    Refused,
    RetryLater,
    Scope,
    TokenDead,
)
from tocsin.http2.dial import client_tls
from tocsin.http2.messages import Header, Request, unindexed
from tocsin.http2.pool import Pool, PoolOptions
from tocsin.providers.answers import (
    AT_ONCE,
    authorization_of,
    judged,
    log_unknown,
    no_answer,
    retry_after_s,
    withdrawn_requests,
)
from tocsin.providers.apns_answers import Act, Row, find_row, read_body
from tocsin.providers.base import Push, Report, ToWithdraw, delivery_id, none_withdrawn
from tocsin.providers.credentials import (
    PROVIDER_TOKEN_LEAST_AGE_S,
    CredentialError,
    ProviderToken,
    certificate_tls,
    fingerprint,
)

PUSH_TYPE_BY_SUFFIX: Final = (
    (".voip", b"voip"),
    (".complication", b"complication"),
    (".pushkit.fileprovider", b"fileprovider"),
    (".location-query", b"location"),
    (".voip-ptt", b"pushtotalk"),
    (".push-type.liveactivity", b"liveactivity"),
)
_MOST_BLOCKS: Final = 10_000


class ApnsCredential(Struct, frozen=True):
    """What reaches one application: a key with its id, or a certificate (PEM, chain and key)."""

    application_id: str
    key_pem: str | None
    key_id: str | None
    certificate_pem: str | None


class ApnsOptions(Struct, frozen=True):
    production_url: str
    sandbox_url: str
    ca_file: Path | None
    pool: PoolOptions


def push_type(topic: str) -> bytes:
    """Apple's table of topic suffixes; every other topic gets a background push."""
    for suffix, kind in PUSH_TYPE_BY_SUFFIX:
        if topic.endswith(suffix):
            return kind
    return b"background"


def topic_headers(topic: str) -> list[Header]:
    """The fields that a topic decides. Priority 10 is an error for a background push; a call must ring at once."""
    kind = push_type(topic)
    return [
        (b"apns-topic", topic.encode()),
        (b"apns-push-type", kind),
        (b"apns-priority", b"5" if kind == b"background" else b"10"),
    ]


class _Channel:
    """One credential towards one environment: its connections, and how its requests are signed."""

    def __init__(self, pool: Pool, token: ProviderToken | None) -> None:
        self.pool = pool
        self.token = token
        self.replaced = False
        """The credential is no longer in use: what its last answers say of it is no longer true."""

    def authorization(self) -> bytes | None:
        """The header's value; None where a certificate speaks for the connection."""
        return None if self.token is None else self.token.header()


class _Block:
    """The header fields that all pushes of one application, environment and topic share, built once."""

    __slots__ = ("_after_path", "_signed", "_signed_for", "before_path", "channel", "voip")

    def __init__(self, channel: _Channel, topic: str) -> None:
        self.channel = channel
        self.voip = push_type(topic) == b"voip"
        self.before_path: list[Header] = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", channel.pool.authority),
        ]
        self._after_path = topic_headers(topic)
        self._signed: list[Header] = []
        self._signed_for: tuple[bytes | None, int] | None = None

    def signed(self, authorization: bytes | None, expires_s: int) -> list[Header]:
        """What follows the path: it changes with the provider token, and from second to second."""
        wanted = (authorization, expires_s)
        if self._signed_for != wanted:
            head = [] if authorization is None else [(b"authorization", authorization)]
            self._signed = [*head, *self._after_path, (b"apns-expiration", b"%d" % expires_s)]
            self._signed_for = wanted
        return self._signed


class Apns:
    """See `base.Provider`."""

    def __init__(
        self,
        options: ApnsOptions,
        report: Report,
        to_withdraw: ToWithdraw = none_withdrawn,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._report = report
        self._withdrawn = partial(withdrawn_requests, to_withdraw)
        self._clock = clock
        self._credentials: dict[str, ApnsCredential] = {}
        self._tokens: dict[tuple[str, str, str], ProviderToken] = {}
        self._channels: dict[tuple[bool, str], _Channel] = {}
        self._blocks: dict[tuple[str, str | None], _Block] = {}
        self._routes: dict[tuple[str, bool], Route] = {}
        self._tls: ssl.SSLContext | None = None
        self._retired: list[Pool] = []
        self.unknown_answers = 0

    # -- what the dispatcher asks --------------------------------------------------------------------------------------

    def route(self, device: Device) -> Route:
        sandbox = device.sandbox if device.learned_sandbox is None else device.learned_sandbox
        return self._route(device.application_id or "", sandbox)

    def send(self, pushes: Sequence[Push]) -> None:
        requests: dict[Pool, list[Request]] = {}
        authorizations: dict[_Channel, bytes | None] = {}
        failed: list[tuple[Push, Outcome]] = []
        now_us = int(self._clock() * 1e6)
        for push in pushes:
            device = push.device
            block = self._blocks.get((push.route.lane, device.apns_topic))
            if block is None:
                try:
                    block = self._block(push)
                except CredentialError as error:
                    failed.append((push, Misconfigured(Answer(0, str(error)))))
                    continue
            event = push.rendering.event
            try:
                body = push.rendering.apns_voip() if block.voip else push.rendering.apns()
            except ValueError as error:
                failed.append((push, Refused(Answer(0, str(error)), our_bug=True)))
                continue
            channel = block.channel
            if channel not in authorizations:
                authorizations[channel] = channel.authorization()
                requests[channel.pool] = []
            headers = [
                *block.before_path,
                (b":path", b"/3/device/" + device.token.encode()),
                *block.signed(authorizations[channel], event.expires_ms // 1000),
                unindexed(b"apns-id", delivery_id(event.id, device.token).encode()),
            ]
            push.sent_us = now_us
            push.via = channel
            requests[channel.pool].append(Request(headers, body, push, event.message in URGENT))
        for pool, batch in requests.items():
            pool.send(batch)
        if failed:
            self._report(failed)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.pool.close()
        for pool in self._retired:
            await pool.close()

    # -- credentials ---------------------------------------------------------------------------------------------------

    def configure(self, credentials: Iterable[ApnsCredential]) -> set[str]:
        """Take over the applications as they are now; returns those whose credential is new or changed.

        What is in flight under an old credential finishes there; no delivery fails for the change.
        """
        new = {credential.application_id: credential for credential in credentials}
        changed = {id for id, credential in new.items() if self._credentials.get(id) != credential}
        changed |= self._credentials.keys() - new.keys()
        if not changed:
            return changed
        self._credentials = new
        self._blocks.clear()
        wanted = {_identity(credential) for credential in new.values()}
        for key in [key for key in self._channels if key[1] not in wanted]:
            channel = self._channels.pop(key)
            channel.replaced = True
            channel.pool.wind_up()
            self._retired.append(channel.pool)
        self._retired = [pool for pool in self._retired if not pool.idle]
        tokens = {channel.token for channel in self._channels.values()}
        self._tokens = {identity: token for identity, token in self._tokens.items() if token in tokens}
        return changed

    def pools(self) -> Iterable[Pool]:
        return [channel.pool for channel in self._channels.values()]

    def _block(self, push: Push) -> _Block:
        block = _Block(self._channel_of(push), push.device.topic)
        if len(self._blocks) >= _MOST_BLOCKS:
            self._blocks.clear()
        self._blocks[push.route.lane, push.device.apns_topic] = block
        return block

    def _channel(self, application_id: str, sandbox: bool) -> _Channel:
        credential = self._credentials.get(application_id)
        if credential is None:
            raise CredentialError(f"application {application_id} is not registered; add it with `tocsin app add`")
        key = (sandbox, _identity(credential))
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = self._open(credential, sandbox)
        return channel

    def _open(self, credential: ApnsCredential, sandbox: bool) -> _Channel:
        options = self._options
        token: ProviderToken | None = None
        if credential.certificate_pem is not None:
            own_tls = certificate_tls(credential.certificate_pem, options.ca_file)
        else:
            own_tls = self._common_tls()
            assert credential.key_pem is not None
            assert credential.key_id is not None
            team = team_id(credential.application_id)
            identity = (credential.key_pem, credential.key_id, team)
            token = self._tokens.get(identity)
            if token is None:
                token = self._tokens[identity] = ProviderToken(*identity, clock=self._clock)
        url = options.sandbox_url if sandbox else options.production_url
        return _Channel(Pool(url, lambda: own_tls, self._finished, options.pool, withdrawn=self._withdrawn), token)

    def _common_tls(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = client_tls(self._options.ca_file)
        return self._tls

    def _route(self, application_id: str, sandbox: bool) -> Route:
        key = (application_id, sandbox)
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = Route(apns_lane(application_id, sandbox))
        return route

    # -- answers -------------------------------------------------------------------------------------------------------

    def _finished(self, requests: list[Request]) -> None:
        outcomes: list[tuple[Push, Outcome]] = []
        for request in requests:
            if request.status == 200 and request.response_headers[-1][0] == b"apns-id":
                outcomes.append((request.context, _DELIVERED))
            else:
                outcomes.append((request.context, judged("apns", self._judge, request)))
        self._report(outcomes)

    def _judge(self, request: Request) -> Outcome:
        push: Push = request.context
        if request.failure is not None:
            return no_answer(request.failure)
        body = read_body(request.response_body)
        row, known = find_row(request.status, body.reason)
        answer = Answer(request.status, body.reason)
        if not known:
            self.unknown_answers += 1
            log_unknown("apns", request, body.reason, row.act.name)
        channel: _Channel = push.via
        outcome = self._consequence(request, row, answer, body.timestamp, channel)
        if isinstance(outcome, Misconfigured):
            if channel.replaced:
                return RetryLater(answer, AT_ONCE)
            if push.tried:
                # Its own environment does not know the token, and the other one cannot be asked with this credential.
                return TokenDead(Answer(400, "BadDeviceToken"))
        return outcome

    def _consequence(
        self, request: Request, row: Row, answer: Answer, timestamp_ms: int | None, channel: _Channel
    ) -> Outcome:
        push: Push = request.context
        match row.act:
            case Act.DELIVERED:
                id = request.response_header(b"apns-unique-id")
                return Delivered(answer, id.decode("latin-1")) if id else _DELIVERED
            case Act.OTHER_ENVIRONMENT:
                return self._other_environment(push, answer)
            case Act.TOKEN_DEAD:
                return TokenDead(answer, timestamp_ms)
            case Act.RETRY:
                scope = Scope.LANE if row.fault else Scope.DEVICE
                return RetryLater(
                    answer, row.backoff, retry_after_s(request, self._clock()), scope=scope, fault=row.fault
                )
            case Act.RETRY_NEW_CONNECTION:
                # The one it came on, and older ones: each of its neighbours on that connection gets this answer too.
                channel.pool.retire(opened_before=request.started)
                return RetryLater(answer, AT_ONCE)
            case Act.NEW_PROVIDER_TOKEN:
                if channel.token is not None and channel.token.expired(authorization_of(request)):
                    return RetryLater(answer, AT_ONCE)
                return Misconfigured(answer)
            case Act.PAUSE_KEY:
                age_s = channel.token.age_s if channel.token is not None else 0.0
                pause_s = max(1.0, PROVIDER_TOKEN_LEAST_AGE_S - age_s)
                lanes = self._lanes_with_the_key_of(push)
                return RetryLater(answer, AT_ONCE, pause_s, scope=Scope.LANE, pause_s=pause_s, pause_lanes=lanes)
            case Act.REFUSED:
                return Refused(answer)
            case Act.OUR_BUG:
                return Refused(answer, our_bug=True)
            case Act.MISCONFIGURED:
                return Misconfigured(answer)
            case Act.MISCONFIGURED_TOPIC:
                return Misconfigured(answer, topic=push.device.topic)

    def _other_environment(self, push: Push, answer: Answer) -> Outcome:
        sandbox = push.route.lane.startswith("apns:sandbox:")
        other = self._route(push.device.application_id or "", not sandbox)
        if other in push.tried:
            return TokenDead(answer)
        return RetryLater(answer, AT_ONCE, next_route=other)

    def _lanes_with_the_key_of(self, push: Push) -> tuple[str, ...]:
        own = self._credentials.get(push.device.application_id or "")
        if own is None:
            return (push.route.lane,)
        same = [id for id, credential in self._credentials.items() if _identity(credential) == _identity(own)]
        return tuple(apns_lane(id, sandbox) for id in same for sandbox in (False, True))

    def _channel_of(self, push: Push) -> _Channel:
        return self._channel(push.device.application_id or "", push.route.lane.startswith("apns:sandbox:"))


# `apns-id` is the one that was sent, and so needs no record; the sandbox gives an id of its own besides.
_DELIVERED: Final = Delivered(Answer(200, ""))


def _identity(credential: ApnsCredential) -> str:
    """What must not share a connection: Apple binds one to a team's key, or to a certificate."""
    if credential.certificate_pem is not None:
        return f"certificate:{fingerprint(credential.certificate_pem)}"
    return f"key:{team_id(credential.application_id)}:{credential.key_id}:{hash(credential.key_pem)}"
