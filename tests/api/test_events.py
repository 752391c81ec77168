"""Ingestion: what is accepted, how it is answered, and what is refused with nothing accepted."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from uuid import UUID

import pytest

from tocsin.domain.events import MESSAGES
from tocsin.settings import Ingest
from tocsin.store.ports import BacklogFull, CommitUnknown, StoreUnavailable
from tocsin.store.records import Backlog

ID = "5f0c1f3a-6f5b-4d7e-9a63-0d0a53f4a5b1"


async def waiting(api):
    """The events in the queue, as a dispatcher would claim them."""
    return [item.event for item in await api.store.queue.claim(20_000)]


@pytest.mark.parametrize("message", MESSAGES)
async def test_the_documents_examples_are_accepted(api, golden, message):
    assert await waiting(api) == []
    answer = await api.events(golden(message))
    assert answer.status_code == 202
    assert await api.woken()
    (event_id,) = answer.json()["events"]
    assert answer.json() == {"accepted": 1, "events": [event_id]}
    assert UUID(event_id).version == 7
    (event,) = await waiting(api)
    assert (event.id, event.owner, event.message) == (event_id, api.owner, message)
    assert json.loads(event.body) == golden(message)


async def test_the_five_events_are_accepted_as_one_batch_in_their_order(api, golden):
    answer = await api.ndjson(*(golden(message) for message in MESSAGES))
    assert (answer.status_code, answer.json()["accepted"]) == (202, 5)
    by_id = {event.id: event.message for event in await waiting(api)}
    assert [by_id[event_id] for event_id in answer.json()["events"]] == list(MESSAGES)
    assert answer.json()["events"] == sorted(answer.json()["events"])


async def test_an_event_lives_as_long_as_its_kind_is_worth(open_api, golden):
    async with open_api(clock=lambda: 1_700_000_000.0) as api:
        await api.ndjson(golden("fax_new"), golden("dialplan_callreverse_stop"))
        lives = {event.message: event.expires_ms - event.accepted_ms for event in await waiting(api)}
        assert lives == {"fax_new": 28 * 86_400_000, "dialplan_callreverse_stop": 60_000}


async def test_an_event_id_makes_ingestion_idempotent(api, golden):
    event = golden("fax_new") | {"event_id": ID.upper()}
    for _ in range(2):
        answer = await api.events(event)
        assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "events": [ID]})
    assert [event.id for event in await waiting(api)] == [ID]


async def test_a_batch_may_repeat_an_event_which_is_delivered_once(api, golden):
    event = golden("fax_new") | {"event_id": ID}
    answer = await api.ndjson(event, golden("recording_new"), event)
    assert answer.json()["accepted"] == 3
    first, second, third = answer.json()["events"]
    assert (first, third) == (ID, ID)
    assert {event.id for event in await waiting(api)} == {ID, second}


async def test_the_same_id_for_another_event_is_409_and_names_the_line(api, golden):
    await api.events(golden("fax_new") | {"event_id": ID})
    other = golden("fax_new") | {"event_id": ID, "page_count": 3}
    before = await api.contents()

    alone = await api.events(other)
    assert alone.status_code == 409
    assert alone.json()["errors"] == [{"at": "$.event_id", "reason": "was used before for an event with other content"}]
    repeated = golden("recording_new") | {"event_id": ID[::-1].replace("-", "")}
    repeated["event_id"] = str(UUID(repeated["event_id"]))
    within = await api.ndjson(repeated, repeated, golden("fax_new"), other)
    assert within.status_code == 409
    assert within.json()["errors"][0]["line"] == 4
    assert within.json()["type"] == "urn:tocsin:problem:event-id-conflict"
    assert await api.contents() == before


async def test_a_batch_that_contradicts_itself_is_409(api, golden):
    event = golden("fax_new") | {"event_id": ID}
    answer = await api.ndjson(golden("fax_new"), event, event | {"page_count": 3})
    assert (answer.status_code, answer.json()["errors"][0]["line"]) == (409, 3)
    assert await waiting(api) == []


async def test_texts_that_differ_only_at_their_end_are_two_contents_however_long_they_are(api, golden):
    def long(end):
        return golden("chat_message") | {"event_id": ID, "text": "x" * 6000 + end}

    assert (await api.ndjson(long("a"), long("b"))).status_code == 409
    assert (await api.events(long("a"))).status_code == 202
    assert (await api.events(long("a"))).json() == {"accepted": 1, "events": [ID]}
    for answer in (await api.events(long("b")), await api.ndjson(golden("fax_new"), long("b"))):
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:tocsin:problem:event-id-conflict")
    assert [event.id for event in await waiting(api)] == [ID]


def without(event, name):
    return {key: value for key, value in event.items() if key != name}


BAD = [
    # what to do to a good event, errors[0].at
    (lambda event: b"", "$"),
    (lambda event: b"{", "$"),
    (lambda event: b"\xff", "$"),
    (lambda event: b"[" * 100_000, "$"),
    (lambda event: [event], "$"),
    (lambda event: without(event, "owner"), "$.owner"),
    (lambda event: without(event, "message"), "$.message"),
    (lambda event: without(event, "page_count"), "$.page_count"),
    (lambda event: without(event, "phone"), "$.phone"),
    (lambda event: event | {"message": "fax_old"}, "$.message"),
    (lambda event: event | {"message": 1}, "$.message"),
    (lambda event: event | {"owner": "somebody"}, "$.owner"),
    (lambda event: event | {"fax": "af729cc0"}, "$.fax"),
    (lambda event: event | {"phone": 49221}, "$.phone"),
    (lambda event: event | {"phone": None}, "$.phone"),
    (lambda event: event | {"page_count": "2"}, "$.page_count"),
    (lambda event: event | {"page_count": -1}, "$.page_count"),
    (lambda event: event | {"page_count": 1.5}, "$.page_count"),
    (lambda event: event | {"page_count": True}, "$.page_count"),
    (lambda event: event | {"event_id": "17"}, "$.event_id"),
    (lambda event: event | {"colour": "red"}, "$.colour"),
    (lambda event: event | {"aps": {}}, "$.aps"),
    (lambda event: event | {"phone": "+" * 5000}, "$"),
]


async def test_a_repeat_with_its_fields_in_another_order_is_no_conflict(api, golden):
    event = golden("chat_message") | {"type": "file", "event_id": ID, "name": "a.pdf", "size": {"b": 1, "a": 2}}
    del event["text"]
    turned = dict(reversed(event.items())) | {"size": {"a": 2, "b": 1}}
    for sent in (event, turned):
        answer = await api.events(sent)
        assert (answer.status_code, answer.json()["events"]) == (202, [ID])
    assert (await api.ndjson(event, turned)).status_code == 202
    assert (await api.events(event | {"size": {"a": 2, "b": 3}})).status_code == 409


async def test_a_long_name_is_not_quoted_back(api, golden):
    chat = golden("chat_message") | {"type": "file"}
    for event in (golden("fax_new") | {"x" * 3000: 1}, chat | {"google." + "x" * 3000: 1}):
        answer = await api.events(event)
        assert (answer.status_code, answer.json()["errors"][0]["at"]) == (400, "$.*")
        assert "xxxx" not in answer.text


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    ("field", "at"),
    [
        (b'"x":"\xff"', "$.x"),
        (b'"x":"\\ud800"', "$.x"),
        (b'"x":1e400', "$.x"),
        (b'"x":' + b"[" * 980 + b"]" * 980, "$.x"),
        (b'"x":' + b"[" * 30_000 + b"]" * 30_000, "$.x"),
        (b'"\xff":1', "$"),
    ],
    ids=str,
)
async def test_nothing_that_a_producer_can_send_is_an_error_of_the_server(api, golden, field, at, many):
    chat = golden("chat_message") | {"type": "file"}
    for event in ({"owner": 1}, golden("fax_new"), chat):
        body = json.dumps(event).encode()[:-1] + b"," + field + b"}"
        answer = await api.events(body, headers={"content-type": "application/x-ndjson"} if many else {})
        assert answer.status_code == 400
        (error,) = answer.json()["errors"]
        # What breaks the schema first may be named instead.
        assert error["at"] in (at, "$.message", "$.*"), error


def _keys(count):
    return b",".join(b'"k%d":1' % number for number in range(count))


HEAVY = {
    "600,000 fields": lambda event: event[:-1] + b"," + _keys(600_000) + b"}",
    "600,000 fields before the others": lambda event: b"{" + _keys(600_000) + b"," + event[1:],
    "a list of 2,600,000 objects": lambda event: event[:-1] + b',"a":[' + b"{}," * 2_600_000 + b"1]}",
    "600,000 fields and deep nesting": lambda event: event[:-1] + b"," + _keys(600_000) + b',"a":' + b"[" * 99_999,
    "600,000 fields and invalid text": lambda event: event[:-1] + b"," + _keys(600_000) + b',"a":"\xff"}',
}


@pytest.fixture
def no_collection():
    """No garbage is collected meanwhile: with all that the other tests have left that takes half a second."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("what", HEAVY)
async def test_a_body_of_many_small_parts_does_not_hold_up_the_others(api, golden, what):
    event = golden("chat_message") | {"type": "file"}
    body = HEAVY[what](json.dumps(event).encode())[: 8 * 1024 * 1024]
    assert len(body) > 7_000_000
    started = time.process_time()
    answer = await api.events(body)
    took_s = time.process_time() - started
    assert answer.status_code == 400
    # 10 to 30 ms of CPU when measured; to decode it takes 500 to 2,500.
    assert took_s < 0.4


@pytest.mark.usefixtures("no_collection")
async def test_a_batch_of_lines_that_are_slow_to_refuse_lets_others_in_between(api, golden):
    event = golden("chat_message") | {"type": "file"} | {f"k{number}": 1 for number in range(2500)}
    longest_s, last = 0.0, time.thread_time()

    async def watch():
        nonlocal longest_s, last
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest_s, last = max(longest_s, now - last), now

    watching = asyncio.create_task(watch())
    answer = await api.ndjson(*[golden("fax_new")] * 300, *[event] * 200)
    watching.cancel()
    assert [error["line"] for error in answer.json()["errors"]] == list(range(301, 321))
    # 40 ms of CPU when measured: eight such lines.
    assert longest_s < 0.4


@pytest.mark.parametrize(("spoil", "at"), BAD)
async def test_a_bad_event_is_refused_naming_the_field(api, golden, spoil, at):
    assert await waiting(api) == []
    answer = await api.events(spoil(golden("fax_new")))
    problem = answer.json()
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "urn:tocsin:problem:bad-input"
    assert (problem["errors"][0]["at"], "line" in problem["errors"][0]) == (at, False)
    assert problem["errors"][0]["reason"]
    assert not await api.woken()
    assert await waiting(api) == []


@pytest.mark.parametrize(("spoil", "at"), BAD)
async def test_a_bad_line_refuses_the_whole_batch_naming_the_line(api, golden, spoil, at):
    answer = await api.ndjson(golden("recording_new"), spoil(golden("fax_new")), golden("fax_new"))
    assert answer.status_code == 400
    error = answer.json()["errors"][0]
    assert (error["at"], error["line"], bool(error["reason"])) == (at, 2, True)
    assert answer.json()["detail"].startswith("line 2: ")
    assert await waiting(api) == []


async def test_no_error_quotes_the_content(api, golden):
    event = golden("chat_message") | {"time": "secret time", "text": "secret text", "type": "text"}
    for answer in (await api.events(event), await api.ndjson(event)):
        assert answer.status_code == 400
        assert "secret" not in answer.text
        assert "lunch" not in answer.text


async def test_a_batch_names_twenty_violations_at_most(api):
    answer = await api.ndjson(*[{}] * 600)
    assert [error["line"] for error in answer.json()["errors"]] == list(range(1, 21))


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
async def test_the_last_line_may_end_in_a_line_end(api, golden, ending):
    body = json.dumps(golden("fax_new")).encode() + ending
    answer = await api.events(body, headers={"content-type": "application/x-ndjson"})
    assert answer.json()["accepted"] == 1


async def test_a_blank_line_is_refused_by_number(api, golden):
    answer = await api.ndjson(golden("fax_new"), b"", golden("fax_new"))
    assert answer.json()["errors"][0] == {"at": "$", "line": 2, "reason": "blank line"}


@pytest.mark.parametrize("body", [b"", b"\n", b"  \r\n"])
async def test_an_empty_batch_is_refused(api, body):
    answer = await api.events(body, headers={"content-type": "application/x-ndjson"})
    assert (answer.status_code, answer.json()["errors"][0]["reason"]) == (400, "no events")


async def test_ten_thousand_lines_are_accepted_and_one_more_is_413(api, golden):
    line = json.dumps(golden("dialplan_callreverse_start")).encode()
    answer = await api.ndjson(*[line] * 10_000)
    assert (answer.status_code, answer.json()["accepted"], len(set(answer.json()["events"]))) == (202, 10_000, 10_000)
    assert (await api.store.queue.backlog()).events == 10_000
    assert (await api.ndjson(*[line] * 10_001)).status_code == 413
    assert (await api.ndjson(*[b""] * 10_001)).status_code == 413
    assert (await api.store.queue.backlog()).events == 10_000


async def test_a_body_over_the_limit_is_413_and_not_read_to_its_end(open_api):
    async with open_api(ingest=Ingest(max_bytes=100_000)) as api:
        sent = 0

        messages = []

        async def receive():
            nonlocal sent
            sent += 10_000
            return {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

        async def send(message):
            messages.append(message)

        headers = [(b"authorization", f"Bearer {api.producer}".encode())]
        scope = {"type": "http", "method": "POST", "path": "/api/events", "query_string": b"", "headers": headers}
        await api.app(scope, receive, send)
        assert messages[0]["status"] == 413
        assert sent == 110_000

        sent = 0
        scope["headers"] = [*headers, (b"content-length", b"100001")]
        await api.app(scope, receive, send)
        assert (messages[-2]["status"], sent) == (413, 0)


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "application/x-ndjson-2"])
async def test_another_content_type_is_415(api, golden, content_type):
    answer = await api.events(golden("fax_new"), headers={"content-type": content_type})
    assert answer.status_code == 415


async def test_a_full_backlog_is_503_with_retry_after_and_accepts_nothing(open_api, golden):
    async with open_api(max_events=3) as api:
        assert (await api.ndjson(*[golden("fax_new")] * 3)).status_code == 202
        for answer in (await api.events(golden("fax_new")), await api.ndjson(golden("fax_new"))):
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:tocsin:problem:backlog-full"
            assert int(answer.headers["retry-after"]) >= 1
        assert (await api.store.queue.backlog()).events == 3


async def test_a_batch_larger_than_the_whole_backlog_is_413_and_names_the_limit(open_api, golden):
    """A producer that is told 503 tries again for ever."""
    async with open_api(max_events=3) as api:
        answer = await api.ndjson(*[golden("fax_new")] * 4)
        assert (answer.status_code, answer.json()["type"]) == (413, "urn:tocsin:problem:too-large")
        assert "store.max_backlog_events is 3" in answer.json()["detail"]
        assert "retry-after" not in answer.headers
        assert (await api.store.queue.backlog()).events == 0


class BrokenQueue:
    """A store that fails: the disk is full, or something nobody thought of."""

    def __init__(self, error):
        self.error = error

    async def append(self, events):
        raise self.error

    async def backlog(self):
        return Backlog(0, 0)


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (StoreUnavailable("/var/lib/tocsin: disk I/O error"), 503, "store-unavailable"),
        (BacklogFull(17), 503, "backlog-full"),
        (RuntimeError("secret internals"), 500, "internal-error"),
    ],
)
async def test_a_storage_failure_is_answered_without_its_internals(open_api, golden, error, status, slug):
    async with open_api(queue=BrokenQueue(error)) as api:
        assert await waiting(api) == []
        answer = await api.events(golden("fax_new"))
        assert answer.status_code == status
        assert answer.json()["type"] == f"urn:tocsin:problem:{slug}"
        assert "retry-after" in answer.headers or status == 500
        assert "secret" not in answer.text
        assert "/var/lib" not in answer.text
        assert not await api.woken()


class LostAnswers:
    """A queue in front of the real one: the answers of its first commits are lost, whether they took effect or not."""

    def __init__(self, lost, *, took_effect):
        self.lost = lost
        self.took_effect = took_effect
        self.real = None

    async def append(self, events):
        self.lost -= 1
        if self.lost < 0 or self.took_effect:
            await self.real.append(events)
        if self.lost >= 0:
            raise CommitUnknown("postgresql://secret")


@pytest.mark.parametrize("took_effect", [True, False])
async def test_where_the_outcome_is_unknown_the_answer_has_the_ids_to_repeat_the_events_with(
    open_api, golden, took_effect
):
    queue = LostAnswers(2, took_effect=took_effect)
    async with open_api(queue=queue) as api:
        queue.real = api.store.queue
        chosen = golden("recording_new") | {"event_id": ID}
        sent = [golden("fax_new"), chosen, golden("chat_message"), chosen]
        answer = await api.ndjson(*sent)
        problem = answer.json()
        assert (answer.status_code, problem["status"]) == (503, 503)
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["type"] == "urn:tocsin:problem:outcome-unknown"
        assert int(answer.headers["retry-after"]) >= 1
        assert "secret" not in answer.text
        first, second, third, fourth = problem["events"]
        assert (second, fourth) == (ID, ID)
        assert [UUID(made).version for made in (first, third)] == [7, 7]

        repeated = [event | {"event_id": id} for event, id in zip(sent, problem["events"], strict=True)]
        assert (await api.ndjson(*repeated)).json()["events"] == problem["events"]  # its answer is lost as well
        answer = await api.ndjson(*repeated)
        assert (answer.status_code, answer.json()) == (202, {"accepted": 4, "events": problem["events"]})
        assert sorted(event.id for event in await waiting(api)) == sorted({first, second, third})


@pytest.mark.parametrize("event_id", [{}, {"event_id": ID}])
async def test_a_single_event_of_unknown_outcome_is_repeated_with_its_id(open_api, golden, event_id):
    queue = LostAnswers(1, took_effect=True)
    async with open_api(queue=queue) as api:
        queue.real = api.store.queue
        event = golden("fax_new") | event_id
        answer = await api.events(event)
        (id,) = answer.json()["events"]
        assert answer.status_code == 503
        assert id == event_id.get("event_id", id)
        answer = await api.events(event | {"event_id": id})
        assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "events": [id]})
        assert [event.id for event in await waiting(api)] == [id]


async def test_no_other_problem_has_ids(open_api, golden):
    async with open_api(queue=BrokenQueue(StoreUnavailable())) as api:
        assert "events" not in (await api.events(golden("fax_new"))).json()


async def test_an_unexpected_error_is_logged_without_the_callers_secret(open_api, golden, capsys):
    async with open_api(queue=BrokenQueue(RuntimeError("boom"))) as api:
        answer = await api.events(golden("fax_new"))
        logged = "".join(capsys.readouterr())
        assert answer.json()["detail"].split()[-1].rstrip(".") in logged
        assert "boom" in logged
        assert api.producer not in logged
