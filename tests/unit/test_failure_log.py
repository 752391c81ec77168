"""What failed is in the log, with its event and what happens next; a flood of it takes a few lines."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from tocsin.delivery.failure_log import Failed, FailureLog

TOKEN = "a6461732069737d42065496ea6461732069737d42065496ea6461732069737d4"
LANE = "apns:production:39JSDKGJ38.de.cospace.app"


class Failing:
    """A log, and a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log = FailureLog(lambda: self.now)
        self.count = 0

    def failed(self, failed: Failed = Failed.REFUSED, *, reason: str = "PayloadTooLarge", lane: str = LANE) -> str:
        self.count += 1
        event_id = f"event-{self.count}"
        self.log.failed(event_id, f"apns:{TOKEN}", lane, failed.name.lower(), 413, reason, failed)
        return event_id

    def again(self, reason: str = "InternalServerError", status: int = 500) -> str:
        self.count += 1
        event_id = f"event-{self.count}"
        self.log.again(event_id, f"apns:{TOKEN}", LANE, "retry", status, reason, 4.2)
        return event_id


@pytest.mark.parametrize("failed", list(Failed))
def test_a_final_failure_names_event_device_lane_reason_and_what_happens_next(failed: Failed) -> None:
    failing = Failing()
    with capture_logs() as lines:
        event_id = failing.failed(failed)
    [line] = lines
    assert line["event"] == "delivery failed"
    assert (line["event_id"], line["lane"], line["status"]) == (event_id, LANE, 413)
    assert (line["reason"], line["next"]) == ("PayloadTooLarge", failed.value)
    assert line["log_level"] == failed.level
    assert line["device"] == "apns:a6461732…"


def test_an_attempt_that_failed_says_when_the_next_one_is() -> None:
    with capture_logs() as lines:
        event_id = Failing().again()
    [line] = lines
    assert (line["event"], line["event_id"], line["reason"]) == ("attempt failed", event_id, "InternalServerError")
    assert line["next"].startswith("tried again in 4 s")


def test_no_line_holds_a_device_token_and_a_short_one_is_not_shown_whole() -> None:
    failing = Failing()
    with capture_logs() as lines:
        failing.failed()
        failing.again()
        failing.log.failed("event", "other:abc", LANE, "refused", 400, "x", Failed.REFUSED)
        failing.now = 100
        failing.log.write_counted()
    assert TOKEN not in str(lines)
    assert lines[-1]["device"] == "other:…"


def test_a_flood_takes_five_lines_and_one_with_the_number_of_the_others() -> None:
    failing = Failing()
    with capture_logs() as lines:
        for _ in range(10_000):
            last = failing.failed()
        assert len(lines) == 5
        failing.log.write_counted()
        assert len(lines) == 5
        failing.now = 61
        failing.log.write_counted()
        assert lines[5:] == [
            {
                "event": "delivery failed: more like it",
                "log_level": "warning",
                "count": 9_995,
                "lane": LANE,
                "result": "refused",
                "reason": "PayloadTooLarge",
                "last_event_id": last,
            }
        ]
        failing.failed()
        assert len(lines) == 7, "a minute later the next one is logged again"


def test_attempts_that_are_made_again_take_a_line_a_minute_and_their_number() -> None:
    failing = Failing()
    with capture_logs() as lines:
        for _ in range(500):
            failing.again()
        failing.log.write_counted(all=True)
    assert [line.get("count") for line in lines] == [None, 499]


def test_each_lane_and_reason_has_lines_of_its_own() -> None:
    failing = Failing()
    with capture_logs() as lines:
        for _ in range(50):
            failing.failed()
        failing.failed(reason="BadTopic")
        failing.failed(lane="fcm:other")
    assert [line["reason"] for line in lines[5:]] == ["BadTopic", "PayloadTooLarge"]


def test_errors_of_the_link_are_one_kind_whatever_their_text() -> None:
    failing = Failing()
    with capture_logs() as lines:
        for number in range(50):
            failing.again(f"connection lost: {number}", 0)
    assert len(lines) == 1
    assert lines[0]["reason"] == "connection lost: 0"


def test_memory_and_lines_are_bounded_whatever_the_provider_calls_its_reasons() -> None:
    failing = Failing()
    with capture_logs() as lines:
        for number in range(5_000):
            failing.failed(reason=f"reason {number}")
        assert len(failing.log._kinds) <= 502
        written = len(lines)
        failing.now = 61
        failing.log.write_counted()
    assert written == 500
    counted: list[dict[str, Any]] = [dict(line) for line in lines[written:]]
    assert [line["count"] for line in counted] == [4_500]
    assert "lane" not in counted[0]
    assert not failing.log._kinds
