"""The contents, against the document's ten examples, and the rules that hold for all inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.domain.events import MESSAGES, EventError, parse_event
from tocsin.providers.apns.payload import LIMIT_BYTES as APNS_LIMIT_BYTES
from tocsin.providers.apns.payload import VOIP_LIMIT_BYTES as APNS_VOIP_LIMIT_BYTES
from tocsin.providers.apns.payload import payload as apns_payload
from tocsin.providers.fcm.payload import DATA_LIMIT_BYTES as FCM_DATA_LIMIT_BYTES
from tocsin.providers.fcm.payload import data as fcm_data
from tocsin.providers.rules import check_event

GOLDEN = Path(__file__).parents[1] / "golden"
CHAT: dict[str, Any] = {
    "owner": "9aed5e94-3803-11e3-8475-0024e8f90cc0",
    "message": "chat_message",
    "chat": "52a9fd3c-8aad-11e0-9138-0024e8f90cc0",
    "uuid": "c1aa1566-84d7-11e2-a7a8-0024e8f90cc0",
    "time": 1362407297,
    "user": "1de7257a-4f34-11e0-ab6e-0024e8f90cc1",
    "user_name": "John Doe",
    "type": "text",
    "text": "what's for lunch today?",
}


def golden(message: str, provider: str) -> Any:
    return json.loads((GOLDEN / f"{message}.{provider}.json").read_text())


def ingested(event: dict[str, Any]) -> bytes:
    """The body that is kept of an event."""
    return check_event(parse_event(json.dumps(event).encode()))


@pytest.mark.parametrize("message", MESSAGES)
def test_each_event_is_rendered_as_the_document_shows(message: str) -> None:
    apns, fcm = golden(message, "apns"), golden(message, "fcm")
    event = {key: value for key, value in apns.items() if key != "aps"}
    body = ingested(event)
    assert _typed(json.loads(apns_payload(body))) == _typed(apns)
    assert _typed(json.loads(fcm_data(body))) == _typed(fcm)
    assert list(json.loads(apns_payload(body))) == list(apns), "the order of the document"
    assert list(json.loads(fcm_data(body))) == list(fcm)


def _typed(value: dict[str, Any]) -> dict[str, tuple[type, Any]]:
    """1 and True, or 2 and "2", are not the same here."""
    return {key: (type(field), field) for key, field in value.items()}


def test_uuids_are_written_in_lower_case() -> None:
    body = json.loads(ingested(CHAT | {"owner": CHAT["owner"].upper(), "chat": CHAT["chat"].upper()}))
    assert (body["owner"], body["chat"]) == (CHAT["owner"], CHAT["chat"])


def test_a_chat_message_of_another_type_passes_its_own_fields_through() -> None:
    own = {"type": "image", "url": "https://example.com/a.png", "size": [640, 480], "thumb": True, "n": 7, "none": None}
    event = {key: value for key, value in CHAT.items() if key not in ("type", "text")} | own
    body = ingested(event)
    assert json.loads(apns_payload(body)) == {"aps": {"content-available": 1}} | event
    data = json.loads(fcm_data(body))
    assert (data["size"], data["thumb"], data["n"], data["none"]) == ("[640,480]", "true", "7", "null")


@pytest.mark.parametrize("key", ["from", "message_type", "gcm", "google.x", "gcm.y", "aps"])
def test_keys_that_the_providers_keep_for_themselves_are_refused_at_ingest(key: str) -> None:
    with pytest.raises(EventError) as refused:
        ingested(CHAT | {"type": "image", key: "x"})
    assert refused.value.at == f"$.{key}"


@given(st.dictionaries(st.from_regex(r"x_[a-z]{1,8}", fullmatch=True), st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5,
), max_size=4))  # fmt: skip
def test_every_value_of_fcm_data_is_a_string_that_reads_back_as_what_it_was(own: dict[str, Any]) -> None:
    event = CHAT | {"type": "custom"} | own
    data = json.loads(fcm_data(ingested(event)))
    assert all(isinstance(value, str) for value in data.values())
    for key, value in event.items():
        assert (data[key] if isinstance(value, str) else json.loads(data[key])) == value


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), min_size=1200, max_size=3000))
def test_an_over_long_text_is_shortened_at_a_character_boundary_and_fits(text: str) -> None:
    body = ingested(CHAT | {"text": text})
    for payload, limit, flag in (
        (apns_payload(body), APNS_LIMIT_BYTES, True),
        (apns_payload(body, APNS_VOIP_LIMIT_BYTES), APNS_VOIP_LIMIT_BYTES, True),
        (fcm_data(body), FCM_DATA_LIMIT_BYTES, "true"),
    ):
        fields = msgspec.json.decode(payload)
        apns = "aps" in fields
        size = len(payload) if apns else sum(len(k.encode()) + len(v.encode()) for k, v in fields.items())
        assert size <= limit
        if "text_truncated" in fields:
            assert fields["text_truncated"] is flag or fields["text_truncated"] == flag
            assert fields["text"].endswith("…")
            assert text.startswith(fields["text"][:-1])
            assert list(fields)[-2:] == ["text", "text_truncated"]
            # One character more would not have fitted: none of up to six bytes escaped, and its neighbours.
            assert size > limit - 12
        else:
            assert fields["text"] == text


@pytest.mark.parametrize(
    "event", [CHAT | {"user_name": "x" * 5000}, CHAT | {"type": "image", "data": "x" * 5000, "text": "short"}]
)
def test_what_cannot_be_made_to_fit_is_refused_at_ingest(event: dict[str, Any]) -> None:
    with pytest.raises(EventError, match="over the providers' limit"):
        ingested(event)


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_a_reason_and_never_anything_else(raw: bytes) -> None:
    with pytest.raises(EventError):
        parse_event(raw)


@given(st.text(st.characters(codec="utf-8"), min_size=1500, max_size=1600).map(lambda part: part * 5))
def test_a_text_too_long_for_every_limit_is_kept_only_as_far_as_it_can_matter(text: str) -> None:
    event = CHAT | {"text": text, "event_id": "c1aa1566-84d7-11e2-a7a8-0024e8f90cc0"}
    whole = (
        b'{"owner":"%s","message":"chat_message",' % CHAT["owner"].encode()
        + msgspec.json.encode(
            {key: value for key, value in event.items() if key not in ("owner", "message", "event_id")}
        )[1:]
    )
    kept = ingested(event)
    assert len(msgspec.json.decode(kept)["text"]) <= APNS_VOIP_LIMIT_BYTES
    for limit in (APNS_LIMIT_BYTES, APNS_VOIP_LIMIT_BYTES):
        assert apns_payload(kept, limit) == apns_payload(whole, limit)
    assert fcm_data(kept) == fcm_data(whole)
    assert kept != ingested(event | {"text": text + "x"}), "what is not kept still tells them apart"
