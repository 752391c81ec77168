"""HTTP/1.1 as it is on the wire: one connection, requests one after the other, and what faults do to them."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.emulator.lab import Lab

from tocsin.emulator.faults import Goaway, Latency, Match, Rule

FCM = Match(provider="fcm")
PATH = "/v1/projects/tocsin-emulator/messages:send"
REFUSED_STREAM = 7


class Talk:
    """What came back on one connection, and whether the emulator has ended it."""

    def __init__(self, received: bytes, ended: bool) -> None:
        self.received = received
        self.ended = ended

    @property
    def statuses(self) -> list[int]:
        return [int(part[1:4]) for part in self.received.split(b"HTTP/1.1")[1:]]

    @property
    def ids(self) -> list[str]:
        """Of the messages that were accepted, in the order of the answers."""
        return [part.split(b'"')[0].decode() for part in self.received.split(b"/messages/")[1:]]


async def _talk(lab: Lab, door: str, *parts: bytes, patience_s: float = 0.25) -> Talk:
    """Sends `parts` with a little time between them, and listens until nothing more comes."""
    url, tls = urlsplit(lab.url(door)), None
    if url.scheme == "https":
        tls = ssl.create_default_context(cafile=str(lab.emulator.files.ca))
        tls.set_alpn_protocols(["http/1.1"])
    reader, writer = await asyncio.open_connection(url.hostname, url.port, ssl=tls)
    received, ended = b"", False
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.02)
        while not ended:
            try:
                data = await asyncio.wait_for(reader.read(65536), patience_s)
            except TimeoutError:
                break
            received, ended = received + data, not data
    except ConnectionError:
        ended = True
    finally:
        writer.close()
    return Talk(received, ended)


async def _message(lab: Lab, token: str, *fields: str) -> bytes:
    body = json.dumps({"message": {"token": token}})
    lines = [
        f"POST {PATH} HTTP/1.1",
        "host: localhost",
        f"authorization: Bearer {await lab.access_token()}",
        f"content-length: {len(body)}",
        *fields,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def _three(lab: Lab) -> bytes:
    return b"".join([await _message(lab, token) for token in ("one", "two", "three")])


def _arrived(lab: Lab) -> list[str]:
    return [entry["token"] for entry in lab.emulator.inbox.find()]


async def test_pipelined_requests_are_answered_one_after_the_other(lab: Lab) -> None:
    talk = await _talk(lab, "fcm", await _three(lab))
    assert (talk.statuses, talk.ended) == ([200, 200, 200], False)
    assert talk.ids == [entry["id"] for entry in lab.emulator.inbox.find()]
    assert _arrived(lab) == ["one", "two", "three"]


async def test_a_late_answer_is_not_overtaken(lab: Lab) -> None:
    lab.script(Rule(match=FCM, delay_s=0.1, times=1))
    talk = await _talk(lab, "fcm", await _three(lab))
    assert talk.ids == [entry["id"] for entry in lab.emulator.inbox.find()]
    assert _arrived(lab) == ["one", "two", "three"]


async def test_latency_goes_for_each_of_them(lab: Lab) -> None:
    lab.script(latency=Latency(fixed_ms=20))
    assert (await _talk(lab, "fcm", await _three(lab))).statuses == [200, 200, 200]


async def test_a_request_may_come_in_pieces(lab: Lab) -> None:
    whole = await _message(lab, "one")
    talk = await _talk(lab, "fcm", whole[:9], whole[9:200], whole[200:-3], whole[-3:])
    assert (talk.statuses, _arrived(lab)) == ([200], ["one"])


async def test_the_connection_ends_after_an_answer_where_the_client_asks_for_it(lab: Lab) -> None:
    first, second = await _message(lab, "one", "connection: close"), await _message(lab, "two")
    talk = await _talk(lab, "fcm", first + second)
    assert (talk.statuses, talk.ended, _arrived(lab)) == ([200], True, ["one"])
    assert b"connection: close" in talk.received


async def test_a_client_that_waits_for_leave_to_go_on_gets_it(lab: Lab) -> None:
    head, body = (await _message(lab, "one", "Expect: 100-continue")).split(b"\r\n\r\n")
    talk = await _talk(lab, "fcm", head + b"\r\n\r\n", body)
    assert (talk.statuses, _arrived(lab)) == ([100, 200], ["one"])


async def test_an_offer_of_another_protocol_is_passed_over(lab: Lab) -> None:
    """Java's HttpClient makes one to every address without TLS."""
    script = b'{"seed": 7}'
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    put = b"PUT /faults HTTP/1.1\r\nhost: localhost\r\n%bcontent-length: %d\r\n\r\n" % (offer, len(script))
    for pieces in ([put + script], [put, script], [put[:60], put[60:], script[:4], script[4:]]):
        lab.script()
        talk = await _talk(lab, "control", *pieces, patience_s=0.1)
        assert (talk.statuses, talk.ended) == ([200], False)
        assert lab.emulator.faults.script.seed == 7
    talk = await _talk(lab, "control", b"CONNECT localhost:1 HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert (talk.statuses, talk.ended) == ([], True)


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01 not HTTP\r\n\r\n", b"PUT /faults HTTP/1.1\r\ncontent-length: -1\r\n\r\n"]
)
async def test_what_is_not_http_ends_the_connection(sent: bytes, lab: Lab) -> None:
    talk = await _talk(lab, "control", sent)
    assert (talk.statuses, talk.ended) == ([], True)


async def test_a_body_without_bounds_ends_the_connection(lab: Lab) -> None:
    head = b"PUT /faults HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3000000\r\n\r\n"
    talk = await _talk(lab, "control", head + b" " * 3_000_000)
    assert (talk.statuses, talk.ended) == ([], True)


async def test_an_answer_to_head_has_no_body(lab: Lab) -> None:
    talk = await _talk(lab, "control", b"HEAD /stats HTTP/1.1\r\nhost: localhost\r\n\r\n", patience_s=0.1)
    assert talk.statuses == [405]
    assert talk.received.endswith(b"\r\n\r\n")


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
async def test_what_ends_a_stream_of_http_2_ends_the_connection(rule: Rule, lab: Lab) -> None:
    rule.after, rule.times = 1, 1
    lab.script(rule)
    talk = await _talk(
        lab, "fcm", await _message(lab, "one"), await _message(lab, "two") + await _message(lab, "three")
    )
    assert (talk.statuses, talk.ended) == ([200], True)
    assert _arrived(lab) == ["one"], "neither the one that was turned back nor the one behind it"


async def test_a_graceful_goaway_answers_and_says_that_it_is_the_last(lab: Lab) -> None:
    lab.script(Rule(match=FCM, goaway=Goaway(mode="graceful")))
    talk = await _talk(lab, "fcm", await _three(lab))
    assert (talk.statuses, talk.ended, _arrived(lab)) == ([200], True, ["one"])
    assert b"connection: close" in talk.received


@pytest.mark.parametrize(("cut", "statuses"), [("mid_headers", 0), ("mid_body", 1)])
async def test_nothing_comes_after_a_cut(cut: Any, statuses: int, lab: Lab) -> None:
    lab.script(Rule(match=FCM, cut=cut, processed=True, times=1))
    talk = await _talk(lab, "fcm", await _three(lab))
    assert talk.ended
    assert talk.received.count(b"\r\n\r\n") == statuses
    assert not talk.received.endswith(b"}")
    assert _arrived(lab) == ["one"]


async def test_what_waits_behind_a_request_without_an_answer_waits(lab: Lab) -> None:
    lab.script(Rule(match=FCM, no_answer=True, times=1))
    three = asyncio.create_task(_talk(lab, "fcm", await _three(lab)))
    await asyncio.sleep(0.15)
    [fcm] = [door for door in lab.emulator.stats()["connections"] if door["listener"] == "fcm"]
    assert (fcm["open"], fcm["open_streams"]) == (1, 3)
    talk = await three
    assert (talk.statuses, talk.ended, _arrived(lab)) == ([], False, [])
