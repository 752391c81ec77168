"""Every row of the two outcome tables, over TLS against the emulator: what it does to delivery, token, lane, time,
receipt and metric."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from structlog.testing import capture_logs
from tests.support.line import APPLICATION, PROJECT, Line, apns_device, fcm_device, make_event, running_line

from tocsin.domain.routes import LaneState
from tocsin.emulator.faults import Match, Rule
from tocsin.http2.pool import PoolOptions
from tocsin.providers.apns import answers as apns_answers
from tocsin.providers.fcm import answers as fcm_answers
from tocsin.store.records import Result, State

pytestmark = pytest.mark.slow

APNS_LANE = f"apns:production:{APPLICATION}"
SANDBOX_LANE = f"apns:sandbox:{APPLICATION}"
POOL = PoolOptions(request_timeout_s=0.5)
FCM_LANE = f"fcm:{PROJECT}"
NEVER = (0.0, 0.0)


class Case(Struct, frozen=True):
    """One answer and what must come of it. `again_s` are the bounds of the wait before the next attempt."""

    status: int
    reason: str
    result: Result
    again_s: tuple[float, float] = NEVER
    token_kept: bool = True
    lane: LaneState = LaneState.RUNNING
    rule: dict[str, Any] = {}
    attempts: int = 1
    failure: bool = False
    """Counts towards the lane's breaker."""


_AGES: dict[str, Any] = {"headers": {"retry-after": "9" * 400}}
_NOTHING: dict[str, Any] = {"headers": {"retry-after": "0"}}
AT_ITS_END = (3590.0, 3600.0)
"""Not after the event's lifetime."""
# No answer at all: the connection lost, the stream reset, the deadline passed.
_LINKS = [
    Case(0, "", Result.RETRY, (0, 2), rule={"status": None, "cut": "before_answer"}, failure=True),
    Case(0, "", Result.RETRY, (0, 2), rule={"status": None, "reset": 2}, failure=True),
    Case(0, "", Result.RETRY, (0, 2), rule={"status": None, "no_answer": True}, failure=True),
]


def _apns_cases() -> list[Case]:
    topic = [
        Case(400, reason, Result.MISCONFIGURED, (60, 60))
        for reason in ("DeviceTokenNotForTopic", "TopicDisallowed", "BadTopic", "MissingTopic")
    ]
    bugs = [
        Case(status, reason, Result.REFUSED)
        for status, reason in [
            (400, "BadCollapseId"), (400, "BadExpirationDate"), (400, "BadMessageId"), (400, "BadPriority"),
            (400, "InvalidPushType"), (400, "DuplicateHeaders"), (400, "MissingDeviceToken"), (400, "PayloadEmpty"),
            (404, "BadPath"), (405, "MethodNotAllowed"), (413, "PayloadTooLarge"),
        ]
    ]  # fmt: skip
    misconfigured = [
        Case(403, reason, Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED)
        for reason in (
            "InvalidProviderToken", "MissingProviderToken", "BadCertificate", "BadCertificateEnvironment",
            "UnrelatedKeyIdInToken", "BadEnvironmentKeyInToken", "BadEnvironmentKeyIdInToken", "Forbidden",
        )
    ]  # fmt: skip
    return [
        *topic,
        *bugs,
        *misconfigured,
        Case(200, "", Result.DELIVERED, rule={"status": None}),
        # A new provider token, at once; where Apple calls that one expired too, the clock is wrong.
        Case(403, "ExpiredProviderToken", Result.RETRY, (0, 0.1)),
        Case(403, "ExpiredProviderToken", Result.MISCONFIGURED, (120, 120), lane=LaneState.PAUSED, attempts=2),
        # Said in both environments: the token is dead.
        Case(400, "BadDeviceToken", Result.TOKEN_DEAD, token_kept=False, attempts=2),
        Case(400, "IdleTimeout", Result.RETRY, (0, 0.1)),
        Case(410, "Unregistered", Result.TOKEN_DEAD, token_kept=False),
        Case(410, "ExpiredToken", Result.TOKEN_DEAD, token_kept=False),
        Case(429, "TooManyRequests", Result.RETRY, (30, 30)),
        # Retry-After makes a wait longer, and never shorter.
        Case(429, "TooManyRequests", Result.RETRY, (30, 30), rule={"headers": {"retry-after": "7"}}),
        Case(429, "TooManyRequests", Result.RETRY, (70, 70), rule={"headers": {"retry-after": "70"}}),
        Case(429, "TooManyProviderTokenUpdates", Result.RETRY, (1250, 1260), lane=LaneState.PAUSED),
        Case(500, "InternalServerError", Result.RETRY, (0, 2), failure=True),
        Case(503, "ServiceUnavailable", Result.RETRY, (0, 2), failure=True),
        Case(503, "ServiceUnavailable", Result.RETRY, (11, 11), rule={"headers": {"retry-after": "11"}}, failure=True),
        Case(
            503, "ServiceUnavailable", Result.RETRY, (85, 90), rule={"headers": {"retry-after": "date"}}, failure=True
        ),
        Case(503, "ServiceUnavailable", Result.RETRY, (0, 2), rule={"headers": {"retry-after": "soon"}}, failure=True),
        Case(
            503,
            "ServiceUnavailable",
            Result.RETRY,
            AT_ITS_END,
            rule=_AGES,
            failure=True,
        ),
        Case(503, "ServiceUnavailable", Result.RETRY, (0, 2), rule=_NOTHING, failure=True),
        *_LINKS,
        Case(503, "Shutdown", Result.RETRY, (0, 0.1)),
        # What nobody has described, by its status or as stated for the unknown.
        Case(400, "SomethingNew", Result.REFUSED),
        Case(403, "SomethingNew", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED),
        Case(410, "SomethingNew", Result.RETRY, (0, 60)),
        Case(502, "", Result.RETRY, (0, 2), rule={"body": "<html>bad gateway</html>"}, failure=True),
        Case(504, "", Result.RETRY, (0, 2), rule={"body": "<html>gateway timeout</html>"}, failure=True),
        Case(418, "Teapot", Result.RETRY, (0, 60)),
    ]


def _fcm_cases() -> list[Case]:
    token_field = {"field": "message.token"}
    return [
        Case(200, "", Result.DELIVERED, rule={"status": None}),
        *_LINKS,
        Case(404, "UNREGISTERED", Result.TOKEN_DEAD, token_kept=False),
        Case(404, "", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED, rule={"html_404": True, "status": None}),
        Case(404, "", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED, rule={"body": "{}"}),
        Case(400, "INVALID_ARGUMENT", Result.TOKEN_DEAD, token_kept=False, rule=token_field, attempts=2),
        Case(400, "INVALID_ARGUMENT", Result.REFUSED, rule={"field": "message.data"}),
        Case(400, "INVALID_ARGUMENT", Result.REFUSED),
        Case(403, "SENDER_ID_MISMATCH", Result.TOKEN_DEAD, token_kept=False),
        Case(403, "PERMISSION_DENIED", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED),
        Case(403, "SOMETHING_NEW", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED),
        # A new access token, at once; then it is not the token.
        Case(401, "UNAUTHENTICATED", Result.RETRY, (0, 0.1)),
        # About one device: the project's others go on.
        Case(401, "THIRD_PARTY_AUTH_ERROR", Result.MISCONFIGURED, (60, 60)),
        Case(401, "UNAUTHENTICATED", Result.MISCONFIGURED, (120, 120), lane=LaneState.PAUSED, attempts=2),
        Case(429, "QUOTA_EXCEEDED", Result.RETRY, (60, 60), lane=LaneState.PAUSED),
        Case(429, "QUOTA_EXCEEDED", Result.RETRY, (60, 60), rule={"message": "device message rate exceeded"}),
        Case(
            429, "QUOTA_EXCEEDED", Result.RETRY, (60, 60), lane=LaneState.PAUSED, rule={"headers": {"retry-after": "0"}}
        ),
        Case(
            429,
            "RESOURCE_EXHAUSTED",
            Result.RETRY,
            (90, 90),
            lane=LaneState.PAUSED,
            rule={"headers": {"retry-after": "90"}},
        ),
        Case(500, "INTERNAL", Result.RETRY, (0, 2), failure=True),
        Case(503, "UNAVAILABLE", Result.RETRY, (10, 20), failure=True),
        Case(503, "UNAVAILABLE", Result.RETRY, (25, 25), rule={"headers": {"retry-after": "25"}}, failure=True),
        Case(502, "", Result.RETRY, (10, 20), rule={"body": "<html>bad gateway</html>"}, failure=True),
        Case(504, "", Result.RETRY, (10, 20), rule={"body": "<html>gateway timeout</html>"}, failure=True),
        Case(418, "TEAPOT", Result.RETRY, (0, 60)),
    ]


def test_no_row_of_either_table_is_left_out() -> None:
    apns = {(case.status, case.reason) for case in _apns_cases()}
    assert apns_answers.TABLE.keys() <= apns
    assert apns_answers.BY_STATUS.keys() <= {status for status, _ in apns} | {200}
    fcm = {(case.status, case.reason) for case in _fcm_cases()}
    assert fcm_answers.TABLE.keys() <= fcm
    assert fcm_answers.BY_STATUS.keys() <= {status for status, _ in fcm} | {200}


def _name(case: Case) -> str:
    retry_after = case.rule.get("headers", {}).get("retry-after", "")[:10]
    words = (str(case.status), case.reason, *case.rule, retry_after, "again" if case.attempts > 1 else "")
    return "-".join(word for word in words if word)


@pytest.mark.parametrize("case", _apns_cases(), ids=_name)
async def test_an_answer_of_apples_has_its_documented_consequence(case: Case, tmp_path: Path) -> None:
    async with running_line(tmp_path, pool=POOL) as line:
        device = apns_device()
        await _check(line, device, APNS_LANE, case)


@pytest.mark.parametrize("case", _fcm_cases(), ids=_name)
async def test_an_answer_of_googles_has_its_documented_consequence(case: Case, tmp_path: Path) -> None:
    async with running_line(tmp_path, pool=POOL) as line:
        device = fcm_device()
        await _check(line, device, FCM_LANE, case)


async def _check(line: Line, device: Any, lane_name: str, case: Case) -> None:
    rule = {"status": case.status, "reason": case.reason} | case.rule
    # A dead token's 410 is from after its registration.
    if case.status == 410:
        rule["timestamp"] = int(time.time() * 1000) + 60_000
    if rule.get("headers") == {"retry-after": "date"}:
        rule["headers"] = {"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)}
    if case.status != 200:
        line.script(Rule(match=Match(token=device.token), times=case.attempts, **rule))
    await line.register(device)
    event = make_event()
    await line.append(event)
    record = await line.attempted(event, case.attempts)

    attempt = record.attempts[case.attempts - 1]
    assert attempt.result == case.result
    assert attempt.device == device.key
    assert attempt.status == case.status
    assert attempt.reason == case.reason or case.status == 0
    # Apple's other environment is another lane.
    assert attempt.lane == (SANDBOX_LANE if case.reason == "BadDeviceToken" else lane_name)
    assert line.lane(attempt.lane).state is case.lane
    assert line.metric(attempt.lane, case.result, case.reason if case.status else "link") == 1
    if case.failure or case.result is not Result.RETRY:
        assert line.dispatcher.lanes[attempt.lane].breaker.in_a_row == int(case.failure)
    if case.result is Result.DELIVERED and lane_name == FCM_LANE:
        assert attempt.provider_id
    assert bool(await line.store.registry.find(device.token)) is case.token_kept
    if case.again_s == NEVER:
        assert record.state in (State.DONE, State.DEAD)
        assert record.waiting == []
        assert (record.state is State.DEAD) == (case.result is Result.REFUSED)
    else:
        least, most = case.again_s
        assert attempt.retry_at_ms is not None
        assert least - 0.2 <= (attempt.retry_at_ms - attempt.at_ms) / 1000 <= most + 0.2
        if least > 1:
            assert [(parked.targets, parked.due_ms) for parked in record.waiting] == [
                ((device.key,), attempt.retry_at_ms)
            ]
        elif most < 1:
            [record] = await line.finished(event)
            assert record.attempts[-1].result == Result.DELIVERED


async def test_a_refusal_is_logged_with_its_event_its_lane_and_the_field_that_google_names(tmp_path: Path) -> None:
    async with running_line(tmp_path, pool=POOL) as line:
        device = fcm_device()
        line.script(Rule(status=400, reason="INVALID_ARGUMENT", field="message.data"))
        await line.register(device)
        event = make_event()
        with capture_logs() as lines:
            await line.append(event)
            await line.attempted(event)
        (told,) = [one for one in lines if one["event"] == "delivery failed"]
        assert (told["event_id"], told["lane"], told["fields"]) == (event.id, FCM_LANE, ("message.data",))
        assert device.token not in str(lines)
