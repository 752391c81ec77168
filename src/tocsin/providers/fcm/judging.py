"""From an answer of Google's to an outcome: the rows are in `answers.py`, what a row asks for is done here.

Source: Google, "FCM error codes".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

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
from tocsin.providers.answers import (
    AT_ONCE,
    UNREADABLE,
    authorization_of,
    field_of,
    id_of,
    log_unknown,
    no_answer,
    retry_after_s,
)
from tocsin.providers.base import Push
from tocsin.providers.fcm.address import NAME
from tocsin.providers.fcm.answers import Act, ErrorBody, Row, find_row, read_body
from tocsin.providers.fcm.projects import FcmRequest, Projects
from tocsin.providers.fcm.routes import make_route

_MOST_FIELDS: Final = 10


class FcmJudge:
    def __init__(self, projects: Projects, clock: Callable[[], float]) -> None:
        self._projects = projects
        self._clock = clock
        self.unknown_answers = 0

    def outcome(self, request: FcmRequest) -> Outcome:
        """What the answer to a request means, or that there was none."""
        if request.status == 200:
            return Delivered(Answer(200, ""), _message_name(request.response_body))
        if request.failure is not None:
            return no_answer(request.failure)
        body = read_body(request.response_body)
        row, known = find_row(request.status, body)
        answer = Answer(request.status, body.code)
        if not known:
            self.unknown_answers += 1
            log_unknown(NAME, request, body.code, row.act.name)
        outcome = self._consequence(request, row, answer, body)
        if isinstance(outcome, Misconfigured) and request.project.replaced:
            return RetryLater(answer, AT_ONCE)
        return outcome

    def _consequence(self, request: FcmRequest, row: Row, answer: Answer, body: ErrorBody) -> Outcome:
        push = request.push
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
                after_s = retry_after_s(request, self._clock())
                return RetryLater(answer, row.backoff, after_s, failure=row.failure)
            case Act.RATE:
                scope = Scope.DEVICE if "device" in body.message.lower() else Scope.LANE
                return RetryLater(answer, row.backoff, retry_after_s(request, self._clock()), scope=scope)
            case Act.NEW_ACCESS_TOKEN:
                if request.project.access.expired(authorization_of(request)):
                    return RetryLater(answer, AT_ONCE)
                return Misconfigured(answer)
            case Act.MISCONFIGURED:
                return Misconfigured(answer)
            case Act.MISCONFIGURED_DEVICE:
                return Misconfigured(answer, Scope.DEVICE)

    def _judge_field(self, push: Push, answer: Answer, body: ErrorBody) -> Outcome:
        if not any(field in ("message.token", "message.fid") for field in body.fields):
            return Refused(answer, our_bug=True, fields=tuple(map(field_of, body.fields[:_MOST_FIELDS])))
        other = make_route(push.route.account, "token" if push.route.variant == "fid" else "fid")
        if other in push.tried:
            return TokenDead(answer)
        return RetryLater(answer, AT_ONCE, next_route=other)

    def _other_project(self, push: Push, answer: Answer) -> Outcome:
        for name in self._projects.accounts:
            other = make_route(name, push.route.variant)
            if other != push.route and other not in push.tried:
                return RetryLater(answer, AT_ONCE, next_route=other)
        return TokenDead(answer)


def _message_name(body: bytes) -> str:
    """`{"name": "projects/p/messages/0:123%abc"}`: the last part is Google's id for the message."""
    try:
        name = msgspec.json.decode(body, type=dict[str, str]).get("name", "")
    except UNREADABLE:
        return ""
    return id_of(name.rpartition("/")[2])
