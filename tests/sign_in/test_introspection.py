"""Introspection (RFC 7662) over real HTTPS: whose session it is, what is cached, and a service that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from tests.sign_in.conftest import AUDIENCE, INTROSPECT, OWNER, Start, World
from tests.support.https_server import Asked, Reply

from tocsin.sign_in.configured import SignIn
from tocsin.sign_in.verdicts import Refused, SignedIn, Unavailable

SID = "platform-sid-8f2c41d07a"


def says(**claims: Any) -> Reply:
    return Reply(json.dumps(claims).encode())


def active(**claims: Any) -> Reply:
    return says(active=True, **{"sub": OWNER, **claims})


async def status(api: Any, sid: str = SID) -> int:
    answer = await api.client.get("/api/push", headers={"cookie": f"sid={sid}"})
    assert answer.status_code != 503 or int(answer.headers["retry-after"]) > 0
    return int(answer.status_code)


async def test_a_session_of_the_platform_is_taken_in_each_place(world: World, start: Start) -> None:
    world.server.say(INTROSPECT, active())
    api, _ = await start(world.introspecting(), convention="platform")
    body = {"system": "fcm", "action": "add", "device_token": "phone"}
    await api.client.post("/api/push", json=body, headers={"authorization": f"Bearer {SID}"})
    for more in ({"headers": {"cookie": f"sid={SID}"}}, {"params": {"sid": SID}}):
        assert (await api.client.get("/api/push", **more)).json()["fcm"]["device_tokens"] == ["phone"]


async def test_the_service_is_asked_as_rfc_7662_and_6749_say(world: World, start: Start) -> None:
    world.server.say(INTROSPECT, active())
    _, sign_in = await start(world.introspecting())
    await sign_in.verify(SID)
    (asked,) = world.server.asked
    assert (asked.method, parse_qs(asked.body.decode())["token"]) == ("POST", [SID])
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    scheme, _, pair = asked.headers["authorization"].partition(" ")
    assert (scheme, base64.b64decode(pair)) == ("Basic", b"tocsin+push:s3cret%2Bof%2Ftocsin")


async def test_who_is_known_is_not_asked_about_again_for_a_short_time(world: World, start: Start) -> None:
    world.server.say(INTROSPECT, active())
    api, _ = await start(world.introspecting(cache_s=30))
    assert [await status(api), await status(api)] == [200, 200]
    assert world.times_asked(INTROSPECT) == 1
    world.server.say(INTROSPECT, says(active=False))
    world.now_s += 30
    assert await status(api) == 401
    assert world.times_asked(INTROSPECT) == 2


async def test_a_refusal_is_remembered_for_a_shorter_time(world: World, start: Start) -> None:
    world.server.say(INTROSPECT, says(active=False))
    api, _ = await start(world.introspecting(refused_cache_s=5))
    assert [await status(api), await status(api)] == [401, 401]
    assert world.times_asked(INTROSPECT) == 1
    world.server.say(INTROSPECT, active())
    world.now_s += 5
    assert await status(api) == 200


async def test_nothing_is_remembered_longer_than_the_session_lives(world: World, start: Start) -> None:
    world.server.say(INTROSPECT, active(exp=int(world.now_s) + 10))
    api, _ = await start(world.introspecting(cache_s=300, leeway_s=0))
    assert await status(api) == 200
    world.now_s += 10
    assert await status(api) == 401


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, 200),
        ({"iss": "https://issuer", "aud": [AUDIENCE, "other"]}, 200),
        ({"iss": "https://evil.example"}, 401),
        ({"aud": "https://shop.example.com"}, 401),
        ({"exp": 1}, 401),
        ({"exp": "soon"}, 401),
        ({"exp": 10**400}, 401),
        ({"nbf": 9_999_999_999}, 401),
        ({"sub": "anna"}, 401),
        ({"sub": 7}, 401),
        ({"sub": [OWNER]}, 401),
        ({"sub": None}, 401),
    ],
)
async def test_what_the_answer_says_must_fit_the_settings(
    world: World, start: Start, claims: dict[str, Any], expected: int
) -> None:
    world.server.say(INTROSPECT, active(**claims))
    api, _ = await start(world.introspecting(issuer="https://issuer", audiences=(AUDIENCE,)))
    assert await status(api) == expected


async def test_a_session_in_which_nobody_has_signed_in_is_told_apart(world: World, start: Start) -> None:
    world.server.say(INTROSPECT, says(active=True))
    api, _ = await start(world.introspecting(), convention="platform")
    assert (await api.client.get("/api/push", params={"sid": SID})).json()["status"] == "no-auth"
    world.server.say(INTROSPECT, says(active=False))
    assert (await api.client.get("/api/push", params={"sid": "other"})).json()["status"] == "no-session"


GOOD = active().body
assert isinstance(GOOD, bytes)
BAD_ANSWERS: dict[str, Reply] = {
    "401, as to a wrong secret": Reply(b'{"active":false}', 401),
    "400": Reply(b'{"active":false}', 400),
    "404": Reply(b'{"active":false}', 404),
    "500": Reply(GOOD, 500),
    "201": Reply(GOOD, 201),
    "a redirect": Reply(b"", 307, {"location": "/elsewhere"}),
    "a page": Reply(b"<html>sign in</html>"),
    "nothing": Reply(b""),
    "a list": Reply(b"[true]"),
    "no active": Reply(b"{}"),
    "active is text": Reply(b'{"active":"true","sub":"%b"}' % OWNER.encode()),
    "active is 1": Reply(b'{"active":1,"sub":"%b"}' % OWNER.encode()),
    "active twice": Reply(b'{"active":false,"active":true,"sub":"%b"}' % OWNER.encode()),
    "sub twice": Reply(GOOD[:-1] + b',"sub":"1de7257a-4f34-11e0-ab6e-0024e8f90cc1"}'),
    "5 MB": Reply(GOOD + b" " * 5_000_000),
    "compressed": Reply(gzip.compress(GOOD), headers={"content-encoding": "gzip"}),
    "slow": Reply([bytes([byte]) for byte in GOOD], pause_s=0.2),
    "not UTF-8": Reply(b'{"active":true,"sub":"\xff"}'),
    "deep": Reply(b"[" * 100_000),
    "no HTTP, and it quotes the session": Reply(raw=b"HTTP/1.1 " + SID.encode() + b"\r\n\r\n"),
    "a bad header that quotes the session": Reply(raw=b"HTTP/1.1 200 OK\r\n" + SID.encode() + b"\r\n\r\n"),
    "headers without end": Reply(raw=b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500_000),
    "100 Continue without end": Reply(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 200_000),
    "cut off": Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + GOOD),
    "it quotes the session": Reply(SID.encode(), 500, {"x-token": SID}),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_service_that_misbehaves_lets_nobody_in_and_signs_nobody_out(
    world: World, start: Start, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    api, sign_in = await start(world.introspecting(timeout_s=2.0))
    world.server.say("/elsewhere", active())
    world.server.say(INTROSPECT, active())
    assert await status(api, "known") == 200
    world.server.say(INTROSPECT, BAD_ANSWERS[name])
    assert await status(api) == 503
    verdict = await sign_in.verify(SID)
    assert isinstance(verdict, Unavailable)
    assert SID not in verdict.reason
    assert await status(api, "known") == 200
    assert world.times_asked("/elsewhere") == 0, "the session is sent nowhere else"
    world.server.say(INTROSPECT, active())
    assert await status(api) == 200, "a failure is not remembered"
    printed = capsys.readouterr()
    assert "a service cannot be used" in printed.out + printed.err
    for secret in (SID, "known", "s3cret", "sign in</html>"):
        assert secret not in printed.out + printed.err


async def test_a_service_that_is_down_is_503_for_those_who_are_not_remembered(world: World, start: Start) -> None:
    api, _ = await start(world.introspecting(cache_s=30))
    world.server.say(INTROSPECT, active())
    assert await status(api) == 200
    world.server.stop()
    assert [await status(api), await status(api, "other")] == [200, 503]
    assert await status(api, api.sid) == 200, "tocsin's own sessions need no service"
    world.now_s += 30
    assert await status(api) == 503
    world.server.start()
    assert await status(api) == 200


async def test_a_session_that_makes_the_service_fail_does_not_fill_the_log(
    world: World, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    world.server.answers[INTROSPECT] = lambda asked: active() if SID.encode() in asked.body else Reply(status=500)
    _, sign_in = await start(world.introspecting(cache_s=0, refused_cache_s=0))
    for _ in range(10):
        assert isinstance(await sign_in.verify("poison"), Unavailable)
        assert isinstance(await sign_in.verify(SID), SignedIn)
    world.now_s += 10
    await sign_in.verify(SID)
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert printed.count("a service cannot be used") == 1
    assert printed.count("a service can be used again") == 1


async def test_invented_sessions_drive_out_nobody_who_is_known(world: World, start: Start) -> None:
    world.server.answers[INTROSPECT] = lambda asked: active() if SID.encode() in asked.body else says(active=False)
    _, sign_in = await start(world.introspecting(cache_entries=10))
    assert isinstance(await sign_in.verify(SID), SignedIn)
    for number in range(30):
        assert isinstance(await sign_in.verify(f"invented-{number}"), Refused)
    before = world.times_asked(INTROSPECT)
    assert isinstance(await sign_in.verify(SID), SignedIn)
    assert isinstance(await sign_in.verify("invented-29"), Refused)
    assert world.times_asked(INTROSPECT) == before
    assert isinstance(await sign_in.verify("invented-0"), Refused)
    assert world.times_asked(INTROSPECT) == before + 1, "no more than cache_entries are remembered"


async def test_all_who_give_one_session_at_once_share_one_request(world: World, start: Start) -> None:
    assert isinstance(GOOD, bytes)
    world.server.say(INTROSPECT, Reply([GOOD[:5], GOOD[5:]], pause_s=0.3))
    _, sign_in = await start(world.introspecting())
    gone = asyncio.create_task(sign_in.verify(SID))
    others = [asyncio.create_task(sign_in.verify(SID)) for _ in range(20)]
    await asyncio.sleep(0.05)
    gone.cancel()
    assert all([isinstance(await other, SignedIn) for other in others]), "who goes away does not end it"
    assert world.times_asked(INTROSPECT) == 1


async def test_what_can_be_no_session_of_the_platform_is_not_asked_about(world: World, start: Start) -> None:
    api, sign_in = await start(world.introspecting())
    anonymous = await api.sign_in(None)
    for text in (api.sid, anonymous, "x" * 8193, "sid\xff", "a b\x7f"):
        assert not isinstance(await sign_in.verify(text), Unavailable)
    assert world.server.asked == []


async def test_with_both_a_jwt_is_checked_here_and_any_other_session_is_asked_about(world: World, start: Start) -> None:
    def answer(asked: Asked) -> Reply:
        assert b"." not in asked.body
        return active()

    world.server.answers[INTROSPECT] = answer
    both = world.introspecting(**world.settings().model_dump(include={"issuer", "audiences", "jwks_url"}))
    _, sign_in = await start(both)
    by = [(await verdict(sign_in, text)).by for text in (world.token(), SID)]
    assert by == [f"a JWT of {world.issuer}", "the sign-in service"]
    assert isinstance(await sign_in.verify(world.token(exp=1)), Refused)
    assert world.times_asked(INTROSPECT) == 1


async def verdict(sign_in: SignIn, text: str) -> SignedIn:
    found = await sign_in.verify(text)
    assert isinstance(found, SignedIn)
    return found
