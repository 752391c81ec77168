"""What the client makes of an event."""

from __future__ import annotations

import time
from uuid import UUID

import pytest
from tests.client.conftest import FAX, OWNER, a_fax

from tocsin_client import ChatMessage, TextMessage
from tocsin_client.ids import new_event_id

CHAT = {"owner": OWNER, "chat": FAX, "uuid": FAX, "time": 1362407297, "user": OWNER, "user_name": "John Doe"}


def test_a_uuid_may_be_given_as_text() -> None:
    assert a_fax(owner=str(OWNER)).body() == a_fax().body()


def test_a_text_message_says_its_type() -> None:
    body = TextMessage(**CHAT, text="hello").body()
    assert (body["message"], body["type"], body["text"]) == ("chat_message", "text", "hello")


def test_fields_of_its_own_stand_beside_the_others() -> None:
    body = ChatMessage(**CHAT, type="location", own={"latitude": 50.94}).body()
    assert body["latitude"] == 50.94
    assert "own" not in body


@pytest.mark.parametrize("name", ["owner", "type", "message", "event_id", "own"])
def test_a_field_of_its_own_cannot_replace_another(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ChatMessage(**CHAT, type="location", own={name: "x"})


def test_a_chat_message_of_the_type_text_is_a_text_message() -> None:
    with pytest.raises(ValueError, match="TextMessage"):
        ChatMessage(**CHAT, type="text")


def test_ids_are_of_version_7_and_grow_with_time() -> None:
    first = new_event_id()
    time.sleep(0.002)
    second = new_event_id()
    assert (first.version, first.variant) == (7, UUID(int=0x2 << 62).variant)
    assert first < second
    assert abs((first.int >> 80) / 1000 - time.time()) < 60
    assert len({new_event_id() for _ in range(10_000)}) == 10_000
