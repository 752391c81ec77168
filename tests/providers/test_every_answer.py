"""Every row of the two outcome tables, over TLS against the emulator: what it does to delivery, token, lane, time,
receipt and metric."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from tests.support.line import APPLICATION, PROJECT, Line, apns_device, fcm_device, make_event, running_line

from tocsin.domain.lanes import LaneState
from tocsin.emulator.faults import Match, Rule
from tocsin.providers import apns_answers, fcm_answers
from tocsin.store.ports import Result, State

APNS_LANE = f"apns:production:{APPLICATION}"
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
        # The provider token is new, so that Apple calling it expired means a wrong clock.
        Case(403, "ExpiredProviderToken", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED),
        # Said in both environments: the token is dead.
        Case(400, "BadDeviceToken", Result.TOKEN_DEAD, token_kept=False, attempts=2),
        Case(400, "IdleTimeout", Result.RETRY, (0, 0.1)),
        Case(410, "Unregistered", Result.TOKEN_DEAD, token_kept=False),
        Case(410, "ExpiredToken", Result.TOKEN_DEAD, token_kept=False),
        Case(429, "TooManyRequests", Result.RETRY, (30, 30)),
        Case(429, "TooManyRequests", Result.RETRY, (7, 7), rule={"headers": {"retry-after": "7"}}),
        Case(429, "TooManyProviderTokenUpdates", Result.RETRY, (1190, 1200), lane=LaneState.PAUSED),
        Case(500, "InternalServerError", Result.RETRY, (0, 2)),
        Case(503, "ServiceUnavailable", Result.RETRY, (0, 2)),
        Case(503, "ServiceUnavailable", Result.RETRY, (11, 11), rule={"headers": {"retry-after": "11"}}),
        Case(503, "Shutdown", Result.RETRY, (0, 0.1)),
        # What nobody has described, by its status or as stated for the unknown.
        Case(400, "SomethingNew", Result.REFUSED),
        Case(403, "SomethingNew", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED),
        Case(410, "SomethingNew", Result.RETRY, (0, 60)),
        Case(502, "", Result.RETRY, (0, 2), rule={"body": "<html>bad gateway</html>"}),
        Case(504, "", Result.RETRY, (0, 2), rule={"body": "<html>gateway timeout</html>"}),
        Case(418, "Teapot", Result.RETRY, (0, 60)),
    ]


def _fcm_cases() -> list[Case]:
    token_field = {"field": "message.token"}
    return [
        Case(404, "UNREGISTERED", Result.TOKEN_DEAD, token_kept=False),
        Case(404, "", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED, rule={"html_404": True, "status": None}),
        Case(404, "", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED, rule={"body": "{}"}),
        Case(400, "INVALID_ARGUMENT", Result.TOKEN_DEAD, token_kept=False, rule=token_field, attempts=2),
        Case(400, "INVALID_ARGUMENT", Result.REFUSED, rule={"field": "message.data"}),
        Case(400, "INVALID_ARGUMENT", Result.REFUSED),
        Case(403, "SENDER_ID_MISMATCH", Result.TOKEN_DEAD, token_kept=False),
        Case(403, "PERMISSION_DENIED", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED),
        Case(403, "SOMETHING_NEW", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED),
        # The access token has just been issued, so that a new one would not help.
        Case(401, "UNAUTHENTICATED", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED),
        Case(401, "THIRD_PARTY_AUTH_ERROR", Result.MISCONFIGURED, (60, 60), lane=LaneState.PAUSED),
        Case(429, "QUOTA_EXCEEDED", Result.RETRY, (60, 60), lane=LaneState.PAUSED),
        Case(429, "QUOTA_EXCEEDED", Result.RETRY, (60, 60), rule={"message": "device message rate exceeded"}),
        Case(
            429,
            "RESOURCE_EXHAUSTED",
            Result.RETRY,
            (9, 9),
            lane=LaneState.PAUSED,
            rule={"headers": {"retry-after": "9"}},
        ),
        Case(500, "INTERNAL", Result.RETRY, (0, 2)),
        Case(503, "UNAVAILABLE", Result.RETRY, (10, 20)),
        Case(503, "UNAVAILABLE", Result.RETRY, (25, 25), rule={"headers": {"retry-after": "25"}}),
        Case(502, "", Result.RETRY, (10, 20), rule={"body": "<html>bad gateway</html>"}),
        Case(504, "", Result.RETRY, (10, 20), rule={"body": "<html>gateway timeout</html>"}),
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
    return f"{case.status}-{case.reason or 'no-reason'}-{'-'.join(case.rule)}".rstrip("-")


@pytest.mark.parametrize("case", _apns_cases(), ids=_name)
async def test_an_answer_of_apples_has_its_documented_consequence(case: Case, tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        device = apns_device()
        await _check(line, device, APNS_LANE, case)


@pytest.mark.parametrize("case", _fcm_cases(), ids=_name)
async def test_an_answer_of_googles_has_its_documented_consequence(case: Case, tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        device = fcm_device()
        await _check(line, device, FCM_LANE, case)


async def _check(line: Line, device: Any, lane_name: str, case: Case) -> None:
    rule = {"status": case.status, "reason": case.reason} | case.rule
    # A dead token's 410 is from after its registration.
    if case.status == 410:
        rule["timestamp"] = int(time.time() * 1000) + 60_000
    line.script(Rule(match=Match(token=device.token), times=case.attempts, **rule))
    await line.register(device)
    event = make_event()
    await line.hand_in(event)
    record = await line.attempted(event, case.attempts)

    attempt = record.attempts[case.attempts - 1]
    assert attempt.result == case.result
    assert attempt.device == device.key
    assert (attempt.status, attempt.reason) == (case.status, case.reason)
    lane = line.lane(lane_name)
    if case.attempts == 1:
        assert attempt.lane == lane_name
        assert lane.state is case.lane
        assert line.metric(lane_name, case.result, case.reason) == 1
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
