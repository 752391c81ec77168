"""What a provider says goes into receipts and the log as a code, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog

from tocsin.http2.messages import Request
from tocsin.providers.answers import code_of, log_unknown
from tocsin.providers.apns import answers as apns
from tocsin.providers.fcm import answers as fcm

TEXT = "Treffen um 17:45 am Hintereingang"


@pytest.mark.parametrize("code", ["BadDeviceToken", "UNREGISTERED", "SENDER_ID_MISMATCH", "ExpiredProviderToken"])
def test_what_the_providers_document_is_kept(code: str) -> None:
    assert code_of(code) == code


@pytest.mark.parametrize("text", [TEXT, "a" * 65, "0a" * 32, "", "BadDeviceToken\r\n", "caf\u00e9"])
def test_anything_else_may_be_a_quotation_and_is_not(text: str) -> None:
    assert code_of(text) == ""


def test_a_reason_that_quotes_the_content_is_in_no_receipt() -> None:
    assert apns.read_body(json.dumps({"reason": TEXT}).encode()).reason == ""
    error: dict[str, Any] = {"status": TEXT, "details": [{"@type": "x/FcmError", "errorCode": TEXT}]}
    assert fcm.read_body(json.dumps({"error": error}).encode()).code == ""


def test_an_answer_that_nobody_knows_is_logged_without_its_body() -> None:
    request = Request((), b"")
    request.status, request.response_body = 418, TEXT.encode()
    with structlog.testing.capture_logs() as lines:
        log_unknown("fcm", request, "", "RETRY")
    assert TEXT not in str(lines)
    assert lines[0]["body_bytes"] == len(TEXT)
