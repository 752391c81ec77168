"""HTTP/1.1: one connection, requests one after the other, and the effect of faults."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.emulator.harness import Harness

from tocsin.emulator.faults import Goaway, Latency, Match, Rule

FCM = Match(provider="fcm")
PATH = "/v1/projects/tocsin-emulator/messages:send"
REFUSED_STREAM = 7
ONE, TWO, THREE = (f"registration-token-{number}" for number in ("one", "two", "three"))


class Conversation:
    """What the emulator sent on one connection, and whether it has closed the connection."""

    def __init__(self, received: bytes, ended: bool) -> None:
        self.received = received
        self.ended = ended

    @property
    def statuses(self) -> list[int]:
        return [int(part[1:4]) for part in self.received.split(b"HTTP/1.1")[1:]]

    @property
    def ids(self) -> list[str]:
        """The ids of the accepted messages, in the order of the answers."""
        return [part.split(b'"')[0].decode() for part in self.received.split(b"/messages/")[1:]]


async def _converse(harness: Harness, endpoint: str, *parts: bytes, idle_timeout_s: float = 0.25) -> Conversation:
    """Send `parts` with a short time between them, and read until nothing more arrives."""
    url, tls = urlsplit(harness.url(endpoint)), None
    if url.scheme == "https":
        tls = ssl.create_default_context(cafile=str(harness.emulator.files.ca))
        tls.set_alpn_protocols(["http/1.1"])
    reader, writer = await asyncio.open_connection(url.hostname, url.port, ssl=tls)
    received, ended = b"", False
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.02)
        while not ended:
            try:
                data = await asyncio.wait_for(reader.read(65536), idle_timeout_s)
            except TimeoutError:
                break
            received, ended = received + data, not data
    except ConnectionError:
        ended = True
    finally:
        writer.close()
    return Conversation(received, ended)


async def _message(harness: Harness, token: str, *fields: str) -> bytes:
    body = json.dumps({"message": {"token": token}})
    lines = [
        f"POST {PATH} HTTP/1.1",
        "host: localhost",
        f"authorization: Bearer {await harness.access_token()}",
        f"content-length: {len(body)}",
        *fields,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def _three_messages(harness: Harness) -> bytes:
    return b"".join([await _message(harness, token) for token in (ONE, TWO, THREE)])


def _accepted_tokens(harness: Harness) -> list[str]:
    return [entry["token"] for entry in harness.emulator.inbox.find()]


async def test_pipelined_requests_are_answered_in_their_order(harness: Harness) -> None:
    conversation = await _converse(harness, "fcm", await _three_messages(harness))
    assert (conversation.statuses, conversation.ended) == ([200, 200, 200], False)
    assert conversation.ids == [entry["id"] for entry in harness.emulator.inbox.find()]
    assert _accepted_tokens(harness) == [ONE, TWO, THREE]


async def test_a_delayed_answer_stays_before_later_answers(harness: Harness) -> None:
    harness.script(Rule(match=FCM, delay_s=0.1, times=1))
    conversation = await _converse(harness, "fcm", await _three_messages(harness))
    assert conversation.ids == [entry["id"] for entry in harness.emulator.inbox.find()]
    assert _accepted_tokens(harness) == [ONE, TWO, THREE]


async def test_latency_applies_to_each_pipelined_request(harness: Harness) -> None:
    harness.script(latency=Latency(fixed_ms=20))
    assert (await _converse(harness, "fcm", await _three_messages(harness))).statuses == [200, 200, 200]


async def test_a_request_can_arrive_in_several_parts(harness: Harness) -> None:
    whole = await _message(harness, ONE)
    conversation = await _converse(harness, "fcm", whole[:9], whole[9:200], whole[200:-3], whole[-3:])
    assert (conversation.statuses, _accepted_tokens(harness)) == ([200], [ONE])


async def test_the_connection_closes_after_the_answer_if_the_client_requests_it(harness: Harness) -> None:
    first, second = await _message(harness, ONE, "connection: close"), await _message(harness, TWO)
    conversation = await _converse(harness, "fcm", first + second)
    assert (conversation.statuses, conversation.ended, _accepted_tokens(harness)) == ([200], True, [ONE])
    assert b"connection: close" in conversation.received


async def test_a_client_that_expects_100_continue_gets_it(harness: Harness) -> None:
    head, body = (await _message(harness, ONE, "Expect: 100-continue")).split(b"\r\n\r\n")
    conversation = await _converse(harness, "fcm", head + b"\r\n\r\n", body)
    assert (conversation.statuses, _accepted_tokens(harness)) == ([100, 200], [ONE])


async def test_an_offer_to_upgrade_the_protocol_is_ignored(harness: Harness) -> None:
    """Java's HttpClient offers HTTP/2 to every server without TLS."""
    script = b'{"seed": 7}'
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    put = b"PUT /faults HTTP/1.1\r\nhost: localhost\r\n%bcontent-length: %d\r\n\r\n" % (offer, len(script))
    for pieces in ([put + script], [put, script], [put[:60], put[60:], script[:4], script[4:]]):
        harness.script()
        conversation = await _converse(harness, "control", *pieces, idle_timeout_s=0.1)
        assert (conversation.statuses, conversation.ended) == ([200], False)
        assert harness.emulator.faults.script.seed == 7
    conversation = await _converse(harness, "control", b"CONNECT localhost:1 HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert (conversation.statuses, conversation.ended) == ([], True)


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01 not HTTP\r\n\r\n", b"PUT /faults HTTP/1.1\r\ncontent-length: -1\r\n\r\n"]
)
async def test_bytes_that_are_not_http_close_the_connection(sent: bytes, harness: Harness) -> None:
    conversation = await _converse(harness, "control", sent)
    assert (conversation.statuses, conversation.ended) == ([], True)


async def test_a_body_that_is_too_large_is_answered_and_the_next_request_too(harness: Harness) -> None:
    put = b"PUT /faults HTTP/1.1\r\nhost: localhost\r\n"
    stats = b"GET /stats HTTP/1.1\r\nhost: localhost\r\n\r\n"
    announced = put + b"content-length: 3000000\r\n\r\n" + b" " * 3_000_000
    chunk = b"%x\r\n%b\r\n" % (100_000, b" " * 100_000)
    chunked = put + b"transfer-encoding: chunked\r\n\r\n" + chunk * 11 + b"0\r\n\r\n"
    for request in (announced, chunked):
        conversation = await _converse(harness, "control", request + stats)
        assert (conversation.statuses, conversation.ended) == ([413, 200], False)


async def test_a_body_without_end_closes_the_connection(harness: Harness) -> None:
    head = b"PUT /faults HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90000000\r\n\r\n"
    conversation = await _converse(harness, "control", head, *[b" " * 10_000_000] * 7)
    assert (conversation.statuses, conversation.ended) == ([], True)


async def test_a_trailer_is_no_header(harness: Harness) -> None:
    body = json.dumps({"message": {"token": ONE}}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    trailer = f"authorization: Bearer {await harness.access_token()}\r\n\r\n".encode()
    conversation = await _converse(harness, "fcm", head + b"%x\r\n%b\r\n0\r\n" % (len(body), body) + trailer)
    assert (conversation.statuses, _accepted_tokens(harness)) == ([401], [])


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_an_answer_whose_status_has_no_content_has_none(status: int, harness: Harness) -> None:
    harness.script(Rule(match=FCM, status=status, body="not to be sent"))
    conversation = await _converse(harness, "fcm", await _message(harness, ONE))
    assert conversation.statuses == [status]
    assert conversation.received.endswith(b"\r\n\r\n")
    assert (b"content-length" in conversation.received) is (status != 204)
    answer = await harness.send_message({"token": ONE})
    assert (answer.status, answer.body) == (status, b"")


async def test_the_answer_to_a_head_request_has_no_body(harness: Harness) -> None:
    conversation = await _converse(
        harness, "control", b"HEAD /stats HTTP/1.1\r\nhost: localhost\r\n\r\n", idle_timeout_s=0.1
    )
    assert conversation.statuses == [405]
    assert conversation.received.endswith(b"\r\n\r\n")


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        Rule(match=FCM, reset=REFUSED_STREAM),
        Rule(match=FCM, cut="before_answer"),
        Rule(match=FCM, goaway=Goaway(mode="mid")),
        Rule(match=FCM, goaway=Goaway(mode="immediate")),
    ],
)
async def test_a_fault_that_ends_an_http_2_stream_closes_an_http_1_1_connection(rule: Rule, harness: Harness) -> None:
    rule.after, rule.times = 1, 1
    harness.script(rule)
    conversation = await _converse(
        harness,
        "fcm",
        await _message(harness, ONE),
        await _message(harness, TWO) + await _message(harness, THREE),
    )
    assert (conversation.statuses, conversation.ended) == ([200], True)
    assert _accepted_tokens(harness) == [ONE], "neither the request that was not processed nor the one after it"


async def test_a_graceful_goaway_answers_with_connection_close(harness: Harness) -> None:
    harness.script(Rule(match=FCM, goaway=Goaway(mode="graceful")))
    conversation = await _converse(harness, "fcm", await _three_messages(harness))
    assert (conversation.statuses, conversation.ended, _accepted_tokens(harness)) == ([200], True, [ONE])
    assert b"connection: close" in conversation.received


@pytest.mark.parametrize(("cut", "statuses"), [("mid_headers", 0), ("mid_body", 1)])
async def test_no_request_is_answered_after_a_cut(cut: Any, statuses: int, harness: Harness) -> None:
    harness.script(Rule(match=FCM, cut=cut, processed=True, times=1))
    conversation = await _converse(harness, "fcm", await _three_messages(harness))
    assert conversation.ended
    assert conversation.received.count(b"\r\n\r\n") == statuses
    assert not conversation.received.endswith(b"}")
    assert _accepted_tokens(harness) == [ONE]


async def test_requests_after_an_unanswered_one_stay_unanswered(harness: Harness) -> None:
    harness.script(Rule(match=FCM, no_answer=True, times=1))
    three = asyncio.create_task(_converse(harness, "fcm", await _three_messages(harness)))
    await asyncio.sleep(0.15)
    [fcm] = [endpoint for endpoint in harness.emulator.stats()["connections"] if endpoint["listener"] == "fcm"]
    assert (fcm["open"], fcm["open_streams"]) == (1, 3)
    conversation = await three
    assert (conversation.statuses, conversation.ended, _accepted_tokens(harness)) == ([], False, [])
