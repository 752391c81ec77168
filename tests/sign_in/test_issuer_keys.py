"""The issuer's keys: how they change, how often they are asked for, and what a misbehaving issuer does to users."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import httpx
import pytest
from tests.sign_in.conftest import JWKS, OWNER, Start, World, jwk, key, signed
from tests.support.https_server import Reply

from tocsin.emulator.credentials import write_credentials
from tocsin.sign_in.configured import SignIn
from tocsin.sign_in.key_set import read_key_set
from tocsin.sign_in.verdicts import Refused, SignedIn, Unavailable


async def refresh(sign_in: SignIn) -> float | None:
    """What the timer does."""
    assert sign_in.keys is not None
    return await sign_in.keys.refresh()


async def asked_with(api: object, token: str) -> httpx.Response:
    answer = await api.client.get("/api/push", headers={"authorization": f"Bearer {token}"})  # type: ignore[attr-defined]
    assert isinstance(answer, httpx.Response)
    return answer


async def test_a_new_key_is_taken_and_a_withdrawn_one_is_not_after_the_timer(world: World, start: Start) -> None:
    _, sign_in = await start(world.settings())
    await refresh(sign_in)
    old = world.token("rsa-1")
    assert isinstance(await sign_in.verify(old), SignedIn)
    world.publish(jwk("rsa-2"))
    assert isinstance(await sign_in.verify(old), SignedIn), "as it was read last"
    await refresh(sign_in)
    assert isinstance(await sign_in.verify(world.token("rsa-2")), SignedIn)
    assert isinstance(await sign_in.verify(old), Refused)


async def test_another_key_under_a_known_kid_replaces_it(world: World, start: Start) -> None:
    _, sign_in = await start(world.settings())
    old = world.token("rsa-1")
    assert isinstance(await sign_in.verify(old), SignedIn)
    world.publish(jwk("rsa-2", kid="rsa-1"))
    await refresh(sign_in)
    assert isinstance(await sign_in.verify(old), Refused)


async def test_a_new_key_is_taken_without_waiting_for_the_timer(world: World, start: Start) -> None:
    _, sign_in = await start(world.settings())
    await refresh(sign_in)
    world.publish(jwk("rsa-1"), jwk("rsa-2"))
    assert isinstance(await sign_in.verify(world.token("rsa-2")), SignedIn)


async def test_invented_kids_have_the_keys_read_once_a_minute_and_starve_nobody(world: World, start: Start) -> None:
    _, sign_in = await start(world.settings())
    await refresh(sign_in)
    good = world.token()
    for minute in (1, 2):
        invented = [signed({"alg": "RS256", "kid": f"{minute}-{n}"}, world.claims()) for n in range(20)]
        verdicts = await asyncio.gather(*map(sign_in.verify, invented))
        assert all(isinstance(verdict, Refused) for verdict in verdicts)
        assert isinstance(await sign_in.verify(good), SignedIn)
        assert world.times_asked(JWKS) == 1 + minute
        world.now_s += 59.0 if minute == 2 else 60.0
    await sign_in.verify(signed({"alg": "RS256", "kid": "3"}, world.claims(iat=1)))
    assert world.times_asked(JWKS) == 3


async def test_a_key_that_is_newer_than_the_last_reading_is_unavailable_and_not_refused(
    world: World, start: Start
) -> None:
    """Somebody else's invented kid has used the minute up; nobody is signed out for it."""
    api, sign_in = await start(world.settings())
    assert isinstance(await sign_in.verify(signed({"alg": "RS256", "kid": "invented"}, world.claims())), Refused)
    world.now_s += 20
    world.publish(jwk("rsa-2"))
    token = world.token("rsa-2", iat=int(world.now_s))
    answer = await asked_with(api, token)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "40")
    world.now_s += 40
    assert (await asked_with(api, token)).status_code == 200


async def test_who_comes_while_the_keys_are_read_waits_for_that_reading(world: World, start: Start) -> None:
    _, sign_in = await start(world.settings())
    body = json.dumps({"keys": [jwk("rsa-1")]}).encode()
    world.server.say(JWKS, Reply([body[:10], body[10:]], pause_s=0.3))
    tokens = [world.token(sub=OWNER, jti=str(number)) for number in range(20)]
    gone = asyncio.create_task(sign_in.verify(tokens[0]))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(sign_in.verify(token)) for token in tokens]
    await asyncio.sleep(0)
    gone.cancel()
    assert all([isinstance(await other, SignedIn) for other in others]), "who goes away does not end it"
    assert world.times_asked(JWKS) == 1


PRIVATE = {**jwk("rsa-1"), "d": "AQAB"}
GOOD = json.dumps({"keys": [jwk("rsa-1")]}).encode()
BAD_SETS: dict[str, Reply] = {
    "404": Reply(GOOD, 404),
    "500": Reply(GOOD, 500),
    "401": Reply(GOOD, 401),
    "a redirect": Reply(b"", 302, {"location": "/elsewhere"}),
    "5 MB": Reply(b'{"keys":[' + b" " * 5_000_000 + b"]}"),
    "5 MB of keys": Reply(json.dumps({"keys": [jwk("rsa-1", kid=str(n)) for n in range(12_000)]}).encode()),
    "slow": Reply([bytes([byte]) for byte in GOOD], pause_s=0.2),
    "silent": Reply([GOOD[:5], GOOD[5:]], pause_s=5.0),
    "compressed": Reply(gzip.compress(GOOD + b" " * 50_000_000), headers={"content-encoding": "gzip"}),
    "headers without end": Reply(raw=b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500_000),
    "cut off": Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n" + GOOD),
    "a page": Reply(b"<html>Please wait</html>"),
    "nothing": Reply(b""),
    "a list": Reply(json.dumps([jwk("rsa-1")]).encode()),
    "no keys": Reply(b"{}"),
    "keys are an object": Reply(b'{"keys":{}}'),
    "keys twice": Reply(GOOD[:-1] + b',"keys":[]}'),
    "deep": Reply(b'{"keys":' + b"[" * 100_000),
    "too many keys": Reply(json.dumps({"keys": [jwk("rsa-1", kid=str(n)) for n in range(101)]}).encode()),
}


@pytest.mark.parametrize("name", BAD_SETS)
async def test_a_key_set_that_is_unusable_lets_nobody_in_and_signs_nobody_out(
    world: World, start: Start, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    api, sign_in = await start(world.settings(timeout_s=2.0))
    world.server.say("/elsewhere", Reply(GOOD))
    world.server.say(JWKS, BAD_SETS[name])
    token = world.token()
    answer = await asked_with(api, token)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:tocsin:problem:sign-in-unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert world.times_asked("/elsewhere") == 0
    world.publish(jwk("rsa-1"))
    assert await refresh(sign_in) is None
    world.server.say(JWKS, BAD_SETS[name])
    assert await refresh(sign_in) == 5, "it is asked for again soon"
    assert (await asked_with(api, token)).status_code == 200, "whose key is known stays signed in"
    assert (await asked_with(api, world.token("rsa-other"))).status_code == 503, "it may be a new key"
    printed = capsys.readouterr()
    assert "Please wait" not in printed.out + printed.err


UNUSABLE_KEYS: dict[str, object] = {
    "none": [],
    "private": [PRIVATE],
    "a shared secret": [{"kty": "oct", "kid": "rsa-1", "k": "c2VjcmV0", "alg": "RS256"}],
    "for encryption": [{**jwk("rsa-1"), "use": "enc"}],
    "for signing alone": [{**jwk("rsa-1"), "key_ops": ["sign"]}],
    "without a kid": [{name: value for name, value in jwk("rsa-1").items() if name != "kid"}],
    "kid is a list": [{**jwk("rsa-1"), "kid": ["rsa-1"]}],
    "for another algorithm": [jwk("rsa-1", alg="RS512")],
    "alg is a list": [jwk("rsa-1", alg=["RS256"])],
    "of 1024 bits": [jwk("short-1", kid="rsa-1")],
    "of another kind": [jwk("p256-1", kid="rsa-1")],
    "without a modulus": [{"kty": "RSA", "kid": "rsa-1", "e": "AQAB"}],
    "no key at all": ["rsa-1", 7, None, [], {}],
    "a modulus that is a number": [{**jwk("rsa-1"), "n": 17}],
    "an exponent of 1": [{**jwk("rsa-1"), "e": "AQ"}],
    "a point that is not on the curve": [{**jwk("p256-1", kid="rsa-1"), "x": "AAAA" * 10 + "AAA"}],
}


@pytest.mark.parametrize("name", UNUSABLE_KEYS)
async def test_a_set_without_a_usable_key_ends_the_keys_before_and_signs_nobody_out(
    world: World, start: Start, name: str
) -> None:
    api, sign_in = await start(world.settings())
    await refresh(sign_in)
    world.server.say(JWKS, Reply(json.dumps({"keys": UNUSABLE_KEYS[name]}).encode()))
    await refresh(sign_in)
    assert (await asked_with(api, world.token())).status_code == 503


async def test_an_unusable_key_does_not_spoil_its_neighbours(world: World, start: Start) -> None:
    world.server.say(JWKS, Reply(json.dumps({"keys": [PRIVATE, 7, jwk("rsa-1")]}).encode()))
    _, sign_in = await start(world.settings())
    assert isinstance(await sign_in.verify(world.token()), SignedIn)


async def test_an_issuer_that_is_down_signs_nobody_out(world: World, start: Start) -> None:
    api, sign_in = await start(world.settings(jwks_valid_s=3600))
    token = world.token(exp=int(world.now_s) + 90_000)
    await refresh(sign_in)
    world.server.stop()
    assert await refresh(sign_in) == 5
    assert (await asked_with(api, token)).status_code == 200
    assert (await asked_with(api, world.token("rsa-2"))).status_code == 503
    assert (await asked_with(api, "no.such.token")).status_code == 401, "it is none, whoever is asked"
    world.now_s += 3601
    assert (await asked_with(api, token)).status_code == 503, "its key may have been withdrawn since"
    world.server.start()
    await refresh(sign_in)
    assert (await asked_with(api, token)).status_code == 200


async def test_keys_that_nobody_has_confirmed_in_time_are_unavailable(world: World, start: Start) -> None:
    _, sign_in = await start(world.settings(jwks_valid_s=3600))
    assert isinstance(await sign_in.verify(signed({"alg": "RS256", "kid": "x"}, world.claims())), Refused)
    world.now_s += 3601
    sign_in.keys._asked_at = world.now_s  # type: ignore[union-attr]  # the minute is used up
    assert isinstance(await sign_in.verify(world.token(iat=1)), Unavailable)


async def test_a_server_with_another_certificate_is_not_believed(world: World, start: Start, tmp_path: Path) -> None:
    other = write_credentials(tmp_path / "other").ca
    api, sign_in = await start(world.settings(ca_file=other))
    assert (await asked_with(api, world.token())).status_code == 503
    verdict = await sign_in.verify(world.token())
    assert isinstance(verdict, Unavailable)
    assert "CERTIFICATE_VERIFY_FAILED" in verdict.reason


async def test_keys_are_read_from_a_file_and_again_by_the_timer(world: World, start: Start, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    _, sign_in = await start(world.settings(jwks_url=None, jwks_file=file))
    verdict = await sign_in.verify(world.token())
    assert isinstance(verdict, Unavailable)
    assert "sessions.jwks_file" in verdict.reason
    file.write_bytes(GOOD)
    assert await refresh(sign_in) is None
    assert isinstance(await sign_in.verify(world.token()), SignedIn)
    file.write_bytes(b" " * 1_000_000)
    assert await refresh(sign_in) == 5
    assert isinstance(await sign_in.verify(world.token()), SignedIn)
    assert world.server.asked == []


def test_of_two_keys_with_one_kid_the_first_counts() -> None:
    content = json.dumps({"keys": [jwk("rsa-1", kid="a"), jwk("rsa-2", kid="a"), jwk("p256-1", kid="a")]}).encode()
    keys = read_key_set(content, ("RS256", "ES256")).by_id["a"]
    assert keys == {"RS256": key("rsa-1").public_key(), "ES256": key("p256-1").public_key()}
