"""Google: data messages to `/v1/projects/<project>/messages:send`, one pool of connections per project.

Source: Google, "FCM HTTP v1 API", projects.messages; "Best practices when sending FCM messages at scale".
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from tocsin.domain.devices import Device
from tocsin.domain.events import URGENT
from tocsin.domain.lanes import Route, fcm_lane
from tocsin.domain.outcomes import (
    Answer,
    Backoff,
    Delivered,
    Misconfigured,
    Outcome,
    Refused,
    RetryLater,
    Scope,
    TokenDead,
)
from tocsin.http2.dial import client_tls
from tocsin.http2.messages import Failure, FailureKind, Header, Request
from tocsin.http2.pool import Pool, PoolOptions
from tocsin.providers.answers import (
    AT_ONCE,
    UNREADABLE,
    WITHDRAWN,
    authorization_of,
    judged,
    log_unknown,
    no_answer,
    retry_after_s,
    withdrawn_requests,
)
from tocsin.providers.base import Push, Report, ToWithdraw, none_withdrawn
from tocsin.providers.credentials import AccessToken
from tocsin.providers.fcm_answers import Act, ErrorBody, find_row, read_body

log = structlog.get_logger(__name__)

# A Firebase installation id: 17 bytes in base64url, the first four bits 0111 (firebase-installations).
_INSTALLATION_ID: Final = re.compile(r"[c-f][A-Za-z0-9_-]{21}")
_LONGEST_TTL_S: Final = 28 * 24 * 3600
"""Google refuses more; a clock that went back a little since the event was accepted would ask for it."""
_TOKEN_FAULT: Final = Backoff(2.0, 60.0)
_encode_text = msgspec.json.Encoder().encode


class FcmCredential(Struct, frozen=True):
    """One Firebase project with its service account (JSON); one project is the default.

    `project` is what the operator calls it; Google's own id stands in the service account.
    """

    project: str
    service_account: str
    default: bool

    @property
    def path(self) -> str:
        return f"/v1/projects/{msgspec.json.decode(self.service_account)['project_id']}/messages:send"


class FcmOptions(Struct, frozen=True):
    url: str
    ca_file: Path | None
    pool: PoolOptions
    priority: dict[str, str]
    """`android.priority` by event."""


def address_field(token: str) -> str:
    """The field of `message` that a stored token belongs into: `fid` for an installation id, else `token`."""
    return "fid" if _INSTALLATION_ID.fullmatch(token) else "token"


class _Project:
    """One project's connections and access token, and the pushes that wait for the first token."""

    def __init__(self, pool: Pool, access: AccessToken, path: bytes) -> None:
        self.pool = pool
        self.access = access
        self.waiting: list[Push] = []
        self.getting_ready: asyncio.Task[None] | None = None
        self.replaced = False
        """The service account is no longer in use: what its last answers say of it is no longer true."""
        self.head: list[Header] = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", pool.authority),
            (b":path", path),
        ]


class Fcm:
    """See `base.Provider`."""

    def __init__(
        self,
        options: FcmOptions,
        report: Report,
        to_withdraw: ToWithdraw = none_withdrawn,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._report = report
        self._to_withdraw = to_withdraw
        self._clock = clock
        self._credentials: dict[str, FcmCredential] = {}
        self._default = ""
        self._projects: dict[str, _Project] = {}
        self._retired: list[_Project] = []
        self._routes: dict[tuple[str, str], Route] = {}
        self._tls: ssl.SSLContext | None = None
        self.unknown_answers = 0

    # -- what the dispatcher asks --------------------------------------------------------------------------------------

    def route(self, device: Device) -> Route:
        project = device.learned_project
        if project is None or project not in self._credentials:
            project = self._default
        return self._route(project, device.learned_field or address_field(device.token))

    def send(self, pushes: Sequence[Push]) -> None:
        failed: list[tuple[Push, Outcome]] = []
        by_project: dict[str, list[Push]] = {}
        for push in pushes:
            by_project.setdefault(push.route.lane.removeprefix("fcm:"), []).append(push)
        for name, own in by_project.items():
            project = self._project(name)
            if project is None:
                reason = f"FCM project {name or '(default)'} is not registered; add it with `tocsin fcm add`"
                failed += [(push, Misconfigured(Answer(0, reason))) for push in own]
                continue
            authorization = project.access.header()
            if authorization is None:
                project.waiting += own
                if project.getting_ready is None:
                    project.getting_ready = asyncio.get_running_loop().create_task(self._when_ready(project))
            else:
                failed += self._send(project, authorization, own)
        if failed:
            self._report(failed)

    async def close(self) -> None:
        for project in [*self._projects.values(), *self._retired]:
            if project.getting_ready is not None:
                project.getting_ready.cancel()
            await project.access.close()
            await project.pool.close()
            if project.waiting:
                unsent = no_answer(Failure(FailureKind.CONNECT, "tocsin is stopping", unknown=False))
                self._report([(push, unsent) for push in project.waiting])
                project.waiting = []

    # -- credentials ---------------------------------------------------------------------------------------------------

    def configure(self, credentials: Iterable[FcmCredential]) -> set[str]:
        """Take over the projects as they are now; returns those whose service account is new or changed."""
        new = {credential.project: credential for credential in credentials}
        changed = {name for name, credential in new.items() if self._credentials.get(name) != credential}
        changed |= self._credentials.keys() - new.keys()
        self._credentials = new
        self._default = next((name for name, credential in new.items() if credential.default), "")
        for name in changed & self._projects.keys():
            project = self._projects.pop(name)
            project.replaced = True
            project.pool.wind_up()
            self._retired.append(project)
        self._retired = [project for project in self._retired if project.waiting or not project.pool.idle]
        return changed

    def pools(self) -> Iterable[Pool]:
        return [project.pool for project in self._projects.values()]

    def _project(self, name: str) -> _Project | None:
        project = self._projects.get(name)
        credential = self._credentials.get(name)
        if project is None and credential is not None:
            if self._tls is None:
                self._tls = client_tls(self._options.ca_file)
            tls = self._tls
            withdrawn = partial(withdrawn_requests, self._to_withdraw)
            pool = Pool(self._options.url, lambda: tls, self._finished, self._options.pool, withdrawn=withdrawn)
            access = AccessToken(
                credential.service_account, self._options.ca_file, self._options.pool.proxy, self._clock
            )
            project = self._projects[name] = _Project(pool, access, credential.path.encode())
        return project

    async def _when_ready(self, project: _Project) -> None:
        try:
            authorization = await project.access.ready()
        except Exception as error:
            log.exception("fcm: no access token")
            project.access.error, authorization = str(error), None
        finally:
            project.getting_ready = None
        waiting, project.waiting = project.waiting, []
        if project.replaced:
            # Whatever became of the old account: the new one delivers what has waited for it.
            self.send(waiting)
            return
        if withdrawn := set(self._to_withdraw(waiting)):
            self._report([(push, WITHDRAWN) for push in waiting if push in withdrawn])
            waiting = [push for push in waiting if push not in withdrawn]
        if authorization is not None:
            if failed := self._send(project, authorization, waiting):
                self._report(failed)
            return
        answer = Answer(0, f"no access token: {project.access.error}")
        outcome: Outcome = (
            Misconfigured(answer)
            if project.access.rejected
            else RetryLater(answer, _TOKEN_FAULT, fault=True, scope=Scope.LANE)
        )
        self._report([(push, outcome) for push in waiting])

    # -- requests ------------------------------------------------------------------------------------------------------

    def _send(self, project: _Project, authorization: bytes, pushes: Sequence[Push]) -> list[tuple[Push, Outcome]]:
        now = self._clock()
        now_us = int(now * 1e6)
        headers: list[Header] = [
            *project.head,
            (b"authorization", authorization),
            (b"content-type", b"application/json"),
        ]
        requests: list[Request] = []
        failed: list[tuple[Push, Outcome]] = []
        priorities = self._options.priority
        for push in pushes:
            event = push.rendering.event
            try:
                data = push.rendering.fcm()
            except ValueError as error:
                failed.append((push, Refused(Answer(0, str(error)), our_bug=True)))
                continue
            # Rounded up: a whole lifetime minus the milliseconds of its way is still the whole lifetime.
            ttl_s = min(_LONGEST_TTL_S, max(0, -int(-(event.expires_ms / 1000 - now) // 1)))
            body = b'{"message":{"%s":%s,"data":%s,"android":{"priority":"%s","ttl":"%ds"}}}' % (
                push.route.field.encode(),
                _encode_text(push.device.token),
                data,
                priorities[event.message].encode(),
                ttl_s,
            )
            push.sent_us = now_us
            push.via = project
            requests.append(Request(headers, body, push, event.message in URGENT))
        project.pool.send(requests)
        return failed

    def _route(self, project: str, field: str) -> Route:
        key = (project, field)
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = Route(fcm_lane(project), field)
        return route

    # -- answers -------------------------------------------------------------------------------------------------------

    def _finished(self, requests: list[Request]) -> None:
        outcomes: list[tuple[Push, Outcome]] = []
        for request in requests:
            outcome = judged("fcm", self._judge, request)
            if isinstance(outcome, Misconfigured) and request.context.via.replaced:
                outcome = RetryLater(outcome.answer, AT_ONCE)
            outcomes.append((request.context, outcome))
        self._report(outcomes)

    def _judge(self, request: Request) -> Outcome:
        push: Push = request.context
        if request.status == 200:
            return Delivered(Answer(200, ""), _message_name(request.response_body))
        if request.failure is not None:
            return no_answer(request.failure)
        body = read_body(request.response_body)
        row, known = find_row(request.status, body)
        answer = Answer(request.status, body.code)
        if not known:
            self.unknown_answers += 1
            log_unknown("fcm", request, body.code, row.act.name)
        match row.act:
            case Act.DELIVERED:
                return Delivered(answer)
            case Act.TOKEN_DEAD:
                return TokenDead(answer)
            case Act.JUDGE_FIELD:
                return self._judge_field(push, answer, body)
            case Act.OTHER_PROJECT:
                return self._other_project(push, answer)
            case Act.RETRY:
                return RetryLater(
                    answer, row.backoff, retry_after_s(request, self._clock()), scope=row.scope, fault=row.fault
                )
            case Act.RATE:
                scope = Scope.DEVICE if "device" in body.message.lower() else Scope.LANE
                after_s = retry_after_s(request, self._clock())
                pause_s = (after_s or row.backoff.first_s) if scope is Scope.LANE else None
                return RetryLater(answer, row.backoff, after_s, scope=scope, pause_s=pause_s)
            case Act.NEW_ACCESS_TOKEN:
                project: _Project = push.via
                if project.access.expired(authorization_of(request)):
                    return RetryLater(answer, AT_ONCE)
                return Misconfigured(answer)
            case Act.MISCONFIGURED:
                return Misconfigured(answer)

    def _judge_field(self, push: Push, answer: Answer, body: ErrorBody) -> Outcome:
        if not any(field in ("message.token", "message.fid") for field in body.fields):
            return Refused(answer, our_bug=True)
        project = push.route.lane.removeprefix("fcm:")
        other = self._route(project, "token" if push.route.field == "fid" else "fid")
        if other in push.tried:
            return TokenDead(answer)
        return RetryLater(answer, AT_ONCE, next_route=other)

    def _other_project(self, push: Push, answer: Answer) -> Outcome:
        for name in self._credentials:
            other = self._route(name, push.route.field)
            if other != push.route and other not in push.tried:
                return RetryLater(answer, AT_ONCE, next_route=other)
        return TokenDead(answer)


def _message_name(body: bytes) -> str:
    """`{"name": "projects/p/messages/0:123%abc"}`: the last part is Google's id for the message."""
    try:
        name = msgspec.json.decode(body, type=dict[str, str]).get("name", "")
    except UNREADABLE:
        return ""
    return name.rpartition("/")[2]
