"""Every fault that a script can ask for, as it looks from the other end of the wire."""

from __future__ import annotations

import asyncio
import random
import ssl
import statistics
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h2.errors
import httpx
import pytest
from tests.emulator.lab import BODY, TOPIC, Lab, Laboratory, new_token
from tests.emulator.test_fcm_is_as_strict_as_google import FCM_ERROR, GOOD
from tests.emulator.wire import Answer, Wire

from tocsin.emulator.faults import Goaway, Latency, Match, Rule, Script, load_script


async def _push(lab: Lab, door: str = "production", token: str | None = None, **changes: str | None) -> Answer:
    return await (await lab.connect(door)).ask(lab.push(token, **changes), BODY)


async def _settled(*answers: Answer) -> None:
    async with asyncio.timeout(5):
        await asyncio.gather(*(answer.ended.wait() for answer in answers))


def _tokens(lab: Lab) -> list[str]:
    return [entry["token"] for entry in lab.emulator.inbox.find()]


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_any_status_and_reason_can_be_answered_and_nothing_arrives(lab: Lab) -> None:
    lab.script(Rule(status=503, reason="ServiceUnavailable", headers={"Retry-After": "7", "X-Mark": "a"}))
    answer = await _push(lab)
    assert (answer.status, answer.json) == (503, {"reason": "ServiceUnavailable"})
    assert (answer.headers["retry-after"], answer.headers["x-mark"]) == ("7", "a")
    assert _tokens(lab) == []


async def test_any_body_can_be_answered(lab: Lab) -> None:
    lab.script(Rule(status=502, body="<html>bad gateway</html>"))
    answer = await _push(lab)
    assert (answer.status, answer.body) == (502, b"<html>bad gateway</html>")


async def test_the_real_answer_can_have_another_body_and_the_push_arrives(lab: Lab) -> None:
    lab.script(Rule(status=200, body="not JSON", headers={"Content-Type": "text/plain"}))
    answer = await lab.send_message(GOOD)
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"not JSON", "text/plain")
    assert _tokens(lab) == [GOOD["token"]]


async def test_a_header_replaces_that_of_the_provider(lab: Lab) -> None:
    lab.script(Rule(status=502, body="<html>", headers={"Content-Type": "text/html"}))
    connection = await lab.connect("production")
    answer = await connection.ask(lab.push(apns_id="00112233-4455-6677-8899-aabbccddeeff"), BODY)
    assert answer.headers == {"content-type": "text/html", "apns-id": "00112233-4455-6677-8899-aabbccddeeff"}
    assert answer.field_names.count("content-type") == 1


async def test_what_only_fcm_has_leaves_apple_alone(lab: Lab) -> None:
    lab.script(Rule(html_404=True), Rule(headers={"x-mark": "a"}))
    answer = await _push(lab)
    assert (answer.status, answer.headers["x-mark"]) == (200, "a")
    assert (await lab.send_message(GOOD)).status == 404


async def test_one_rule_can_do_several_things(lab: Lab) -> None:
    lab.script(Rule(status=503, reason="Shutdown", delay_s=0.1, max_concurrent_streams=7, goaway=Goaway()))
    connection = await lab.connect("production")
    started = time.monotonic()
    answer = await connection.ask(lab.push(), BODY)
    assert (answer.status, answer.reason) == (503, "Shutdown")
    assert time.monotonic() - started >= 0.1
    await asyncio.wait_for(connection.closed.wait(), 5)
    assert (connection.stream_limits, connection.goaways) == ([1000, 7], [2**31 - 1, 1])


async def test_a_410_says_since_when(lab: Lab) -> None:
    lab.script(Rule(status=410, reason="Unregistered", timestamp=1700000000000))
    assert (await _push(lab)).json == {"reason": "Unregistered", "timestamp": 1700000000000}


@pytest.mark.parametrize("headers", [{}, {"retry-after": "30"}])
async def test_a_429_may_or_may_not_say_when_to_come_back(lab: Lab, headers: dict[str, str]) -> None:
    lab.script(Rule(status=429, reason="TooManyRequests", headers=headers))
    answer = await _push(lab)
    assert (answer.status, answer.headers.get("retry-after")) == (429, headers.get("retry-after"))


async def test_headers_alone_are_added_to_the_real_answer(lab: Lab) -> None:
    lab.script(Rule(headers={"x-mark": "a"}))
    answer = await _push(lab)
    assert (answer.status, answer.headers["x-mark"]) == (200, "a")
    assert len(_tokens(lab)) == 1


async def test_fcm_answers_scripted_errors_in_googles_shape(lab: Lab) -> None:
    lab.script(Rule(status=404, reason="UNREGISTERED", message="Requested entity was not found."))
    error = (await lab.send_message(GOOD)).json["error"]
    assert (error["status"], error["message"]) == ("NOT_FOUND", "Requested entity was not found.")
    assert error["details"] == [{"@type": FCM_ERROR, "errorCode": "UNREGISTERED"}]
    lab.script(Rule(status=400, reason="INVALID_ARGUMENT", field="message.token"))
    details = (await lab.send_message(GOOD)).json["error"]["details"]
    assert details[1]["fieldViolations"][0]["field"] == "message.token"


async def test_fcm_can_answer_with_googles_page(lab: Lab) -> None:
    lab.script(Rule(html_404=True))
    answer = await lab.send_message(GOOD)
    assert (answer.status, answer.body[:15]) == (404, b"<!DOCTYPE html>")


async def test_access_tokens_can_expire_all_at_once(lab: Lab) -> None:
    lab.script(Rule(match=Match(provider="fcm"), expire_tokens=True, times=1))
    old = await lab.access_token()
    assert (await lab.send_message(GOOD)).status == 401
    assert (await lab.send_message(GOOD)).status == 401, "the old one stays expired"
    lab.script()
    assert (await lab.send_message(GOOD)).status == 401, "another script does not revive it"
    lab.forget_access_token()
    assert await lab.access_token() != old
    assert (await lab.send_message(GOOD)).status == 200


async def test_the_token_endpoint_can_fail(lab: Lab) -> None:
    lab.script(Rule(match=Match(provider="oauth"), status=500, reason="internal_failure"))
    answer = await lab.grant(lab.assertion())
    assert (answer.status, answer.json["error"]) == (500, "internal_failure")
    assert lab.emulator.inbox.tokens_issued == 0
    [counted] = lab.emulator.stats()["answers"]
    assert (counted["provider"], counted["status"], counted["reason"]) == ("oauth", 500, "internal_failure")


@pytest.mark.parametrize(("rule", "silent"), [(Rule(no_answer=True), "no_answer"), (Rule(reset=2), "reset")])
async def test_the_token_endpoint_can_fall_silent(lab: Lab, rule: Rule, silent: str) -> None:
    rule.match = Match(provider="oauth")
    lab.script(rule)
    if silent == "reset":
        assert (await lab.grant(lab.assertion())).reset == 2
    else:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lab.grant(lab.assertion()), 0.2)
    [counted] = lab.emulator.stats()["answers"]
    assert (counted["status"], counted["reason"]) == (0, silent)


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processed", [False, True])
async def test_a_request_may_never_be_answered(lab: Lab, processed: bool) -> None:
    lab.script(Rule(no_answer=True, times=1, processed=processed))
    connection = await lab.connect("production")
    silent, token = lab.push(), new_token()
    waiting = connection.send(silent, BODY)
    assert (await connection.ask(lab.push(token), BODY)).status == 200
    assert not waiting.ended.is_set()
    assert len(_tokens(lab)) == 1 + processed
    [production] = [door for door in lab.emulator.stats()["connections"] if door["listener"] == "apns.production"]
    assert (production["open"], production["open_streams"]) == (1, 1)


async def test_an_answer_can_come_late(lab: Lab) -> None:
    lab.script(Rule(delay_s=0.3, times=1))
    connection = await lab.connect("production")
    started = time.monotonic()
    late, prompt = connection.send(lab.push(), BODY), connection.send(lab.push(), BODY)
    await _settled(prompt)
    assert not late.ended.is_set()
    await _settled(late)
    assert 0.3 <= time.monotonic() - started < 0.8
    assert late.status == 200


async def test_every_answer_can_take_its_time(lab: Lab) -> None:
    lab.script(latency=Latency(fixed_ms=40))
    connection = await lab.connect("production")
    started = time.monotonic()
    answers = [connection.send(lab.push(), BODY) for _ in range(200)]
    await _settled(*answers)
    assert 0.04 <= time.monotonic() - started < 0.5, "all at the same time"
    assert {answer.status for answer in answers} == {200}


def test_a_latency_has_the_mean_and_the_99th_percentile_that_were_asked_for() -> None:
    dice = random.Random(1)
    drawn = sorted(Latency(mean_ms=40, p99_ms=200).draw_s(dice) * 1000 for _ in range(50_000))
    assert statistics.fmean(drawn) == pytest.approx(40, rel=0.03)
    assert drawn[49_500] == pytest.approx(200, rel=0.06)


@pytest.mark.parametrize(
    "latency", [{}, {"mean_ms": 4}, {"fixed_ms": 1, "mean_ms": 4, "p99_ms": 9}, {"mean_ms": 4, "p99_ms": 3}]
)
async def test_a_latency_that_makes_no_sense_is_refused(lab: Lab, latency: dict[str, float]) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.put(f"{lab.url('control')}/faults", json={"latency": latency})
    assert (answer.status_code, "latency" in answer.json()["error"]) == (400, True)


async def test_a_slow_reader_takes_nothing_for_a_while(lab: Lab) -> None:
    lab.script(Rule(slow_read_s=0.3, times=1))
    connection = await lab.connect("production")
    assert (await connection.ask(lab.push(), BODY)).status == 200
    started = time.monotonic()
    assert (await connection.ask(lab.push(), BODY)).status == 200
    assert time.monotonic() - started > 0.2


# -- streams and connections -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processed", [False, True])
async def test_a_stream_can_be_reset(lab: Lab, processed: bool) -> None:
    lab.script(Rule(reset=7, times=1, processed=processed))
    connection = await lab.connect("production")
    assert (await connection.ask(lab.push(), BODY)).reset == h2.errors.ErrorCodes.REFUSED_STREAM
    assert (await connection.ask(lab.push(), BODY)).status == 200
    assert len(_tokens(lab)) == 1 + processed


async def test_the_stream_limit_can_change(lab: Lab) -> None:
    lab.script(Rule(max_concurrent_streams=1, times=1), Rule(max_concurrent_streams=500))
    connection = await lab.connect("production")
    for expected in ([1000, 1], [1000, 1, 500]):
        assert (await connection.ask(lab.push(), BODY)).status == 200
        assert connection.stream_limits == expected


async def test_connections_may_start_with_one_stream(laboratory: Laboratory) -> None:
    lab = await laboratory(start_with_one_stream=True, max_streams=200)
    connection = await lab.connect("production")
    assert (await connection.ask(lab.push(authorization=None), BODY)).status == 403
    assert connection.stream_limits == [1]
    assert (await connection.ask(lab.push(), BODY)).status == 200
    await asyncio.sleep(0.05)
    assert connection.stream_limits == [1, 200]


async def _seven_in_flight(lab: Lab) -> tuple[Wire, list[Answer], list[str]]:
    connection = await lab.connect("production")
    tokens = [new_token() for _ in range(7)]
    return connection, [connection.send(lab.push(token), BODY) for token in tokens], tokens


async def test_a_graceful_goaway_gives_notice_and_answers_everything(lab: Lab) -> None:
    lab.script(Rule(goaway=Goaway(mode="graceful"), after=3, times=1), latency=Latency(fixed_ms=20))
    connection, answers, tokens = await _seven_in_flight(lab)
    await _settled(*answers)
    assert {answer.status for answer in answers} == {200}
    await asyncio.wait_for(connection.closed.wait(), 5)
    assert connection.goaways == [2**31 - 1, 13]
    assert _tokens(lab) == tokens


async def test_a_goaway_in_the_middle_answers_what_came_before_and_does_not_process_the_rest(lab: Lab) -> None:
    lab.script(Rule(goaway=Goaway(mode="mid"), after=3, times=1), latency=Latency(fixed_ms=20))
    connection, answers, tokens = await _seven_in_flight(lab)
    await asyncio.wait_for(connection.closed.wait(), 5)
    assert connection.goaways == [5]
    assert [answer.status for answer in answers] == [200, 200, 200, 0, 0, 0, 0]
    assert _tokens(lab) == tokens[:3]


async def test_an_immediate_goaway_leaves_even_the_processed_without_an_answer(lab: Lab) -> None:
    lab.script(Rule(goaway=Goaway(mode="immediate"), after=3, times=1), latency=Latency(fixed_ms=20))
    connection, answers, tokens = await _seven_in_flight(lab)
    await asyncio.wait_for(connection.closed.wait(), 5)
    assert connection.goaways == [5]
    assert {answer.status for answer in answers} == {0}
    assert _tokens(lab) == tokens[:3]


async def test_a_goaway_can_come_with_every_so_many_requests(lab: Lab) -> None:
    lab.script(Rule(goaway=Goaway(mode="mid", every=3)))
    for _ in range(2):
        connection, answers, _ = await _seven_in_flight(lab)
        await asyncio.wait_for(connection.closed.wait(), 5)
        assert [answer.status for answer in answers] == [200, 200, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("cut", ["before_answer", "mid_headers", "mid_body"])
@pytest.mark.parametrize("processed", [False, True])
async def test_a_connection_can_be_cut(lab: Lab, cut: Any, processed: bool) -> None:
    lab.script(Rule(cut=cut, processed=processed, times=1))
    connection = await lab.connect("production")
    answer = await connection.ask(lab.push(apns_topic="?" if cut == "mid_body" and not processed else TOPIC), BODY)
    assert connection.closed.is_set()
    if cut == "mid_body":
        assert answer.status == (200 if processed else 400), "the header fields have arrived"
        assert processed or connection.received.endswith(b'{"reas')
    else:
        assert answer.status == 0
    assert len(_tokens(lab)) == processed
    assert (await _push(lab)).status == 200, "a new connection works"


@pytest.mark.parametrize("cut", ["before_answer", "mid_headers", "mid_body"])
async def test_a_connection_can_be_cut_over_http_1_1_too(lab: Lab, cut: Any) -> None:
    lab.script(Rule(match=Match(provider="fcm"), cut=cut, times=1))
    context = ssl.create_default_context(cafile=str(lab.emulator.files.ca))
    url = f"{lab.url('fcm')}/v1/projects/tocsin-emulator/messages:send"
    headers = {"authorization": f"Bearer {await lab.access_token()}"}
    async with httpx.AsyncClient(verify=context) as client:
        with pytest.raises(httpx.TransportError):
            await client.post(url, headers=headers, json={"message": GOOD})
        assert (await client.post(url, headers=headers, json={"message": GOOD})).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_tls_can_fail_for_one_provider(lab: Lab, host: str) -> None:
    lab.script(Rule(match=Match(environment="production"), tls_fail=True, times=1))
    context = ssl.create_default_context(cafile=str(lab.emulator.files.ca))
    context.set_alpn_protocols(["h2"])

    async def handshake(door: str) -> None:
        _, writer = await asyncio.open_connection(host, urlsplit(lab.url(door)).port, ssl=context)
        writer.close()

    await handshake("sandbox")
    with pytest.raises(OSError):  # noqa: PT011 - asyncio closes before the alert is out, so that it may be any
        await handshake("production")
    await handshake("production")
    lab.script(tls_fail=True)
    for door in ("sandbox", "production", "fcm", "token_uri"):
        with pytest.raises(OSError):  # noqa: PT011
            await handshake(door)


# -- whom, and how often -----------------------------------------------------------------------------------------------

MATCHES: list[tuple[Match, list[bool]]] = [
    (Match(), [True, True, True, True]),
    (Match(provider="apns"), [True, True, True, False]),
    (Match(provider="fcm"), [False, False, False, True]),
    (Match(environment="sandbox"), [False, True, False, False]),
    (Match(token="ab" * 32), [True, False, False, False]),
    (Match(token_prefix="abab"), [True, False, False, False]),
    (Match(token_prefix="APA91"), [False, False, False, True]),
    (Match(topic=TOPIC), [True, True, False, False]),
    (Match(topic=f"{TOPIC}.voip"), [False, False, True, False]),
    (Match(application=f"39JSDKGJ38.{TOPIC}"), [True, True, True, False]),
    (Match(application=f"AAAAAAAAAA.{TOPIC}"), [False, False, False, False]),
    (Match(project="tocsin-emulator"), [False, False, False, True]),
    (Match(project="another"), [False, False, False, False]),
    (Match(provider="apns", environment="production", topic=TOPIC), [True, False, False, False]),
]


@pytest.mark.parametrize(("match", "expected"), MATCHES)
async def test_a_rule_is_about_whom_it_matches(lab: Lab, match: Match, expected: list[bool]) -> None:
    lab.script(Rule(match=match, status=503, reason="ServiceUnavailable"))
    answers = [
        await _push(lab, token="AB" * 32),
        await _push(lab, "sandbox"),
        await _push(lab, apns_topic=f"{TOPIC}.voip", apns_push_type="voip"),
        await lab.send_message(GOOD),
    ]
    assert [answer.status == 503 for answer in answers] == expected


async def test_a_rule_can_skip_the_first_and_be_used_up(lab: Lab) -> None:
    lab.script(Rule(status=500, reason="InternalServerError", after=2, times=2))
    connection = await lab.connect("production")
    statuses = [(await connection.ask(lab.push(), BODY)).status for _ in range(6)]
    assert statuses == [200, 200, 500, 500, 200, 200]
    assert lab.emulator.faults.counts() == [2]


async def test_a_rate_repeats_itself_with_the_same_seed(lab: Lab) -> None:
    connection = await lab.connect("production")
    runs = []
    for seed in (7, 7, 8):
        lab.script(Rule(status=500, reason="InternalServerError", rate=0.3), seed=seed)
        runs.append([(await connection.ask(lab.push(), BODY)).status for _ in range(100)])
    assert runs[0] == runs[1] != runs[2]
    assert 15 <= runs[0].count(500) <= 45


async def test_the_first_rule_that_matches_wins_and_one_without_an_action_spares(lab: Lab) -> None:
    lab.script(Rule(match=Match(token="ab" * 32)), Rule(status=500, reason="InternalServerError"))
    assert (await _push(lab, token="ab" * 32)).status == 200
    assert (await _push(lab)).status == 500


async def test_a_refused_request_stays_refused_under_a_fault(lab: Lab) -> None:
    lab.script(Rule(delay_s=0.01))
    answer = await _push(lab, apns_priority="10")
    assert (answer.status, answer.reason) == (400, "BadPriority")


async def test_a_script_can_be_read_from_toml(laboratory: Laboratory, tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text('[[rules]]\nstatus = 410\nreason = "Unregistered"\n[rules.match]\ntoken_prefix = "ab"\n')
    lab = await laboratory(faults=path)
    assert (await _push(lab, token="ab" * 32)).status == 410
    assert (await _push(lab)).status == 200


def test_toml_and_the_control_api_say_the_same() -> None:
    rule_text = '[[rules]]\ngoaway = {mode = "mid", every = 500}\nmatch = {provider = "fcm"}'
    text = f"seed = 1\n[latency]\nfixed_ms = 40\n{rule_text}"
    rule = Rule(match=Match(provider="fcm"), goaway=Goaway(mode="mid", every=500))
    assert load_script(text) == Script(rules=[rule], latency=Latency(fixed_ms=40), seed=1)
