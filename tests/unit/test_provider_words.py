"""What is kept of a provider's words: names and ids, which are short; never the device token."""

from __future__ import annotations

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from tocsin.domain.outcomes import Refused, TokenDead
from tocsin.http2.messages import Request
from tocsin.providers.answers import NO_NAME, field_of, id_of, log_unknown, name_of
from tocsin.providers.apns import answers as apns
from tocsin.providers.apns.judging import ApnsJudge
from tocsin.providers.apns.requests import ApnsRequest
from tocsin.providers.fcm import answers as fcm
from tocsin.providers.fcm.judging import FcmJudge
from tocsin.providers.fcm.projects import FcmRequest
from tocsin.telemetry import Metrics

NOW_MS = 1_800_000_000_000
TEXT = "Treffen um 17:45 am Hintereingang"


@pytest.mark.parametrize("name", ["", "BadDeviceToken", "TooManyProviderTokenUpdates", "THIRD_PARTY_AUTH_ERROR"])
def test_a_name_is_kept(name: str) -> None:
    assert name_of(name) == name


@pytest.mark.parametrize(
    "words",
    ["x" * 49, "a6" * 32, "a6" * 12, TEXT, "BadDeviceToken\r\n", "two words", "line\nbreak", "ünï", "{}", "a-b", "1a"],
)
def test_what_is_no_name_is_not_repeated(words: str) -> None:
    assert name_of(words) == NO_NAME


@pytest.mark.parametrize("path", ["message.android.ttl", "message.data", "message.android.notification[0].title"])
def test_the_path_of_a_field_is_kept(path: str) -> None:
    assert field_of(path) == path


@pytest.mark.parametrize(
    "path", ["", "a6" * 12, TEXT, "message." * 30, f"message.{'x' * 49}", "a b", "message.\n", "a..b"]
)
def test_what_is_no_path_of_a_field_is_not_repeated(path: str) -> None:
    assert field_of(path) == NO_NAME


def test_a_message_that_google_refuses_is_said_to_be_with_the_fields_that_google_names() -> None:
    judge = FcmJudge(None, lambda: NOW_MS / 1000)  # type: ignore[arg-type]
    violations = [{"field": "message.android.ttl"}, {"field": TEXT}]
    details = [{"@type": "google.rpc.BadRequest", "fieldViolations": violations}]
    request = FcmRequest([], b"", push=None, project=None, status=400)  # type: ignore[arg-type]
    request.response_body = json.dumps({"error": {"status": "INVALID_ARGUMENT", "details": details}}).encode()
    outcome = judge.outcome(request)
    assert isinstance(outcome, Refused)
    assert outcome.our_bug
    assert outcome.fields == ("message.android.ttl", NO_NAME)


def test_an_id_is_kept_and_what_is_none_is_not() -> None:
    assert id_of("0:1500415314455276%31bd1c9631bd1c96") == "0:1500415314455276%31bd1c9631bd1c96"
    assert [id_of(words) for words in ("x" * 201, "a\r\nb", "ü")] == ["", "", ""]


def test_a_reason_that_quotes_the_content_is_in_no_receipt() -> None:
    assert apns.read_body(json.dumps({"reason": TEXT}).encode()).reason == NO_NAME
    error: dict[str, Any] = {"status": TEXT, "details": [{"@type": "x/FcmError", "errorCode": TEXT}]}
    assert fcm.read_body(json.dumps({"error": error}).encode()).code == NO_NAME


def test_an_answer_that_nobody_knows_is_logged_without_its_body() -> None:
    request = Request((), b"")
    request.status, request.response_body = 418, TEXT.encode()
    with capture_logs() as lines:
        log_unknown("fcm", request, "", "RETRY")
    assert TEXT not in str(lines)
    assert lines[0]["body_bytes"] == len(TEXT)


def test_a_provider_that_invents_reasons_fills_no_memory_with_metrics() -> None:
    metrics = Metrics()
    for number in range(20_000):
        metrics.attempt("lane", "retry", f"Reason{number}")
    samples = [one for family in metrics.registry.collect() for one in family.samples if one.name.endswith("_total")]
    of_attempts = [one for one in samples if one.name == "tocsin_attempts_total"]
    assert len(of_attempts) <= 5001
    assert sum(one.value for one in of_attempts) == 20_000


@pytest.mark.parametrize(
    ("timestamp", "kept"),
    [(NOW_MS - 1, NOW_MS - 1), (NOW_MS + 60_000, NOW_MS + 60_000), (NOW_MS * 2, None), (0, None), (-1, None)],
)
def test_a_time_of_death_that_no_clock_shows_is_no_time(timestamp: int, kept: int | None) -> None:
    """One in the future would outlive every registration that is made until then."""
    judge = ApnsJudge(None, None, lambda: NOW_MS / 1000)  # type: ignore[arg-type]
    request = ApnsRequest([], b"", push=None, channel=None, status=410)  # type: ignore[arg-type]
    request.response_body = json.dumps({"reason": "Unregistered", "timestamp": timestamp}).encode()
    outcome = judge.outcome(request)
    assert isinstance(outcome, TokenDead)
    assert outcome.timestamp_ms == kept
