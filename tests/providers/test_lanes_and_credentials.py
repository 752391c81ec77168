"""Lanes feel their own failures and nobody else's; credentials are renewed and replaced without losing a delivery."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.support.line import (
    APPLICATION,
    PROJECT,
    Line,
    apns_credential,
    apns_device,
    fcm_device,
    make_event,
    running_line,
)

from tocsin.delivery.breaker import LINK, Breaker
from tocsin.delivery.lane import LaneOptions
from tocsin.domain.routes import LaneState
from tocsin.emulator.faults import Latency, Match, Rule
from tocsin.http2.pool import PoolOptions
from tocsin.providers.apns.credentials import read_stored
from tocsin.providers.apns.provider_token import LEAST_AGE_S, ProviderToken
from tocsin.providers.fcm.access_token import AccessToken
from tocsin.providers.fcm.credentials import ServiceAccount, read_service_account
from tocsin.providers.fcm.oauth import HttpOAuthClient, Token
from tocsin.store.records import Result

pytestmark = pytest.mark.slow

PRODUCTION = f"apns:production:{APPLICATION}"
SANDBOX = f"apns:sandbox:{APPLICATION}"


async def test_a_lane_that_only_fails_opens_its_breaker_parks_its_own_and_leaves_the_others_alone(
    tmp_path: Path,
) -> None:
    async with running_line(tmp_path) as line:
        bad, good = [apns_device() for _ in range(5)], apns_device(sandbox=True)
        await line.register(*bad, good)
        line.script(Rule(match=Match(environment="production"), status=503, reason="ServiceUnavailable"))
        events = [make_event() for _ in range(200)]
        for start in range(0, 200, 20):
            await line.append(*events[start : start + 20])
            await asyncio.sleep(0.02)
        deadline = time.monotonic() + 10
        while len(line.emulator.inbox.find()) < 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert line.lane(PRODUCTION).state is LaneState.OPEN
        assert line.lane(SANDBOX).state is LaneState.RUNNING
        assert line.lane(PRODUCTION).waiting == 0, "what cannot be sent waits in the queue, not in memory"
        await line.dispatcher.look_after()
        assert line.lane(PRODUCTION).parked_due_ms is not None, "and the lane's status says so"
        assert line.lane(SANDBOX).parked_due_ms is None
        # Apple is well again: a probe goes out, the breaker closes, everything arrives.
        line.script()
        await line.finished(*events, timeout_s=30)
        assert line.lane(PRODUCTION).state is LaneState.RUNNING
        assert len({entry["id"] for entry in line.emulator.inbox.find()}) == 200 * 6


async def test_a_lane_that_never_answers_holds_only_its_own_bound_and_the_others_flow(tmp_path: Path) -> None:
    options = LaneOptions(in_flight=50, waiting=100)
    async with running_line(tmp_path, lane=options, pool=PoolOptions(request_timeout_s=60)) as line:
        stuck, good = apns_device(), apns_device(sandbox=True)
        await line.register(stuck, good)
        line.script(Rule(match=Match(environment="production"), no_answer=True))
        events = [make_event() for _ in range(1000)]
        await line.append(*events)
        deadline = time.monotonic() + 15
        while len(line.emulator.inbox.find()) < 1000:
            assert time.monotonic() < deadline, line.dispatcher.lanes.statuses()
            await asyncio.sleep(0.02)
        held = line.lane(PRODUCTION)
        assert held.in_flight <= 50
        assert held.waiting <= 100


async def test_urgent_events_overtake_the_others_within_a_lane(tmp_path: Path) -> None:
    async with running_line(tmp_path, lane=LaneOptions(in_flight=1, waiting=1000)) as line:
        device = apns_device()
        await line.register(device)
        line.script(latency=Latency(fixed_ms=5))
        bulk = [make_event() for _ in range(100)]
        await line.append(*bulk)
        await line.attempted(bulk[0])
        urgent = make_event(message="dialplan_callreverse_start")
        await line.append(urgent)
        await line.finished(urgent)
        arrived = [entry["body"]["message"] for entry in line.emulator.inbox.find()]
        assert len(arrived) < 60, "the urgent one did not wait for the hundred before it"


async def test_a_lane_paused_for_a_wrong_key_says_so_and_resumes_by_itself_when_the_key_is_replaced(
    tmp_path: Path,
) -> None:
    async with running_line(tmp_path) as line:
        [right] = await line.store.credentials.of("apns")
        wrong_key = ec.generate_private_key(ec.SECP256R1())
        pem = wrong_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        await line.store.credentials.put(apns_credential(pem, read_stored(right).key_id))
        await line.configure()
        device = apns_device()
        await line.register(device)
        events = [make_event() for _ in range(10)]
        await line.append(*events)
        await line.attempted(events[0])
        status = line.lane(PRODUCTION)
        assert (status.state, status.reason) == (LaneState.PAUSED, "InvalidProviderToken")
        assert line.metric(PRODUCTION, Result.MISCONFIGURED, "InvalidProviderToken") >= 1
        await line.store.credentials.put(right)
        await line.configure()
        more = make_event()
        await line.append(more)
        await line.finished(more)
        assert line.lane(PRODUCTION).state is LaneState.RUNNING
        # What waited for the operator goes out now, not when its back-off would have ended.
        records = await line.finished(*events)
        assert {record.attempts[-1].result for record in records} == {"delivered"}


async def test_replacing_a_key_under_load_fails_no_delivery(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        [application] = await line.store.credentials.of("apns")
        certificate = line.emulator.files.certificate.read_text()
        await line.register(apns_device())
        line.script(latency=Latency(fixed_ms=10))
        events = [make_event() for _ in range(2000)]
        for start in range(0, 2000, 100):
            await line.append(*events[start : start + 100])
            if start == 600:
                new = apns_credential(certificate_pem=certificate)
                await line.store.credentials.put(new)
                await line.configure()
            if start == 1200:
                await line.store.credentials.put(application)
                await line.configure()
            await asyncio.sleep(0.005)
        records = await line.finished(*events, timeout_s=30)
        assert {len(record.attempts) for record in records} == {1}
        assert {record.attempts[0].result for record in records} == {"delivered"}


def test_a_provider_token_is_renewed_at_each_half_hour_and_not_before(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    begun = 1_700_000_000 // 1800 * 1800
    now = begun + 5.0
    token = ProviderToken(pem, "KEYID12345", "39JSDKGJ38", wall_clock=lambda: now, monotonic=lambda: now)
    first = token.header()
    now = begun + 1799.0
    assert token.header() == first
    now = begun + 1801.0
    second = token.header()
    assert second != first
    claims = jwt.decode(
        second.removeprefix(b"bearer "), key.public_key(), algorithms=["ES256"], options={"verify_iat": False}
    )
    assert claims == {"iss": "39JSDKGJ38", "iat": begun + 1800}
    assert jwt.get_unverified_header(second.removeprefix(b"bearer ")) == {
        "alg": "ES256",
        "typ": "JWT",
        "kid": "KEYID12345",
    }


def test_two_nodes_make_the_same_provider_token_though_their_clocks_differ_by_seconds() -> None:
    pem, begun, now = _key_pem(), 1_700_000_000 // 1800 * 1800, 0.0
    ahead, behind = 4.0, -3.0
    nodes = [
        ProviderToken(pem, "KEYID12345", "39JSDKGJ38", wall_clock=wall, monotonic=lambda: now)
        for wall in (lambda: begun + now + ahead, lambda: begun + now + behind)
    ]
    made: list[set[bytes]] = []
    for passed_s in (10.0, 600.0, 1790.0, 1799.0, 1810.0, 3590.0, 3610.0):
        now = passed_s
        made.append({node.header() for node in nodes})
    assert [len(tokens) for tokens in made] == [1, 1, 1, 2, 1, 1, 1], "they differ for seconds, at a renewal alone"
    assert made[3] == made[2] | made[4], "and then it is the one before and the one after, no third"
    assert len(set().union(*made)) == 3, "one for each half hour, whoever makes it"
    started_later = ProviderToken(
        pem, "KEYID12345", "39JSDKGJ38", wall_clock=lambda: begun + now, monotonic=lambda: 9.0
    )
    assert {started_later.header()} == made[-1], "a node that starts, or starts again, adds none"


def test_a_provider_token_that_was_first_used_shortly_before_its_renewal_is_kept_for_as_long_as_apple_wants() -> None:
    """Apple may count its 20 minutes from when it saw a token first."""
    begun = 1_700_000_000 // 1800 * 1800
    now = begun + 1795.0
    token = ProviderToken(_key_pem(), "KEYID12345", "39JSDKGJ38", wall_clock=lambda: now, monotonic=lambda: now)
    first = token.header()
    now += 20 * 60
    assert token.header() == first
    now += 61
    assert token.header() != first


def test_nodes_whose_provider_token_is_called_expired_replace_it_by_the_same_one() -> None:
    pem, begun = _key_pem(), 1_700_000_000 // 1800 * 1800
    now = begun + 900.0
    nodes = [
        ProviderToken(pem, "KEYID12345", "39JSDKGJ38", wall_clock=lambda: now, monotonic=lambda: now) for _ in range(2)
    ]
    first = nodes[0].header()
    assert nodes[1].header() == first
    for node in nodes:
        assert node.expired(first)
        now += 20
    replaced = {node.header() for node in nodes}
    assert len(replaced) == 1
    assert first not in replaced


def test_an_expired_provider_token_is_renewed_once_and_a_second_time_running_blames_the_clock(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    now = 1_700_000_000.0
    token = ProviderToken(pem, "KEYID12345", "39JSDKGJ38", wall_clock=lambda: now, monotonic=lambda: now)
    first = token.header()
    now += 600
    assert token.expired(first), "a new one is minted, whatever the age"
    assert token.expired(first), "others that were sent with the old one are simply tried again"
    assert not token.expired(token.header()), "the new one is called expired too: it is the clock"


def test_a_success_in_between_starts_the_count_of_expired_provider_tokens_anew(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    token = ProviderToken(_key_pem(), "KEYID12345", "39JSDKGJ38", wall_clock=lambda: now, monotonic=lambda: now)
    first = token.header()
    assert token.expired(first)
    second = token.header()
    assert second != first
    token.accepted(first)
    token.accepted(second)
    now += 60
    assert token.expired(second), "it was accepted: it is not the clock"
    assert token.header() == second, "and not renewed a second time within 20 minutes: Apple would not allow it"
    assert not token.expired(second), "twice running"
    token.accepted(second)
    now += LEAST_AGE_S
    assert token.expired(second)
    assert token.header() != second


def test_a_provider_token_that_is_called_expired_twice_is_replaced_as_soon_as_apple_allows_it(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    token = ProviderToken(_key_pem(), "KEYID12345", "39JSDKGJ38", wall_clock=lambda: now, monotonic=lambda: now)
    assert token.expired(token.header())
    second = token.header()
    assert not token.expired(second)
    now += 19 * 60
    assert token.header() == second
    now += 2 * 60
    third = token.header()
    assert third != second
    assert not token.expired(third), "the count goes on"


def _key_pem() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


async def test_two_expired_provider_tokens_with_successes_between_do_not_pause_the_lane(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        await line.register(apns_device())
        for _ in range(3):
            line.script(Rule(status=403, reason="ExpiredProviderToken", times=1))
            events = [make_event() for _ in range(50)]
            for event in events:
                await line.append(event)
            records = await line.finished(*events)
            assert {record.attempts[-1].result for record in records} == {Result.DELIVERED}
            assert line.lane(PRODUCTION).state is LaneState.RUNNING


async def test_two_refused_access_tokens_with_successes_between_do_not_pause_the_lane(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        await line.register(fcm_device())
        for _ in range(3):
            line.script(Rule(status=401, reason="UNAUTHENTICATED", times=1))
            events = [make_event() for _ in range(50)]
            for event in events:
                await line.append(event)
            records = await line.finished(*events)
            assert {record.attempts[-1].result for record in records} == {Result.DELIVERED}
            assert line.lane(f"fcm:{PROJECT}").state is LaneState.RUNNING


async def test_an_access_token_that_is_refused_twice_running_is_not_kept_for_the_probes(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        files = line.emulator.files
        account = read_service_account(files.service_account.read_bytes(), ("localhost",))
        google = HttpOAuthClient(("localhost",), files.ca)
        token = AccessToken(account, google, wall_clock=time.time, monotonic=time.monotonic)
        first = await token.ready()
        assert token.expired(first)
        second = await token.ready()
        assert second not in (None, first)
        assert not token.expired(second)
        third = await token.ready()
        assert third not in (None, first, second), "the next probe has a new one"
        assert not token.expired(third), "the count goes on"
        fourth = await token.ready()
        token.accepted(fourth)
        assert token.expired(fourth), "until one is accepted"
        await token.close()


class _AtTheRealTime(HttpOAuthClient):
    """The emulator's clock is not the test's."""

    async def token(self, account: ServiceAccount, now_s: float) -> Token:
        return await super().token(account, time.time())


async def test_an_access_token_is_renewed_ahead_of_time_in_the_background_one_renewal_at_a_time(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        now = time.time()
        files = line.emulator.files
        account = read_service_account(files.service_account.read_bytes(), ("localhost",))
        token = AccessToken(
            account, _AtTheRealTime(("localhost",), files.ca), wall_clock=lambda: now, monotonic=lambda: now
        )
        first = await token.ready()
        assert first is not None
        assert line.emulator.inbox.tokens_issued == 1
        now += 3600 - 200
        for _ in range(10):
            assert token.header() == first, "the old one serves until the new one is there"
        deadline = time.monotonic() + 5
        while token.header() == first:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert line.emulator.inbox.tokens_issued == 2
        await token.close()


async def test_an_access_token_that_google_calls_expired_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        await line.register(fcm_device())
        first = make_event()
        await line.append(first)
        await line.finished(first)
        line.script(Rule(expire_tokens=True, times=1))
        events = [make_event() for _ in range(50)]
        await line.append(*events)
        records = await line.finished(*events)
        assert {record.attempts[-1].result for record in records} == {"delivered"}


async def test_a_project_without_an_access_token_waits_as_a_whole_even_where_all_pushes_are_for_one_phone(
    tmp_path: Path,
) -> None:
    """Nothing of the project can be sent: else each push would be tried again and again, and wait longer each time."""
    async with running_line(tmp_path) as line:
        await line.register(fcm_device())
        line.script(Rule(match=Match(provider="oauth"), status=503))
        events = [make_event() for _ in range(50)]
        for start in range(0, 50, 10):
            await line.append(*events[start : start + 10])
            await asyncio.sleep(0.05)
        deadline = time.monotonic() + 5
        while line.lane(f"fcm:{PROJECT}").state is not LaneState.OPEN:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        line.script()
        for record in await line.finished(*events, timeout_s=30):
            assert record.attempts[-1].result == Result.DELIVERED
            assert len(record.attempts) < 8


async def test_half_of_twenty_attempts_failing_opens_the_breaker() -> None:
    breaker = Breaker()
    opened = []
    for number in range(12):
        opened.append(breaker.failure(f"device {number}"))
        breaker.healthy(1)
    assert opened == [False] * 10 + [True] * 2, "the tenth failure is the nineteenth attempt"


async def test_one_device_never_opens_the_breaker_and_a_link_that_fails_does() -> None:
    breaker = Breaker()
    assert not any(breaker.failure("device") for _ in range(100))
    breaker.close()
    assert [breaker.failure(LINK) for _ in range(5)] == [False] * 4 + [True]


async def test_a_start_brings_nothing_forward_but_where_a_credential_was_replaced_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def due_in_s(line: Line) -> float:
        due = await line.store.schedule.due()
        return due[PRODUCTION] / 1000 - time.time()

    device, event = apns_device(), make_event()
    wait = Rule(match=Match(token=device.token), status=429, reason="TooManyRequests", headers={"retry-after": "600"})
    async with running_line(tmp_path) as line:
        line.script(wait)
        await line.register(device)
        await line.append(event)
        await line.attempted(event)
        assert await due_in_s(line) > 500
    async with running_line(tmp_path) as line:
        assert await due_in_s(line) > 500, "Apple has asked for ten minutes"
    replaced = partial(apns_credential, changed_ms=int(time.time() * 1000))
    monkeypatch.setattr("tests.support.line.apns_credential", replaced)
    async with running_line(tmp_path) as line:
        [record] = await line.finished(event)
        assert record.attempts[-1].result == "delivered"
