"""Every action of a fault script, as a client sees it."""

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
from tests.emulator.h2_client import Answer, H2Client
from tests.emulator.harness import BODY, TOPIC, Harness, StartEmulator, new_token
from tests.emulator.test_fcm_checks import FCM_ERROR, GOOD

from tocsin.emulator.faults import Goaway, Latency, Match, Rule, Script, load_script


async def _send_push(
    harness: Harness, endpoint: str = "production", token: str | None = None, **changes: str | None
) -> Answer:
    return await (await harness.connect(endpoint)).ask(harness.push(token, **changes), BODY)


async def _wait_for(*answers: Answer) -> None:
    async with asyncio.timeout(5):
        await asyncio.gather(*(answer.ended.wait() for answer in answers))


def _accepted_tokens(harness: Harness) -> list[str]:
    return [entry["token"] for entry in harness.emulator.inbox.find()]


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_any_status_and_reason_can_be_answered_and_the_push_is_not_accepted(harness: Harness) -> None:
    harness.script(Rule(status=503, reason="ServiceUnavailable", headers={"Retry-After": "7", "X-Mark": "a"}))
    answer = await _send_push(harness)
    assert (answer.status, answer.json) == (503, {"reason": "ServiceUnavailable"})
    assert (answer.headers["retry-after"], answer.headers["x-mark"]) == ("7", "a")
    assert _accepted_tokens(harness) == []


async def test_a_rule_can_set_the_body_of_the_answer(harness: Harness) -> None:
    harness.script(Rule(status=502, body="<html>bad gateway</html>"))
    answer = await _send_push(harness)
    assert (answer.status, answer.body) == (502, b"<html>bad gateway</html>")


async def test_with_status_200_the_body_is_replaced_and_the_push_is_accepted(harness: Harness) -> None:
    harness.script(Rule(status=200, body="not JSON", headers={"Content-Type": "text/plain"}))
    answer = await harness.send_message(GOOD)
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"not JSON", "text/plain")
    assert _accepted_tokens(harness) == [GOOD["token"]]


async def test_a_header_of_a_rule_replaces_the_header_of_the_same_name(harness: Harness) -> None:
    harness.script(Rule(status=502, body="<html>", headers={"Content-Type": "text/html"}))
    connection = await harness.connect("production")
    answer = await connection.ask(harness.push(apns_id="00112233-4455-6677-8899-aabbccddeeff"), BODY)
    assert answer.headers == {"content-type": "text/html", "apns-id": "00112233-4455-6677-8899-aabbccddeeff"}
    assert answer.field_names.count("content-type") == 1


async def test_a_rule_with_an_action_for_fcm_only_does_not_apply_to_apns(harness: Harness) -> None:
    harness.script(Rule(html_404=True), Rule(headers={"x-mark": "a"}))
    answer = await _send_push(harness)
    assert (answer.status, answer.headers["x-mark"]) == (200, "a")
    assert (await harness.send_message(GOOD)).status == 404


async def test_one_rule_can_have_several_actions(harness: Harness) -> None:
    harness.script(Rule(status=503, reason="Shutdown", delay_s=0.1, max_concurrent_streams=7, goaway=Goaway()))
    connection = await harness.connect("production")
    started = time.monotonic()
    answer = await connection.ask(harness.push(), BODY)
    assert (answer.status, answer.reason) == (503, "Shutdown")
    assert time.monotonic() - started >= 0.1
    await asyncio.wait_for(connection.closed.wait(), 5)
    assert (connection.stream_limits, connection.goaways) == ([1000, 7], [2**31 - 1, 1])


async def test_a_410_answer_has_a_timestamp(harness: Harness) -> None:
    harness.script(Rule(status=410, reason="Unregistered", timestamp=1700000000000))
    assert (await _send_push(harness)).json == {"reason": "Unregistered", "timestamp": 1700000000000}


@pytest.mark.parametrize("headers", [{}, {"retry-after": "30"}])
async def test_a_429_answer_may_have_a_retry_after_header(harness: Harness, headers: dict[str, str]) -> None:
    harness.script(Rule(status=429, reason="TooManyRequests", headers=headers))
    answer = await _send_push(harness)
    assert (answer.status, answer.headers.get("retry-after")) == (429, headers.get("retry-after"))


async def test_headers_without_a_status_are_added_to_the_real_answer(harness: Harness) -> None:
    harness.script(Rule(headers={"x-mark": "a"}))
    answer = await _send_push(harness)
    assert (answer.status, answer.headers["x-mark"]) == (200, "a")
    assert len(_accepted_tokens(harness)) == 1


async def test_scripted_errors_of_fcm_have_googles_format(harness: Harness) -> None:
    harness.script(Rule(status=404, reason="UNREGISTERED", message="Requested entity was not found."))
    error = (await harness.send_message(GOOD)).json["error"]
    assert (error["status"], error["message"]) == ("NOT_FOUND", "Requested entity was not found.")
    assert error["details"] == [{"@type": FCM_ERROR, "errorCode": "UNREGISTERED"}]
    harness.script(Rule(status=400, reason="INVALID_ARGUMENT", field="message.token"))
    details = (await harness.send_message(GOOD)).json["error"]["details"]
    assert details[1]["fieldViolations"][0]["field"] == "message.token"


async def test_fcm_can_answer_with_googles_html_page(harness: Harness) -> None:
    harness.script(Rule(html_404=True))
    answer = await harness.send_message(GOOD)
    assert (answer.status, answer.body[:15]) == (404, b"<!DOCTYPE html>")


async def test_a_rule_can_expire_all_access_tokens(harness: Harness) -> None:
    harness.script(Rule(match=Match(provider="fcm"), expire_tokens=True, times=1))
    old = await harness.access_token()
    assert (await harness.send_message(GOOD)).status == 401
    assert (await harness.send_message(GOOD)).status == 401, "the old token stays expired"
    harness.script()
    assert (await harness.send_message(GOOD)).status == 401, "another script does not make it valid again"
    harness.drop_access_token()
    assert await harness.access_token() != old
    assert (await harness.send_message(GOOD)).status == 200


async def test_the_token_endpoint_can_answer_with_an_error(harness: Harness) -> None:
    harness.script(Rule(match=Match(provider="oauth"), status=500, reason="internal_failure"))
    answer = await harness.grant(harness.assertion())
    assert (answer.status, answer.json["error"]) == (500, "internal_failure")
    assert harness.emulator.inbox.tokens_issued == 0
    [counted] = harness.emulator.stats()["answers"]
    assert (counted["provider"], counted["status"], counted["reason"]) == ("oauth", 500, "internal_failure")


@pytest.mark.parametrize(("rule", "cause"), [(Rule(no_answer=True), "no_answer"), (Rule(reset=2), "reset")])
async def test_the_token_endpoint_can_leave_a_request_unanswered(harness: Harness, rule: Rule, cause: str) -> None:
    rule.match = Match(provider="oauth")
    harness.script(rule)
    if cause == "reset":
        assert (await harness.grant(harness.assertion())).reset == 2
    else:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(harness.grant(harness.assertion()), 0.2)
    [counted] = harness.emulator.stats()["answers"]
    assert (counted["status"], counted["reason"]) == (0, cause)


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processed", [False, True])
async def test_a_request_can_stay_unanswered(harness: Harness, processed: bool) -> None:
    harness.script(Rule(no_answer=True, times=1, processed=processed))
    connection = await harness.connect("production")
    unanswered, token = harness.push(), new_token()
    waiting = connection.send(unanswered, BODY)
    assert (await connection.ask(harness.push(token), BODY)).status == 200
    assert not waiting.ended.is_set()
    assert len(_accepted_tokens(harness)) == 1 + processed
    [production] = [
        endpoint for endpoint in harness.emulator.stats()["connections"] if endpoint["listener"] == "apns.production"
    ]
    assert (production["open"], production["open_streams"]) == (1, 1)


async def test_an_answer_can_be_delayed(harness: Harness) -> None:
    harness.script(Rule(delay_s=0.3, times=1))
    connection = await harness.connect("production")
    started = time.monotonic()
    delayed, immediate = connection.send(harness.push(), BODY), connection.send(harness.push(), BODY)
    await _wait_for(immediate)
    assert not delayed.ended.is_set()
    await _wait_for(delayed)
    assert 0.3 <= time.monotonic() - started < 5
    assert delayed.status == 200


async def test_latency_delays_every_answer_in_parallel(harness: Harness) -> None:
    harness.script(latency=Latency(fixed_ms=40))
    connection = await harness.connect("production")
    started = time.monotonic()
    answers = [connection.send(harness.push(), BODY) for _ in range(200)]
    await _wait_for(*answers)
    # One after the other they would take eight seconds.
    assert 0.04 <= time.monotonic() - started < 4, "all at the same time"
    assert {answer.status for answer in answers} == {200}


def test_a_latency_has_the_requested_mean_and_99th_percentile() -> None:
    generator = random.Random(1)
    drawn = sorted(Latency(mean_ms=40, p99_ms=200).draw_s(generator) * 1000 for _ in range(50_000))
    assert statistics.fmean(drawn) == pytest.approx(40, rel=0.03)
    assert drawn[49_500] == pytest.approx(200, rel=0.06)


@pytest.mark.parametrize(
    "latency", [{}, {"mean_ms": 4}, {"fixed_ms": 1, "mean_ms": 4, "p99_ms": 9}, {"mean_ms": 4, "p99_ms": 3}]
)
async def test_an_impossible_latency_is_refused(harness: Harness, latency: dict[str, float]) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.put(f"{harness.url('control')}/faults", json={"latency": latency})
    assert (answer.status_code, "latency" in answer.json()["error"]) == (400, True)


async def test_a_slow_reader_reads_nothing_for_the_given_time(harness: Harness) -> None:
    harness.script(Rule(slow_read_s=0.3, times=1))
    connection = await harness.connect("production")
    assert (await connection.ask(harness.push(), BODY)).status == 200
    started = time.monotonic()
    assert (await connection.ask(harness.push(), BODY)).status == 200
    assert time.monotonic() - started > 0.2


# -- streams and connections -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processed", [False, True])
async def test_a_stream_can_be_reset(harness: Harness, processed: bool) -> None:
    harness.script(Rule(reset=7, times=1, processed=processed))
    connection = await harness.connect("production")
    assert (await connection.ask(harness.push(), BODY)).reset == h2.errors.ErrorCodes.REFUSED_STREAM
    assert (await connection.ask(harness.push(), BODY)).status == 200
    assert len(_accepted_tokens(harness)) == 1 + processed


async def test_the_stream_limit_can_change(harness: Harness) -> None:
    harness.script(Rule(max_concurrent_streams=1, times=1), Rule(max_concurrent_streams=500))
    connection = await harness.connect("production")
    for expected in ([1000, 1], [1000, 1, 500]):
        assert (await connection.ask(harness.push(), BODY)).status == 200
        assert connection.stream_limits == expected


async def test_connections_can_start_with_one_stream(start_emulator: StartEmulator) -> None:
    harness = await start_emulator(start_with_one_stream=True, max_streams=200)
    connection = await harness.connect("production")
    assert (await connection.ask(harness.push(authorization=None), BODY)).status == 403
    assert connection.stream_limits == [1]
    assert (await connection.ask(harness.push(), BODY)).status == 200
    await asyncio.sleep(0.05)
    assert connection.stream_limits == [1, 200]


async def _send_seven_pushes(harness: Harness) -> tuple[H2Client, list[Answer], list[str]]:
    connection = await harness.connect("production")
    tokens = [new_token() for _ in range(7)]
    return connection, [connection.send(harness.push(token), BODY) for token in tokens], tokens


async def test_a_graceful_goaway_sends_a_notice_first_and_answers_every_request(harness: Harness) -> None:
    harness.script(Rule(goaway=Goaway(mode="graceful"), after=3, times=1), latency=Latency(fixed_ms=20))
    connection, answers, tokens = await _send_seven_pushes(harness)
    await _wait_for(*answers)
    assert {answer.status for answer in answers} == {200}
    await asyncio.wait_for(connection.closed.wait(), 5)
    assert connection.goaways == [2**31 - 1, 13]
    assert _accepted_tokens(harness) == tokens


async def test_a_mid_goaway_answers_earlier_requests_and_does_not_process_later_ones(harness: Harness) -> None:
    harness.script(Rule(goaway=Goaway(mode="mid"), after=3, times=1), latency=Latency(fixed_ms=20))
    connection, answers, tokens = await _send_seven_pushes(harness)
    await asyncio.wait_for(connection.closed.wait(), 5)
    assert connection.goaways == [5]
    assert [answer.status for answer in answers] == [200, 200, 200, 0, 0, 0, 0]
    assert _accepted_tokens(harness) == tokens[:3]


async def test_an_immediate_goaway_leaves_even_processed_requests_unanswered(harness: Harness) -> None:
    harness.script(Rule(goaway=Goaway(mode="immediate"), after=3, times=1), latency=Latency(fixed_ms=20))
    connection, answers, tokens = await _send_seven_pushes(harness)
    await asyncio.wait_for(connection.closed.wait(), 5)
    assert connection.goaways == [5]
    assert {answer.status for answer in answers} == {0}
    assert _accepted_tokens(harness) == tokens[:3]


async def test_a_goaway_can_be_sent_with_every_nth_request(harness: Harness) -> None:
    harness.script(Rule(goaway=Goaway(mode="mid", every=3)))
    for _ in range(2):
        connection, answers, _ = await _send_seven_pushes(harness)
        await asyncio.wait_for(connection.closed.wait(), 5)
        assert [answer.status for answer in answers] == [200, 200, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("cut", ["before_answer", "mid_headers", "mid_body"])
@pytest.mark.parametrize("processed", [False, True])
async def test_a_connection_can_be_cut(harness: Harness, cut: Any, processed: bool) -> None:
    harness.script(Rule(cut=cut, processed=processed, times=1))
    connection = await harness.connect("production")
    answer = await connection.ask(harness.push(apns_topic="?" if cut == "mid_body" and not processed else TOPIC), BODY)
    assert connection.closed.is_set()
    if cut == "mid_body":
        assert answer.status == (200 if processed else 400), "the header fields have arrived"
        assert processed or connection.received.endswith(b'{"reas')
    else:
        assert answer.status == 0
    assert len(_accepted_tokens(harness)) == processed
    assert (await _send_push(harness)).status == 200, "a new connection works"


@pytest.mark.parametrize("cut", ["before_answer", "mid_headers", "mid_body"])
async def test_a_connection_can_be_cut_over_http_1_1(harness: Harness, cut: Any) -> None:
    harness.script(Rule(match=Match(provider="fcm"), cut=cut, times=1))
    context = ssl.create_default_context(cafile=str(harness.emulator.files.ca))
    url = f"{harness.url('fcm')}/v1/projects/tocsin-emulator/messages:send"
    headers = {"authorization": f"Bearer {await harness.access_token()}"}
    async with httpx.AsyncClient(verify=context) as client:
        with pytest.raises(httpx.TransportError):
            await client.post(url, headers=headers, json={"message": GOOD})
        assert (await client.post(url, headers=headers, json={"message": GOOD})).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_the_tls_handshake_can_fail_for_one_environment_or_for_all(harness: Harness, host: str) -> None:
    harness.script(Rule(match=Match(environment="production"), tls_fail=True, times=1))
    context = ssl.create_default_context(cafile=str(harness.emulator.files.ca))
    context.set_alpn_protocols(["h2"])

    async def handshake(endpoint: str) -> None:
        _, writer = await asyncio.open_connection(host, urlsplit(harness.url(endpoint)).port, ssl=context)
        writer.close()

    await handshake("sandbox")
    with pytest.raises(OSError):  # noqa: PT011 - asyncio closes before it sends the alert: the error varies
        await handshake("production")
    await handshake("production")
    harness.script(tls_fail=True)
    for endpoint in ("sandbox", "production", "fcm", "token_uri"):
        with pytest.raises(OSError):  # noqa: PT011
            await handshake(endpoint)


# -- which requests, and how often -------------------------------------------------------------------------------------

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
async def test_a_rule_applies_only_to_requests_that_it_matches(
    harness: Harness, match: Match, expected: list[bool]
) -> None:
    harness.script(Rule(match=match, status=503, reason="ServiceUnavailable"))
    answers = [
        await _send_push(harness, token="AB" * 32),
        await _send_push(harness, "sandbox"),
        await _send_push(harness, apns_topic=f"{TOPIC}.voip", apns_push_type="voip"),
        await harness.send_message(GOOD),
    ]
    assert [answer.status == 503 for answer in answers] == expected


async def test_a_rule_can_start_after_some_requests_and_stop_after_some_more(harness: Harness) -> None:
    harness.script(Rule(status=500, reason="InternalServerError", after=2, times=2))
    connection = await harness.connect("production")
    statuses = [(await connection.ask(harness.push(), BODY)).status for _ in range(6)]
    assert statuses == [200, 200, 500, 500, 200, 200]
    assert harness.emulator.faults.counts() == [2]


async def test_the_same_seed_gives_the_same_decisions(harness: Harness) -> None:
    connection = await harness.connect("production")
    runs = []
    for seed in (7, 7, 8):
        harness.script(Rule(status=500, reason="InternalServerError", rate=0.3), seed=seed)
        runs.append([(await connection.ask(harness.push(), BODY)).status for _ in range(100)])
    assert runs[0] == runs[1] != runs[2]
    assert 15 <= runs[0].count(500) <= 45


async def test_the_first_matching_rule_applies_and_one_without_an_action_excludes_requests(harness: Harness) -> None:
    harness.script(Rule(match=Match(token="ab" * 32)), Rule(status=500, reason="InternalServerError"))
    assert (await _send_push(harness, token="ab" * 32)).status == 200
    assert (await _send_push(harness)).status == 500


async def test_an_invalid_request_is_refused_even_if_a_fault_applies(harness: Harness) -> None:
    harness.script(Rule(delay_s=0.01))
    answer = await _send_push(harness, apns_priority="10")
    assert (answer.status, answer.reason) == (400, "BadPriority")


async def test_a_script_can_be_read_from_toml(start_emulator: StartEmulator, tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text('[[rules]]\nstatus = 410\nreason = "Unregistered"\n[rules.match]\ntoken_prefix = "ab"\n')
    harness = await start_emulator(faults=path)
    assert (await _send_push(harness, token="ab" * 32)).status == 410
    assert (await _send_push(harness)).status == 200


def test_a_script_in_toml_has_the_same_names_as_in_json() -> None:
    rule_text = '[[rules]]\ngoaway = {mode = "mid", every = 500}\nmatch = {provider = "fcm"}'
    text = f"seed = 1\n[latency]\nfixed_ms = 40\n{rule_text}"
    rule = Rule(match=Match(provider="fcm"), goaway=Goaway(mode="mid", every=500))
    assert load_script(text) == Script(rules=[rule], latency=Latency(fixed_ms=40), seed=1)
