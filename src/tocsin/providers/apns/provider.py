"""Apple as a provider: pushes in, requests to `/3/device/<token>` out, answers in, outcomes out."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from tocsin.domain.credentials import Credential
from tocsin.domain.devices import Address, Device
from tocsin.domain.events import URGENT, Event
from tocsin.domain.outcomes import Answer, Misconfigured, Outcome, Refused
from tocsin.domain.routes import Route
from tocsin.http2.messages import unindexed
from tocsin.http2.pool import Pool
from tocsin.providers.answers import judged, note_accepted
from tocsin.providers.apns.address import NAME, SANDBOX, ApnsRules, parse, team_id
from tocsin.providers.apns.channels import ApnsOptions, Channel, Channels
from tocsin.providers.apns.check import check
from tocsin.providers.apns.credentials import read_stored
from tocsin.providers.apns.judging import DELIVERED, ApnsJudge
from tocsin.providers.apns.payload import LIMIT_BYTES, VOIP_LIMIT_BYTES, payload
from tocsin.providers.apns.requests import ApnsRequest, HeaderBlock, push_type, topic_headers
from tocsin.providers.apns.routes import Routes, lane_name
from tocsin.providers.base import (
    AccountStatus,
    CheckResult,
    Context,
    CredentialError,
    Origin,
    Preview,
    Push,
    delivery_id,
)
from tocsin.providers.pools import open_pool

_MOST_BLOCKS: Final = 10_000


class Apns:
    """See `base.Provider`."""

    def __init__(self, options: ApnsOptions, context: Context) -> None:
        self.rules = ApnsRules()
        self.request_timeout_s = options.pool.request_timeout_s
        self._options = options
        self._context = context
        self._report = context.dispatcher.report
        self._routes = Routes()
        self._channels = Channels(options, context, self._open_pool)
        self._judge = ApnsJudge(self._channels, self._routes, context.wall_clock)
        self._blocks: dict[Route, HeaderBlock] = {}

    @property
    def unknown_answers(self) -> int:
        return self._judge.unknown_answers

    # -- sending -------------------------------------------------------------------------------------------------------

    def route(self, device: Device) -> Route:
        return self._routes.of(device.address)

    def send(self, pushes: Sequence[Push]) -> None:
        requests: dict[Channel, list[ApnsRequest]] = {}
        authorizations: dict[Channel, bytes | None] = {}
        failed: list[tuple[Push, Outcome]] = []
        blocks = self._blocks
        for push in pushes:
            block = blocks.get(push.route)
            if block is None:
                try:
                    block = self._block(push.route)
                except CredentialError as error:
                    failed.append((push, Misconfigured(Answer(0, str(error)))))
                    continue
            content = push.content
            body = content.payloads.get(block.payload_name)
            if body is None:
                try:
                    body = content.payloads[block.payload_name] = payload(content.event.body, block.limit_bytes)
                except ValueError as error:
                    failed.append((push, Refused(Answer(0, str(error)), our_bug=True)))
                    continue
            event, token, channel = content.event, push.device.token, block.channel
            if channel not in authorizations:
                authorizations[channel] = channel.authorization()
                requests[channel] = []
            headers = [
                *block.before_path,
                (b":path", b"/3/device/" + token.encode()),
                *block.signed(authorizations[channel], event.expires_ms // 1000),
                unindexed((b"apns-id", delivery_id(event.id, token).encode())),
            ]
            # Lanes of one key share its connections: none of them may take all streams.
            request = ApnsRequest(headers, body, event.message in URGENT, push.route.lane, push=push, channel=channel)
            requests[channel].append(request)
        for channel, batch in requests.items():
            channel.pool.send(batch)
        if failed:
            self._report(failed)

    def learned(self, push: Push) -> Address:
        return replace(parse(push.device.address), learned_sandbox=push.route.environment == SANDBOX).text()

    def resume(self) -> None:
        for pool in self._channels.pools:
            pool.resume()

    async def close(self) -> None:
        await self._channels.close()

    def _block(self, route: Route) -> HeaderBlock:
        block = HeaderBlock(self._channels.of(route.account, route.environment == SANDBOX), route)
        if len(self._blocks) >= _MOST_BLOCKS:
            self._blocks.clear()
        self._blocks[route] = block
        return block

    def _open_pool(self, url: str, tls: Callable[[], ssl.SSLContext]) -> Pool[ApnsRequest]:
        return open_pool(self._context, url, tls, self._finished, self._options.pool)

    # -- credentials ---------------------------------------------------------------------------------------------------

    def configure(self, credentials: Iterable[Credential]) -> set[str]:
        # Before: what is sent anew meanwhile is not to go to channels that are replaced.
        self._blocks.clear()
        changed = self._channels.configure({one.account: read_stored(one) for one in credentials})
        return {lane_name(id, sandbox) for id in changed for sandbox in (False, True)}

    def pools(self) -> Iterable[Pool[Any]]:
        return self._channels.pools

    def status(self) -> list[AccountStatus]:
        return [
            AccountStatus(id, one.kind, one.expires_s(), one.key_id or "", self._channels.token_age_s(id))
            for id, one in self._channels.credentials.items()
        ]

    def origins(self) -> list[Origin]:
        options = self._options
        proxy = options.pool.proxy
        return [
            Origin(options.production_url, "pushes", options.ca_file, proxy),
            Origin(options.sandbox_url, "pushes to the sandbox", options.ca_file, proxy, essential=False),
        ]

    def preview(self, event: Event, device: Device) -> Preview:
        route = self.route(device)
        kind = push_type(route.topic)
        url = self._options.sandbox_url if route.environment == SANDBOX else self._options.production_url
        headers = [
            *topic_headers(route.topic),
            (b"apns-expiration", b"%d" % (event.expires_ms // 1000)),
            (b"apns-id", delivery_id(event.id, device.token).encode()),
        ]
        body = payload(event.body, VOIP_LIMIT_BYTES if kind == b"voip" else LIMIT_BYTES)
        return Preview(
            f"{url}/3/device/{device.token}", [(name.decode(), value.decode()) for name, value in headers], body
        )

    async def check(self, account: str, *, sandbox: bool) -> CheckResult:
        credentials = self._channels.credentials
        return await check(
            account,
            credentials[account],
            self._options,
            network=self._context.network,
            sandbox=sandbox,
            other_teams=sorted({team_id(id) for id in credentials} - {team_id(account)}),
        )

    # -- answers -------------------------------------------------------------------------------------------------------

    def _finished(self, requests: list[ApnsRequest]) -> None:
        judge = self._judge.outcome
        # The answers of one pool: all requests went through one channel.
        token = requests[0].channel.token
        if token is not None and token.in_doubt:
            note_accepted(requests, token)
        outcomes: list[tuple[Push, Outcome]] = []
        for request in requests:
            if request.status == 200 and request.response_headers[-1][0] == b"apns-id":
                outcomes.append((request.push, DELIVERED))
            else:
                outcomes.append((request.push, judged(NAME, judge, request)))
        self._report(outcomes)
