"""`[sources.nats]`: what is refused, and what belongs together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tocsin.settings import Settings, SettingsError, load, subjects_overlap

GIVEN: dict[str, Any] = {
    "servers": ["nats://a:4222", "tls://b"],
    "stream": "EVENTS",
    "subjects": ["events.normal"],
    "refusals_subject": "refused.events",
}


def loaded(tmp_path: Path, *, environ: dict[str, str] | None = None, **more: Any) -> Settings:
    lines = [f"{key} = {value!r}" for key, value in (GIVEN | more).items() if value is not None]
    file = tmp_path / "tocsin.toml"
    file.write_text("\n".join(["[sources.nats]", *lines]))
    return load(file, environ or {})


def test_without_the_section_there_is_no_source() -> None:
    assert load(None, {}).sources.nats is None


def test_what_is_not_given_has_its_default(tmp_path: Path) -> None:
    nats = loaded(tmp_path).sources.nats
    assert nats is not None
    assert (nats.consumer, nats.urgent_consumer, nats.urgent_subjects) == ("tocsin", "tocsin-urgent", ())
    assert (nats.batch, nats.ack_wait_s) == (500, 60.0)


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    environ = {"TOCSIN_SOURCES__NATS__STREAM": "OTHER", "TOCSIN_SOURCES__NATS__SERVERS": '["nats://c:1"]'}
    nats = loaded(tmp_path, environ=environ).sources.nats
    assert nats is not None
    assert (nats.stream, nats.servers) == ("OTHER", ("nats://c:1",))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"servers": []}, "sources.nats.servers"),
        ({"servers": ["http://a:1"]}, "must be nats://host:port or tls://host:port"),
        ({"servers": ["nats://user:secret@a:1"]}, "without user and password"),
        ({"stream": "a.b"}, "sources.nats.stream"),
        ({"stream": None}, "sources.nats.stream"),
        ({"subjects": []}, "sources.nats.subjects"),
        ({"subjects": ["events..x"]}, "must be a subject of NATS"),
        ({"subjects": ["events.>.x"]}, "must be a subject of NATS"),
        ({"subjects": ["events.a*"]}, "must be a subject of NATS"),
        ({"subjects": ["events normal"]}, "must be a subject of NATS"),
        ({"refusals_subject": "refused.>"}, "must be one subject"),
        ({"refusals_subject": "events.normal"}, "refusals_subject is within subjects (events.normal)"),
        ({"subjects": [">"]}, "refusals_subject is within subjects (>)"),
        ({"urgent_subjects": ["refused.*"]}, "refusals_subject is within urgent_subjects (refused.*)"),
        ({"urgent_subjects": ["events.*"]}, "urgent_subjects and subjects overlap (events.*)"),
        ({"urgent_consumer": "tocsin"}, "must have different names"),
        ({"user": "a"}, "user and password_file belong together"),
        ({"nkey_file": "a", "credentials_file": "b"}, "keep one way to sign in"),
        ({"certificate_file": "a"}, "certificate_file and private_key_file belong together"),
        ({"batch": 0}, "sources.nats.batch"),
        ({"ack_wait_s": 1}, "sources.nats.ack_wait_s"),
        ({"password": "secret"}, "sources.nats.password: unknown key"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, **more)
    assert told in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.c", True),
        ("a.*", "a.c.d", False),
        ("a.>", "a.c.d", True),
        ("a.>", "a", False),
        (">", "a.b", True),
        ("a.*.c", "a.b.*", True),
        ("*.b", "a.c", False),
    ],
)
def test_whether_two_filters_have_a_subject_in_common(one: str, other: str, overlap: bool) -> None:
    assert subjects_overlap(one, other) is overlap
    assert subjects_overlap(other, one) is overlap
