"""Both clients against a running tocsin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from tests.client.conftest import FAX, a_fax

from tocsin_client import BadInput, Conflict, DialplanCallreverseStart, NotAllowed, NotFound, NotSettled, RecordingNew
from tocsin_client.testing import LocalTocsin

Call = Callable[..., Any]


@pytest.fixture
def options(tocsin: LocalTocsin) -> dict[str, Any]:
    return {"url": tocsin.url, "key": tocsin.key, "give_up_after_s": 10.0}


def test_an_event_rings_every_phone_of_its_owner(call: Call, options: dict[str, Any], tocsin: LocalTocsin) -> None:
    anna = tocsin.add_user()
    phones = [anna.add_iphone(), anna.add_iphone(sandbox=True), anna.add_android()]
    event_id = call("send", a_fax(owner=anna.id), options=options)
    for phone in phones:
        (push,) = phone.wait_for("fax_new")
        assert push["fax"] == str(FAX)
    found = call("wait_settled", event_id, options=options)
    assert (found.state, found.delivered, len(found.devices)) == ("done", 3, 3)
    assert {attempt.status for device in found.devices for attempt in device.attempts} == {200}


def test_a_phone_that_was_removed_stays_silent(call: Call, options: dict[str, Any], tocsin: LocalTocsin) -> None:
    anna = tocsin.add_user()
    old, new = anna.add_iphone(), anna.add_iphone()
    anna.remove(old)
    event_id = call("send", RecordingNew(owner=anna.id, recording=FAX, phone=""), options=options)
    new.wait_for("recording_new")
    assert call("wait_settled", event_id, options=options).delivered == 1
    assert old.received() == []


def test_twelve_thousand_events_keep_their_order(call: Call, options: dict[str, Any]) -> None:
    events = [a_fax(owner=uuid4(), event_id=uuid4()) for _ in range(12_000)]
    assert call("send_many", events, options=options) == [str(event.event_id) for event in events]


def test_the_same_event_again_is_taken_and_another_with_its_id_is_not(call: Call, options: dict[str, Any]) -> None:
    event = a_fax(owner=uuid4(), event_id=uuid4())
    assert call("send", event, options=options) == call("send", event, options=options)
    with pytest.raises(Conflict) as caught:
        call("send_many", [a_fax(), a_fax(owner=event.owner, event_id=event.event_id, page_count=3)], options=options)
    assert [violation.index for violation in caught.value.violations] == [1]


def test_an_error_names_the_event_the_field_and_the_reason(call: Call, options: dict[str, Any]) -> None:
    events = [a_fax() for _ in range(5_001)] + [a_fax(page_count=-1), a_fax(fax="x")]
    with pytest.raises(BadInput) as caught:
        call("send_many", events, options=options)
    assert [(found.index, found.at) for found in caught.value.violations] == [(5_001, "$.page_count"), (5_002, "$.fax")]
    assert len(caught.value.accepted) == 5_000


def test_one_that_is_refused_holds_up_none_of_the_others(call: Call, options: dict[str, Any]) -> None:
    ends = call("send_each", [a_fax(), a_fax(page_count="two"), a_fax(phone="\ud800"), a_fax()], options=options)
    assert [isinstance(end, str) for end in ends] == [True, False, False, True]
    assert (ends[1].violations[0].at, ends[2].violations[0].index) == ("$.page_count", 2)


def test_a_wrong_key_is_said_at_once(call: Call, options: dict[str, Any]) -> None:
    with pytest.raises(NotAllowed) as caught:
        call("send", a_fax(), options={**options, "key": "tocsin_producer_wrong"})
    assert caught.value.status == 401


def test_an_event_that_is_unknown_is_said_to_be(call: Call, options: dict[str, Any]) -> None:
    with pytest.raises(NotFound):
        call("look", uuid4(), options=options)


def test_an_event_that_waits_is_not_settled(call: Call, options: dict[str, Any], tocsin: LocalTocsin) -> None:
    tocsin.set_faults({"match": {"provider": "fcm"}, "no_answer": True})
    anna = tocsin.add_user()
    anna.add_android()
    event_id = call("send", DialplanCallreverseStart(owner=anna.id, phone_from="", phone_to=""), options=options)
    with pytest.raises(NotSettled, match=r"after 0\.3 s"):
        call("wait_settled", event_id, timeout_s=0.3, options=options)


@pytest.mark.parametrize(("name", "value"), [("url", "127.0.0.1:8080"), ("key", ""), ("key", "a\nb")])
def test_what_cannot_be_an_address_or_a_key_is_refused(call: Call, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        call("send", a_fax(), options={"url": "http://127.0.0.1:1", "key": "k", name: value})
