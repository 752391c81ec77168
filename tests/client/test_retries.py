"""What a client does when a server fails: the same events again, with the same ids, for a bounded time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.client.conftest import a_fax
from tests.support.https_server import Asked, HttpsServer, Reply

from tocsin_client import Unavailable, UnexpectedAnswer
from tocsin_client.retrying import Patience, retry_after_s

Call = Callable[..., Any]
ACCEPTED = Reply(status=202, body=b'{"accepted":1,"events":[]}')


def in_turn(*replies: Reply) -> Callable[[Asked], Reply]:
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def ids(asked: list[Asked]) -> list[list[str]]:
    return [[json.loads(line)["event_id"] for line in request.body.splitlines()] for request in asked]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_failure_that_may_pass_is_repeated_with_the_same_ids(
    call: Call, options: dict[str, Any], https: HttpsServer, status: int
) -> None:
    https.answers["/api/events"] = in_turn(Reply(status=status), Reply(status=status), ACCEPTED)
    accepted = call("send_many", [a_fax(), a_fax()], options=options)
    assert ids(https.asked) == [accepted] * 3


def test_an_answer_that_is_lost_is_repeated(call: Call, options: dict[str, Any], https: HttpsServer) -> None:
    https.answers["/api/events"] = in_turn(Reply(raw=b""), Reply(raw=b"HTTP/1.1 202 Accepted\r\ncontent-le"), ACCEPTED)
    event_id = call("send", a_fax(), options=options)
    assert ids(https.asked) == [[event_id]] * 3


def test_a_server_that_starts_later_is_waited_for(call: Call, options: dict[str, Any], https: HttpsServer) -> None:
    https.say("/api/events", ACCEPTED)
    https.stop()
    threading.Timer(0.5, https.start).start()
    call("send", a_fax(), options=options)
    assert len(https.asked) == 1


def test_a_client_gives_up_in_time_and_says_with_which_ids_to_go_on(
    call: Call, options: dict[str, Any], https: HttpsServer
) -> None:
    problem = {"type": "urn:tocsin:problem:backlog-full", "detail": "The backlog is full."}
    https.say("/api/events", Reply(status=503, body=json.dumps(problem).encode()))
    with pytest.raises(Unavailable, match=r"The backlog is full\.") as caught:
        call("send_many", [a_fax(), a_fax()], options={**options, "give_up_after_s": 0.5})
    assert (caught.value.status, caught.value.problem) == (503, problem["type"])
    assert ids(https.asked)[0] == list(caught.value.ids)
    assert caught.value.accepted == ()


def test_a_batch_that_is_too_large_for_this_server_goes_in_halves(
    call: Call, options: dict[str, Any], https: HttpsServer
) -> None:
    https.answers["/api/events"] = lambda asked: ACCEPTED if len(asked.body.splitlines()) <= 2 else Reply(status=413)
    accepted = call("send_many", [a_fax() for _ in range(5)], options=options)
    taken = [found for found in ids(https.asked) if len(found) <= 2]
    assert [event_id for found in taken for event_id in found] == accepted


@pytest.mark.parametrize("reply", [Reply(status=301), Reply(status=404), Reply(status=418, body=b"<html>")])
def test_what_is_not_tocsin_is_not_asked_again(
    call: Call, options: dict[str, Any], https: HttpsServer, reply: Reply
) -> None:
    https.say("/api/events", reply)
    with pytest.raises(UnexpectedAnswer):
        call("send", a_fax(), options=options)
    assert len(https.asked) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("Thu, 26 Nov 2026 12:00:10 GMT", 10.0),
        ("Thu, 26 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, lambda: datetime(2026, 11, 26, 12, tzinfo=UTC)) == seconds


def test_pauses_grow_up_to_ten_seconds_and_never_undercut_what_the_server_asks() -> None:
    now = [0.0]
    patience = Patience(1000.0, monotonic=lambda: now[0], uniform=lambda _, longest: longest)
    pauses = [patience.pause_s() for _ in range(9)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert (patience.pause_s(retry_after_s=30.0) or 0.0) >= 30.0
    now[0] = 995.0
    assert patience.pause_s() is None


def test_a_client_goes_on_for_hours() -> None:
    now = 0.0
    patience = Patience(24 * 3600.0, monotonic=lambda: now, uniform=lambda least, most: most)
    while (pause := patience.pause_s()) is not None:
        assert pause <= 10.0
        now += pause
    assert now > 24 * 3600 - 10
