"""Google as a provider: pushes in, requests to `messages:send` out, answers in, outcomes out.

Source: Google, "FCM HTTP v1 API", projects.messages; "Best practices when sending FCM messages at scale".
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import structlog

from tocsin.domain.credentials import Credential
from tocsin.domain.devices import Address, Device
from tocsin.domain.events import URGENT, Event
from tocsin.domain.outcomes import Answer, Backoff, Misconfigured, Outcome, Refused, RetryLater
from tocsin.domain.routes import Route
from tocsin.http2.messages import Failure, FailureKind, Header
from tocsin.http2.pool import Pool
from tocsin.providers.answers import WITHDRAWN, judged, no_answer, note_accepted
from tocsin.providers.base import AccountStatus, CheckResult, Context, Origin, Preview, Push
from tocsin.providers.fcm.address import NAME, FcmAddress, FcmRules, address_field, parse
from tocsin.providers.fcm.check import check
from tocsin.providers.fcm.credentials import read_stored
from tocsin.providers.fcm.judging import FcmJudge
from tocsin.providers.fcm.oauth import HttpOAuthClient, OAuthClient
from tocsin.providers.fcm.payload import data
from tocsin.providers.fcm.projects import FcmOptions, FcmRequest, Project, Projects
from tocsin.providers.fcm.routes import lane_name, make_route
from tocsin.providers.fcm.token_endpoint import origin, why_not
from tocsin.providers.pools import open_pool

log = structlog.get_logger(__name__)

_LONGEST_TTL_S: Final = 28 * 24 * 3600
"""Google refuses more; a clock that went back a little since the event was accepted would ask for it."""
_NO_TOKEN_BACKOFF: Final = Backoff(2.0, 60.0)
_STOPPING: Final = Failure(FailureKind.CONNECT, "tocsin is stopping", unknown=False)
_MESSAGE: Final = b'{"message":{"%s":%s,"data":%s,"android":{"priority":"%s","ttl":"%ds"}}}'
_encode_text = msgspec.json.Encoder().encode


class Fcm:
    """See `base.Provider`."""

    def __init__(self, options: FcmOptions, context: Context, oauth: OAuthClient | None = None) -> None:
        self.rules = FcmRules()
        self.request_timeout_s = options.pool.request_timeout_s
        self._options = options
        self._context = context
        self._report = context.dispatcher.report
        if oauth is None:
            oauth = HttpOAuthClient(options.token_hosts, options.ca_file, options.pool.proxy)
        self._projects = Projects(options, context, oauth, self._open_pool)
        self._judge = FcmJudge(self._projects, context.wall_clock)

    @property
    def unknown_answers(self) -> int:
        return self._judge.unknown_answers

    # -- sending -------------------------------------------------------------------------------------------------------

    def route(self, device: Device) -> Route:
        learned = parse(device.address)
        project = learned.project
        if project is None or project not in self._projects.accounts:
            project = self._projects.default
        return make_route(project, learned.field or address_field(device.token))

    def send(self, pushes: Sequence[Push]) -> None:
        failed: list[tuple[Push, Outcome]] = []
        by_project: dict[str, list[Push]] = {}
        for push in pushes:
            by_project.setdefault(push.route.account, []).append(push)
        for name, own in by_project.items():
            project = self._projects.of(name)
            if project is None:
                reason = f"FCM project {name or '(default)'} is not registered; add it with `tocsin fcm add`"
                failed += [(push, Misconfigured(Answer(0, reason))) for push in own]
                continue
            # Behind those that wait: the token may be there already, and they are not on their way yet.
            authorization = project.access.header() if project.getting_ready is None else None
            if authorization is None:
                project.waiting += own
                if project.getting_ready is None:
                    project.getting_ready = asyncio.get_running_loop().create_task(self._when_ready(project))
            else:
                failed += self._send(project, authorization, own)
        if failed:
            self._report(failed)

    def learned(self, push: Push) -> Address:
        return FcmAddress(push.route.account, push.route.variant).text()

    def resume(self) -> None:
        for pool in self._projects.pools:
            pool.resume()

    async def close(self) -> None:
        if unsent := await self._projects.close():
            self._report([(push, no_answer(_STOPPING)) for push in unsent])

    async def _when_ready(self, project: Project) -> None:
        try:
            authorization = await project.access.ready()
        finally:
            project.getting_ready = None
        waiting, project.waiting = project.waiting, []
        if not waiting:
            return  # the account was replaced, and the new one delivers what has waited for this one
        withdrawn = set(self._context.dispatcher.withdrawn(waiting))
        outcomes: list[tuple[Push, Outcome]] = [(push, WITHDRAWN) for push in waiting if push in withdrawn]
        waiting = [push for push in waiting if push not in withdrawn]
        if authorization is not None:
            # Before anything is reported: the lane sends others in place of what has ended, and they come after these.
            outcomes += self._send(project, authorization, waiting)
        else:
            answer = Answer(0, f"no access token: {project.access.error}")
            outcome: Outcome = (
                Misconfigured(answer)
                if project.access.rejected
                # All pushes of the project fail with it: so it says as much of the provider as a connection that fails.
                else RetryLater(answer, _NO_TOKEN_BACKOFF, failure=True, shared_failure=True)
            )
            outcomes += [(push, outcome) for push in waiting]
        if outcomes:
            self._report(outcomes)

    def _send(self, project: Project, authorization: bytes, pushes: Sequence[Push]) -> list[tuple[Push, Outcome]]:
        """Returns those that could not be rendered."""
        now = self._context.wall_clock()
        headers: list[Header] = [
            *project.head,
            (b"authorization", authorization),
            (b"content-type", b"application/json"),
        ]
        requests: list[FcmRequest] = []
        failed: list[tuple[Push, Outcome]] = []
        priorities = self._options.priority
        for push in pushes:
            content = push.content
            event = content.event
            rendered = content.payloads.get(NAME)
            if rendered is None:
                try:
                    rendered = content.payloads[NAME] = data(event.body)
                except ValueError as error:
                    failed.append((push, Refused(Answer(0, str(error)), our_bug=True)))
                    continue
            # Rounded up: a whole lifetime minus the milliseconds of its way is still the whole lifetime.
            ttl_s = min(_LONGEST_TTL_S, max(0, -int(-(event.expires_ms / 1000 - now) // 1)))
            body = _MESSAGE % (
                push.route.variant.encode(),
                _encode_text(push.device.token),
                rendered,
                priorities[event.message].encode(),
                ttl_s,
            )
            requests.append(FcmRequest(headers, body, event.message in URGENT, push=push, project=project))
        project.pool.send(requests)
        return failed

    def _open_pool(self, url: str, tls: Callable[[], ssl.SSLContext]) -> Pool[FcmRequest]:
        return open_pool(self._context, url, tls, self._finished, self._options.pool)

    # -- credentials ---------------------------------------------------------------------------------------------------

    def configure(self, credentials: Iterable[Credential]) -> set[str]:
        found = list(credentials)
        default = next((one.account for one in found if one.default), "")
        changed = self._projects.configure({one.account: read_stored(one) for one in found}, default)
        # What waited for any project to be there waits under no name.
        return {lane_name(name) for name in (*changed, "")} if changed else set()

    def pools(self) -> Iterable[Pool[Any]]:
        return self._projects.pools

    def status(self) -> list[AccountStatus]:
        projects = self._projects
        return [
            AccountStatus(name, "service account", token_age_s=projects.token_age_s(name)) for name in projects.accounts
        ]

    def origins(self) -> list[Origin]:
        options = self._options
        proxy = options.pool.proxy
        endpoints = {account.token_uri for account in self._projects.accounts.values()}
        asked = sorted({origin(uri) for uri in endpoints if why_not(uri, options.token_hosts) is None})
        return [
            Origin(options.url, "pushes", options.ca_file, proxy),
            *(Origin(url, "access tokens", options.ca_file, proxy, http2=False) for url in asked),
        ]

    def preview(self, event: Event, device: Device) -> Preview:
        route = self.route(device)
        account = self._projects.accounts.get(route.account)
        if account is None:
            raise ValueError(f"FCM project {route.account or '(default)'} is not registered")
        ttl_s = min(_LONGEST_TTL_S, max(0, int(event.expires_ms / 1000 - self._context.wall_clock())))
        priority = self._options.priority[event.message].encode()
        body = _MESSAGE % (route.variant.encode(), _encode_text(device.token), data(event.body), priority, ttl_s)
        return Preview(self._options.url + account.path, [("content-type", "application/json")], body)

    async def check(self, account: str, *, sandbox: bool) -> CheckResult:
        return await check(account, self._projects.accounts[account], self._options, network=self._context.network)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _finished(self, requests: list[FcmRequest]) -> None:
        judge = self._judge.outcome
        # The answers of one pool: all requests went to one project.
        access = requests[0].project.access
        if access.in_doubt:
            note_accepted(requests, access)
        self._report([(request.push, judged(NAME, judge, request)) for request in requests])
