"""Events from the command line: the same rules and the same content as through the API."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import OWNER, Run

from tocsin.cli.opening import in_store, settings_of
from tocsin.domain.events import Event, EventId
from tocsin.store.ports import BacklogFull, CommitUnknown, EventIdConflict
from tocsin.store.records import EventRecord

GOLDEN = Path(__file__).parents[1] / "golden"
EVENT_ID = "0199f2ab-6d3c-7a51-9c1e-5d0f8a3b2c4d"
FAX = ["--owner", OWNER, "--fax", "af729cc0-3251-11e2-81c1-0800200c9a66", "--phone", "+492215587412"]
CHAT = ["--owner", OWNER, "--chat", "52a9fd3c-8aad-11e0-9138-0024e8f90cc0"]
CHAT += ["--uuid", "c1aa1566-84d7-11e2-a7a8-0024e8f90cc0", "--user", "1de7257a-4f34-11e0-ab6e-0024e8f90cc1"]
CHAT += ["--user-name", "John Doe"]


def _options(example: dict[str, Any]) -> list[str]:
    fields = {name: value for name, value in example.items() if name not in {"aps", "message"}}
    return [word for name, value in fields.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def _record(event_id: str) -> EventRecord:
    record = in_store(settings_of(None), lambda store: store.log.record(EventId(event_id)))
    assert record is not None
    return record


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.apns.json")), ids=lambda file: file.name)
def test_an_example_of_the_document_can_be_typed_in(run: Run, file: Path) -> None:
    example = json.loads(file.read_text())
    ran = run("send", example["message"], *_options(example), "--json")
    assert ran.status == 0, ran.err
    (event_id,) = ran.json["events"]
    assert json.loads(_record(event_id).event.body) == {key: example[key] for key in example if key != "aps"}


def test_the_id_stands_alone_on_stdout_and_leads_to_the_event(run: Run) -> None:
    event_id = run("send", "fax_new", *FAX, "--page-count", "2").out.strip()
    shown = run("event", "show", event_id)
    assert f"fax_new for {OWNER}" in shown.out
    assert run("event", "show", event_id, "--json").json["state"] == "accepted"


def test_the_same_event_id_is_accepted_again_and_kept_once(run: Run) -> None:
    for _ in range(2):
        ran = run("send", "fax_new", *FAX, "--page-count", "2", "--event-id", EVENT_ID)
        assert (ran.status, ran.out.strip()) == (0, EVENT_ID)
    conflict = run("send", "fax_new", *FAX, "--page-count", "3", "--event-id", EVENT_ID)
    assert conflict.status == 2
    assert "used for another event" in conflict.err


def test_other_types_of_chat_message_bring_their_own_fields(run: Run) -> None:
    ran = run("send", "chat_message", *CHAT, "--type", "file", "--field", 'name="a.pdf"', "--field", "size=12")
    body = json.loads(_record(ran.out.strip()).event.body)
    assert (body["type"], body["name"], body["size"]) == ("file", "a.pdf", 12)
    assert "text" not in body


def test_a_chat_message_without_a_time_is_of_now(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.cli.send.time.time", lambda: 1362407297.9)
    ran = run("send", "chat_message", *CHAT, "--text", "what's for lunch today?")
    assert json.loads(_record(ran.out.strip()).event.body)["time"] == 1362407297


def test_a_chat_message_with_an_id_needs_its_time_so_that_a_repeat_is_recognised(run: Run) -> None:
    message = ("send", "chat_message", *CHAT, "--text", "what's for lunch today?", "--event-id", EVENT_ID)
    refused = run(*message)
    assert refused.status == 2
    assert "--time: needed with --event-id" in refused.err
    for _ in range(2):
        ran = run(*message, *refused.err.split()[-2:])
        assert (ran.status, ran.out.strip()) == (0, EVENT_ID)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fax_new", *FAX, "--page-count", "-1"], "--page-count: "),
        (["fax_new", *FAX, "--page-count", "two"], "page-count"),
        (["fax_new", *FAX], "page-count"),
        (["fax_new", *FAX[2:], "--page-count", "1", "--owner", "anna"], "--owner: "),
        (["fax_new", *FAX, "--page-count", "1", "--event-id", "7"], "--event-id: "),
        (["fax_old"], "fax_old"),
        (["chat_message", *CHAT], "--text: "),
        (["chat_message", *CHAT, "--type", "file", "--text", "x", "--field", "text=1"], "--field text"),
        (["chat_message", *CHAT, "--type", "file", "--field", "name=a.pdf"], "--field name: not JSON"),
        (["chat_message", *CHAT, "--type", "file", "--field", "name"], "must be NAME=JSON"),
        (["chat_message", *CHAT, "--type", "file", "--field", "aps=1"], "--field aps: reserved"),
    ],
)
def test_an_event_that_breaks_a_rule_is_refused(run: Run, arguments: list[str], said: str) -> None:
    ran = run("send", *arguments)
    assert ran.status == 2
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not Path("var").exists()


@pytest.mark.usefixtures("store")
def test_an_unknown_event_is_told_so(run: Run) -> None:
    ran = run("event", "show", EVENT_ID)
    assert ran.status == 1
    assert EVENT_ID in ran.err


def test_an_event_that_the_backlog_has_no_room_for_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_STORE__MAX_BACKLOG_EVENTS", "2")
    for _ in range(2):
        assert run("send", "fax_new", *FAX, "--page-count", "2").status == 0
    ran = run("send", "fax_new", *FAX, "--page-count", "2")
    assert (ran.status, ran.out) == (1, "")
    assert "the backlog is full; nothing was accepted; try again in" in ran.err


def test_an_event_larger_than_the_whole_backlog_is_refused_with_the_limit(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_STORE__MAX_BACKLOG_BYTES", "100")
    ran = run("send", "fax_new", *FAX, "--page-count", "2")
    assert (ran.status, ran.out) == (2, "")
    assert "more than the 100 bytes" in ran.err
    assert "store.max_backlog_bytes" in ran.err


class _FailingQueue:
    def __init__(self, error: Exception) -> None:
        self.error = error
        self.ids: list[EventId] = []

    async def append(self, events: list[Event]) -> None:
        self.ids += [event.id for event in events]
        raise self.error


class _FailingStore:
    def __init__(self, error: Exception) -> None:
        self.queue = _FailingQueue(error)

    def now_ms(self) -> int:
        return 1_362_407_297_000


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (BacklogFull(17), 1, "nothing was accepted; try again in 17 s"),
        (EventIdConflict(0), 2, "--event-id {id}: was used for another event"),
        (
            CommitUnknown("connection lost"),
            1,
            "is not known: connection lost; to repeat it with --event-id {id} is safe",
        ),
    ],
)
def test_an_event_that_could_not_be_appended_is_told_with_what_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, said: str
) -> None:
    store = _FailingStore(error)
    monkeypatch.setattr("tocsin.cli.ingest.in_store", lambda settings, operation, **_: asyncio.run(operation(store)))
    ran = run("send", "fax_new", *FAX, "--page-count", "2")
    (event_id,) = store.queue.ids
    assert (ran.status, ran.out) == (status, "")
    assert said.format(id=event_id) in ran.err
