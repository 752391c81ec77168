"""How often a user, a key and an address may call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from tests.api.conftest import Api, OpenApi, bearer

from tocsin.api.client_address import TrustedProxies
from tocsin.api.limits import Limits
from tocsin.api.problems import RequestError
from tocsin.settings import Limits as LimitSettings
from tocsin.settings import Server, Settings
from tocsin.store.records import KeyLimits, Rate, Role
from tocsin.telemetry import Metrics

DIRECT = Server(trusted_proxies=())
"""Clients come directly, so that limits by address apply."""
THROTTLED = "urn:tocsin:problem:throttled"
Golden = Callable[[str], dict[str, Any]]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limited(clock: Clock, **limits: int) -> Limits:
    return Limits(Settings(limits=LimitSettings(**limits)), clock)


def is_throttled(answer: httpx.Response) -> bool:
    if answer.status_code != 429:
        return False
    assert answer.json()["type"] == THROTTLED
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/problem+json"
    return True


async def test_one_user_who_calls_too_often_waits_and_nobody_else_does(open_api: OpenApi) -> None:
    clock = Clock()
    async with open_api(server=DIRECT, limits=limited(clock, user_per_minute=3)) as api:
        other = bearer(await api.sign_in("1de7257a-4f34-11e0-ab6e-0024e8f90cc1"))
        second = bearer(await api.sign_in())
        for _ in range(2):
            assert (await api.client.get("/api/push", headers=bearer(api.sid))).status_code == 200
        assert (await api.client.get("/api/push", headers=second)).status_code == 200
        for headers in (bearer(api.sid), second):
            answer = await api.client.get("/api/push", headers=headers)
            assert is_throttled(answer)
            assert answer.headers["retry-after"] == "20"
        assert is_throttled(await api.push({"system": "fcm", "action": "add", "device_token": "abc"}))
        assert (await api.client.get("/api/push", headers=other)).status_code == 200
        clock.now += 20.1
        assert await api.tokens() == {"fcm": {"device_tokens": []}, "apns": {"device_tokens": {}}}


async def test_in_the_platforms_convention_a_limit_is_a_failure_with_retry_after(open_api: OpenApi) -> None:
    async with open_api(convention="platform", server=DIRECT, limits=limited(Clock(), user_per_minute=1)) as api:
        assert (await api.tokens())["status"] == "ok"
        answer = await api.client.get("/api/push", headers=bearer(api.sid))
        assert (answer.status_code, answer.json()["status"], answer.headers["retry-after"]) == (200, "fail", "60")
        assert "1 a minute are allowed" in answer.json()["message"]


async def test_one_key_that_calls_too_often_waits_and_no_other_does(open_api: OpenApi, golden: Golden) -> None:
    clock = Clock()
    async with open_api(server=DIRECT, limits=limited(clock, key_per_s=2)) as api:
        other, _ = await api.store.access.create_key(Role.PRODUCER, "", None)
        answers = [await api.events(golden("fax_new")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert is_throttled(answers[2])
        assert (await api.client.post("/api/events", json=golden("fax_new"), headers=bearer(other))).status_code == 202
        statuses = [(await api.operate("GET", "/backlog")).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        clock.now += 0.51
        assert (await api.events(golden("fax_new"))).status_code == 202
        assert (await api.store.queue.backlog()).events == 4


async def test_a_key_with_a_rate_sends_no_more_events_than_that(open_api: OpenApi, golden: Golden) -> None:
    clock = Clock()
    async with open_api(server=DIRECT, limits=limited(clock)) as api:
        limits = KeyLimits(rate=Rate(10, 1))
        api.producer, _ = await api.store.access.create_key(Role.PRODUCER, "", None, limits)
        assert (await api.ndjson(*[golden("fax_new")] * 9)).status_code == 202
        assert (await api.events(golden("fax_new"))).status_code == 202
        answer = await api.events(golden("fax_new"))
        assert is_throttled(answer)
        assert "10 a second are allowed; nothing was accepted" in answer.json()["detail"]
        clock.now += 0.11
        # A batch may be larger than the rate. What it uses up is paid for afterwards.
        assert (await api.ndjson(*[golden("fax_new")] * 50)).status_code == 202
        answer = await api.events(golden("fax_new"))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        clock.now += 5.1
        assert (await api.events(golden("fax_new"))).status_code == 202
        assert (await api.store.queue.backlog()).events == 61


async def test_a_body_is_not_read_where_its_key_has_no_event_left(open_api: OpenApi, golden: Golden) -> None:
    async with open_api(server=DIRECT, limits=limited(Clock())) as api:
        limits = KeyLimits(rate=Rate(1, 60))
        api.producer, _ = await api.store.access.create_key(Role.PRODUCER, "", None, limits)
        assert (await api.events(golden("fax_new"))).status_code == 202
        assert is_throttled(await api.events(b"\xff", headers={"content-type": "image/png"}))


async def test_events_that_break_a_rule_use_up_nothing(open_api: OpenApi, golden: Golden) -> None:
    async with open_api(server=DIRECT, limits=limited(Clock())) as api:
        limits = KeyLimits(rate=Rate(1, 60), events=frozenset({"fax_new"}))
        api.producer, _ = await api.store.access.create_key(Role.PRODUCER, "", None, limits)
        for _ in range(3):
            assert (await api.events({"message": "fax_new"})).status_code == 400
            assert (await api.events(golden("chat_message"))).status_code == 403
        assert (await api.events(golden("fax_new"))).status_code == 202


async def test_events_that_the_store_does_not_take_use_up_nothing(open_api: OpenApi, golden: Golden) -> None:
    async with open_api(max_events=1, limits=limited(Clock())) as api:
        limits = KeyLimits(rate=Rate(2, 60))
        api.producer, _ = await api.store.access.create_key(Role.PRODUCER, "", None, limits)
        assert (await api.events(golden("fax_new"))).status_code == 202
        for _ in range(3):
            assert (await api.events(golden("fax_new"))).status_code == 503
        assert (await api.ndjson(*[golden("fax_new")] * 2)).status_code == 413


async def test_what_is_throttled_and_wrong_is_counted(open_api: OpenApi) -> None:
    metrics = Metrics()
    limits = Limits(Settings(limits=LimitSettings(user_per_minute=1)), Clock(), metrics.throttled, metrics.wrong_secret)
    async with open_api(limits=limits) as api:
        for secret in (api.sid, api.sid, api.sid, "wrong"):
            await api.client.get("/api/push", headers=bearer(secret))
    assert metrics.registry.get_sample_value("tocsin_throttled_total", {"limit": "user"}) == 2
    assert metrics.registry.get_sample_value("tocsin_wrong_secrets_total") == 1


async def test_an_address_that_calls_too_often_waits_but_not_with_a_valid_key(
    open_api: OpenApi, golden: Golden
) -> None:
    clock = Clock()
    async with open_api(server=DIRECT, limits=limited(clock, address_per_s=3)) as api:
        statuses = [(await api.client.get("/schema")).status_code for _ in range(2)]
        statuses.append((await api.client.get("/api/admin/backlog")).status_code)
        assert statuses == [200, 200, 401]
        for path, secret in (("/schema", ""), ("/api/push", api.sid), ("/api/admin/backlog", "")):
            assert is_throttled(await api.client.get(path, headers=bearer(secret) if secret else {})), path
        assert (await api.events(golden("fax_new"))).status_code == 202
        assert (await api.operate("GET", "/backlog")).status_code == 200
        for _ in range(5):
            assert (await api.client.get("/health/ready")).status_code == 200
            assert (await api.client.get("/health/live")).status_code == 200
        clock.now += 0.34
        assert (await api.client.get("/api/push", headers=bearer(api.sid))).status_code == 200


@pytest.mark.parametrize("path", ["/api/push", "/api/admin/backlog", "/health/ready"])
async def test_wrong_secrets_slow_their_address_down(open_api: OpenApi, path: str) -> None:
    clock = Clock()
    async with open_api(server=DIRECT, limits=limited(clock, wrong_secrets_per_minute=4)) as api:
        right = bearer(api.sid if path == "/api/push" else api.admin)
        for number in range(4):
            answer = await api.client.get(path, headers=bearer(f"wrong-{number}"))
            assert answer.status_code == (200 if path == "/health/ready" else 401)
        # Whether one is right is not looked at any more, not even of a right one: there is nothing to be guessed.
        for headers in (bearer("wrong"), right):
            answer = await api.client.get(path, headers=headers)
            if path == "/health/ready":
                assert answer.json() == {"ready": True}
            else:
                assert is_throttled(answer)
                assert answer.headers["retry-after"] == "15"
        clock.now += 15.1
        answer = await api.client.get(path, headers=right)
        assert answer.status_code == 200
        assert path != "/health/ready" or "lanes" in answer.json()


async def test_what_is_not_wrong_slows_nobody_down(open_api: OpenApi) -> None:
    async with open_api(server=DIRECT, limits=limited(Clock(), wrong_secrets_per_minute=1)) as api:
        nobody = await api.sign_in(None)
        for _ in range(3):
            assert (await api.client.get("/api/push")).status_code == 401
            assert (await api.client.get("/api/push", headers=bearer(nobody))).status_code == 401
            assert (await api.client.get("/api/admin/backlog")).status_code == 401
            assert (await api.client.get("/api/admin/backlog", headers=bearer(api.producer))).status_code == 403
        assert (await api.operate("GET", "/backlog")).status_code == 200


async def test_limits_by_address_are_off_where_it_is_not_known_what_is_in_front(open_api: OpenApi) -> None:
    limits = limited(Clock(), address_per_s=1, wrong_secrets_per_minute=1)
    async with open_api(limits=limits) as api:
        for _ in range(5):
            assert (await api.client.get("/api/push", headers=bearer("wrong"))).status_code == 401
            assert (await api.client.get("/schema")).status_code == 200


async def test_clients_behind_a_named_proxy_are_limited_each_for_itself(open_api: OpenApi) -> None:
    behind = Server(trusted_proxies=("127.0.0.0/8",))  # type: ignore[arg-type]
    async with open_api(server=behind, limits=limited(Clock(), wrong_secrets_per_minute=2)) as api:

        async def status(client: str, secret: str) -> int:
            headers = bearer(secret) | ({"x-forwarded-for": client} if client else {})
            return (await api.client.get("/api/push", headers=headers)).status_code

        assert [await status("203.0.113.7", "wrong") for _ in range(3)] == [401, 401, 429]
        assert await status("203.0.113.7", api.sid) == 429
        assert await status("198.51.100.1, 203.0.113.8", api.sid) == 200
        # Of a request in which the proxy says nothing it is not certain whose it is.
        assert [await status("", "wrong") for _ in range(3)] == [401, 401, 401]


async def test_zero_is_no_limit(open_api: OpenApi) -> None:
    limits = limited(Clock(), user_per_minute=0, key_per_s=0, address_per_s=0, wrong_secrets_per_minute=0)
    async with open_api(server=DIRECT, limits=limits) as api:
        for _ in range(3):
            assert (await api.client.get("/api/push", headers=bearer("wrong"))).status_code == 401
            assert (await api.client.get("/api/push", headers=bearer(api.sid))).status_code == 200
            assert (await api.operate("GET", "/backlog")).status_code == 200


def scope(address: str) -> dict[str, Any]:
    made: dict[str, Any] = {"client": (address, 1234), "headers": []}
    TrustedProxies(()).apply(made)
    return made


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::5", True),
        ("2001:db8:1:2::4", "2001:db8:1:3::4", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
    ],
)
def test_all_addresses_of_an_ipv6_customer_are_one(one: str, other: str, same: bool) -> None:
    limits = limited(Clock(), address_per_s=1)
    limits.address(scope(one))
    with pytest.raises(RequestError) if same else nullcontext():
        limits.address(scope(other))


async def test_wrong_secrets_are_in_one_line_of_the_log_with_a_count_and_without_the_secret(open_api: OpenApi) -> None:
    limits = limited(Clock(), wrong_secrets_per_minute=3)
    async with open_api(server=DIRECT, limits=limits) as api:
        with capture_logs() as lines:
            for number in range(2):
                await api.client.get("/api/admin/backlog", headers=bearer(f"secret-{number}"))
            await api.client.get("/api/push", headers={"cookie": "sid=secret-3"})
            await api.client.get("/api/push", headers=bearer("secret-4"))
            assert lines == []
            await limits.wrong_secrets.report()
            await limits.wrong_secrets.report()
    counts = {"count": 3, "not_looked_at": 1, "addresses": {"127.0.0.1": 4}}
    assert lines == [{"event": "wrong keys or sessions", "log_level": "warning", **counts}]


async def test_the_log_names_the_ten_worst_addresses(api: Api) -> None:
    limits = limited(Clock())
    for number in range(20_000):
        limits.wrong_secrets.wrong(f"10.0.{number // 256}.{number % 256}")
    for _ in range(5):
        limits.wrong_secrets.wrong("10.0.0.7")
    with capture_logs() as lines:
        await limits.wrong_secrets.report()
    (line,) = lines
    assert line["count"] == 20_005
    assert len(line["addresses"]) == 10
    assert next(iter(line["addresses"].items())) == ("10.0.0.7", 6)
