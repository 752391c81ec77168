"""A wall clock that is set changes neither ages nor pauses: those count by the monotonic clock."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.support.clocks import Clocks
from tests.support.line import apns_device, make_event, running_line

from tocsin.emulator.faults import Rule
from tocsin.providers.apns.provider_token import ProviderToken
from tocsin.providers.fcm.access_token import AccessToken
from tocsin.providers.fcm.credentials import ServiceAccount
from tocsin.providers.fcm.oauth import Token, TokenRefused, TokenUnavailable

HOUR_S = 3600.0


def provider_token(clocks: Clocks) -> ProviderToken:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return ProviderToken(pem, "KEYID12345", "39JSDKGJ38", wall_clock=clocks.wall, monotonic=clocks.monotonic)


def issued_at(header: bytes) -> int:
    claims = jwt.decode(header.removeprefix(b"bearer "), options={"verify_signature": False})
    return int(claims["iat"])


@pytest.mark.parametrize("by_s", [-6 * HOUR_S, 6 * HOUR_S])
def test_a_provider_token_with_a_wrong_time_is_made_anew_and_renewed_when_it_is_due(by_s: float) -> None:
    clocks = Clocks()
    token = provider_token(clocks)
    token.header()
    clocks.set_wall_clock(by_s=by_s)
    second = token.header()
    assert issued_at(second) == int(clocks.wall_s), "the clocks of this test begin at a full half hour"
    clocks.pass_time(29 * 60)
    assert token.header() == second
    clocks.pass_time(60)
    assert issued_at(token.header()) == int(clocks.wall_s)


def test_a_provider_token_outlives_a_small_correction_of_the_clock_and_is_renewed_when_it_is_due() -> None:
    clocks = Clocks()
    token = provider_token(clocks)
    first = token.header()
    clocks.set_wall_clock(by_s=-250)
    assert token.header() == first
    clocks.pass_time(35 * 60)
    assert token.header() != first


@pytest.mark.parametrize("by_s", [-6 * HOUR_S, 6 * HOUR_S])
def test_the_age_of_a_provider_token_is_the_time_that_has_passed(by_s: float) -> None:
    """By it the pause is counted that Apple asks for with TooManyProviderTokenUpdates."""
    clocks = Clocks()
    token = provider_token(clocks)
    token.header()
    clocks.pass_time(60)
    clocks.set_wall_clock(by_s=by_s)
    assert token.age_s == 60


class Google:
    """Grants a token each time it is asked, unless it is told to fail. See `oauth.OAuthClient`."""

    def __init__(self) -> None:
        self.fails = False
        self.asked_at: list[float] = []

    async def token(self, account: ServiceAccount, now_s: float) -> Token:
        self.asked_at.append(now_s)
        if self.fails:
            raise TokenUnavailable("cannot be reached")
        return Token(f"token {len(self.asked_at)}", 3600)

    async def close(self) -> None:
        pass


async def renewed(token: AccessToken) -> bytes | None:
    """What is in use once a renewal that is due has ended."""
    token.header()
    for _ in range(5):
        await asyncio.sleep(0)
    return token.header()


async def test_a_failed_renewal_is_tried_again_soon_though_the_clock_was_set_back() -> None:
    clocks, google = Clocks(), Google()
    token = AccessToken(ServiceAccount(), google, wall_clock=clocks.wall, monotonic=clocks.monotonic)
    first = await token.ready()
    clocks.pass_time(3400)
    google.fails = True
    assert await renewed(token) == first
    clocks.set_wall_clock(by_s=-6 * HOUR_S)
    google.fails = False
    clocks.pass_time(61)
    assert await renewed(token) == b"Bearer token 3"
    assert google.asked_at[-1] == clocks.wall_s, "Google is told the time as it is now"


@pytest.mark.parametrize("by_s", [-6 * HOUR_S, 6 * HOUR_S])
async def test_an_access_token_is_used_for_as_long_as_it_lives(by_s: float) -> None:
    clocks, google = Clocks(), Google()
    token = AccessToken(ServiceAccount(), google, wall_clock=clocks.wall, monotonic=clocks.monotonic)
    first = await token.ready()
    clocks.set_wall_clock(by_s=by_s)
    clocks.pass_time(1800)
    assert await renewed(token) == first
    clocks.pass_time(1600)
    assert await renewed(token) == b"Bearer token 2", "renewed before its end"
    assert len(google.asked_at) == 2


async def test_an_access_token_that_lives_for_a_moment_is_not_renewed_with_every_push() -> None:
    clocks = Clocks()
    asked = 0

    class Google:
        async def token(self, account: ServiceAccount, now_s: float) -> Token:
            nonlocal asked
            asked += 1
            return Token("ya29", 2.0)

        async def close(self) -> None: ...

    access = AccessToken(ServiceAccount(), Google(), wall_clock=clocks.wall, monotonic=clocks.monotonic)
    for _ in range(100):
        assert await access.ready() == b"Bearer ya29"
        await asyncio.sleep(0)
    assert asked == 1
    clocks.pass_time(1.5)
    assert await access.ready() == b"Bearer ya29"
    await access.close()


@pytest.mark.parametrize("by_s", [-74, 74])
async def test_an_access_token_that_is_refused_as_the_clock_was_set_on_the_way_is_asked_for_once_more(
    by_s: float,
) -> None:
    """Its lane would pause for a minute: Google has refused a time, and not the service account."""
    clocks = Clocks()

    class Google:
        asked_at: list[float] = []  # noqa: RUF012

        async def token(self, account: ServiceAccount, now_s: float) -> Token:
            self.asked_at.append(now_s)
            if len(self.asked_at) == 1:
                clocks.set_wall_clock(by_s=by_s)
                raise TokenRefused("invalid_grant")
            return Token("a token", HOUR_S)

        async def close(self) -> None: ...

    access = AccessToken(ServiceAccount(), Google(), wall_clock=clocks.wall, monotonic=clocks.monotonic)
    assert await access.ready() == b"Bearer a token"
    assert not access.rejected
    assert Google.asked_at == [clocks.wall_s - by_s, clocks.wall_s]


async def test_google_is_asked_for_access_tokens_however_often_it_could_not_be_reached() -> None:
    """A link that is down for days fails some thousand times in a row."""
    clocks = Clocks()

    class Google:
        is_there = False

        async def token(self, account: ServiceAccount, now_s: float) -> Token:
            if not self.is_there:
                raise TokenUnavailable("no route to host")
            return Token("ya29", 3600.0)

        async def close(self) -> None: ...

    google = Google()
    access = AccessToken(ServiceAccount(), google, wall_clock=clocks.wall, monotonic=clocks.monotonic)
    for _ in range(1100):
        assert await access.ready() is None
        clocks.pass_time(60.0)
    google.is_there = True
    assert await access.ready() == b"Bearer ya29"
    await access.close()


async def test_a_clock_that_is_set_back_right_before_a_stop_is_noticed_by_it(tmp_path: Path) -> None:
    """What is parked would wait until that hour comes again: at the next start nothing may tell of the step."""
    ahead_s = 7200.0
    async with running_line(tmp_path, wall_clock=lambda: time.time() + ahead_s) as line:
        line.script(Rule(status=503, reason="ServiceUnavailable", headers={"retry-after": "60"}))
        await line.register(apns_device())
        event = make_event(apns_device().owner, lifetime_s=86_400)
        await line.append(event)
        async with asyncio.timeout(20):
            while not (await line.store.schedule.due()):
                await asyncio.sleep(0.01)
        ahead_s = 0.0
    with contextlib.closing(sqlite3.connect(tmp_path / "tocsin.db")) as driver:
        (due_ms,) = driver.execute("SELECT max(due_ms) FROM parked").fetchone()
    assert due_ms < (time.time() + 900) * 1000
