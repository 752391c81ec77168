"""From an answer of Apple's to an outcome: the rows are in `answers.py`, what a row asks for is done here.

Source: Apple, "Handling notification responses from APNs".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

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
from tocsin.domain.routes import Route
from tocsin.providers.answers import AT_ONCE, authorization_of, id_of, log_unknown, no_answer, retry_after_s
from tocsin.providers.apns.address import NAME, bundle_id
from tocsin.providers.apns.answers import Act, Row, find_row, read_body
from tocsin.providers.apns.channels import Channels
from tocsin.providers.apns.provider_token import LEAST_AGE_S
from tocsin.providers.apns.requests import ApnsRequest
from tocsin.providers.apns.routes import Routes, make_route
from tocsin.providers.base import Push

# `apns-id` is the one that was sent, and so needs no record; the sandbox gives an id of its own besides.
DELIVERED: Final = Delivered(Answer(200, ""))
_CLOCKS_DIFFER_S: Final = 86_400.0


class ApnsJudge:
    def __init__(self, channels: Channels, routes: Routes, clock: Callable[[], float]) -> None:
        self._channels = channels
        self._routes = routes
        self._clock = clock
        self.unknown_answers = 0

    def outcome(self, request: ApnsRequest) -> Outcome:
        """What the answer to a request means, or that there was none."""
        if request.failure is not None:
            return no_answer(request.failure)
        body = read_body(request.response_body)
        row, known = find_row(request.status, body.reason)
        answer = Answer(request.status, body.reason)
        if not known:
            self.unknown_answers += 1
            log_unknown(NAME, request, body.reason, row.act.name)
        outcome = self._consequence(request, row, answer, body.timestamp)
        of_credential = isinstance(outcome, Misconfigured) or (isinstance(outcome, RetryLater) and outcome.pause_also)
        if of_credential and not self._channels.serves(request.channel, request.push.route):
            return RetryLater(answer, AT_ONCE)
        return outcome

    def _consequence(self, request: ApnsRequest, row: Row, answer: Answer, timestamp_ms: int | None) -> Outcome:
        push, channel = request.push, request.channel
        match row.act:
            case Act.DELIVERED:
                id = request.response_header(b"apns-unique-id")
                return Delivered(answer, id_of(id.decode("latin-1"))) if id else DELIVERED
            case Act.OTHER_ENVIRONMENT:
                return self._other_environment(push, answer)
            case Act.TOKEN_DEAD:
                return TokenDead(answer, self._plausible(timestamp_ms))
            case Act.RETRY:
                after_s = retry_after_s(request, self._clock())
                return RetryLater(answer, row.backoff, after_s, failure=row.failure)
            case Act.RETRY_NEW_CONNECTION:
                # The one it came on, and older ones: each of its neighbours on that connection gets this answer too.
                channel.pool.retire(opened_until=request.connection_opened, why=answer.reason)
                return RetryLater(answer, AT_ONCE)
            case Act.NEW_PROVIDER_TOKEN:
                if channel.token is not None and channel.token.expired(authorization_of(request)):
                    return RetryLater(answer, AT_ONCE)
                return Misconfigured(answer)
            case Act.PAUSE_KEY:
                age_s = channel.token.age_s if channel.token is not None else 0.0
                pause_s = max(1.0, LEAST_AGE_S - age_s)
                same = self._routes_with_the_key_of(push)
                return RetryLater(answer, row.backoff, pause_s, scope=Scope.LANE, pause_also=same)
            case Act.REFUSED:
                return Refused(answer)
            case Act.OUR_BUG:
                return Refused(answer, our_bug=True)
            case Act.MISCONFIGURED:
                return Misconfigured(answer)
            case Act.MISCONFIGURED_TOPIC:
                return Misconfigured(answer, Scope.TOPIC)
            case Act.MISCONFIGURED_DEVICE:
                return Misconfigured(answer, Scope.DEVICE)

    def _other_environment(self, push: Push, answer: Answer) -> Outcome:
        # Only both environments together are a verdict: whatever else the other one answers says nothing of the token.
        other = self._routes.other_environment(push.route)
        if other in push.tried:
            return TokenDead(answer)
        return RetryLater(answer, AT_ONCE, next_route=other)

    def _plausible(self, timestamp_ms: int | None) -> int | None:
        """Since when a token is dead, where a clock can have shown that. One in the future would outlive every
        registration that is made until then."""
        latest_ms = (self._clock() + _CLOCKS_DIFFER_S) * 1000
        return timestamp_ms if timestamp_ms is not None and 0 < timestamp_ms <= latest_ms else None

    def _routes_with_the_key_of(self, push: Push) -> tuple[Route, ...]:
        """One route of every lane that uses the same provider token."""
        same = self._channels.applications_with_the_key_of(push.route.account)
        return tuple(make_route(id, sandbox, bundle_id(id)) for id in same for sandbox in (False, True))
