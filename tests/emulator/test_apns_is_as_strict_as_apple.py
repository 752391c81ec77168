"""Every reason for which Apple refuses a request, and what Apple does not refuse."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from msgspec import Struct
from tests.emulator.lab import BODY, TOPIC, Lab, Laboratory, new_token
from tests.emulator.wire import Answer

from tocsin.emulator.apns_reasons import Reason
from tocsin.emulator.client_certificates import FOR_SANDBOX
from tocsin.emulator.credentials import Files

TOKEN = "a6461732069737d42065496e" + "0" * 40


def _other_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class Case(Struct, frozen=True):
    """A change to a good request, and what Apple says. `bearer` are changes to its provider token."""

    status: int
    reason: str
    changes: dict[str, str | None] = {}
    body: bytes = BODY
    bearer: dict[str, Any] = {}
    name: str = ""


VOIP: dict[str, str | None] = {"apns_topic": f"{TOPIC}.voip", "apns_push_type": "voip", "apns_priority": "10"}
REFUSALS = [
    Case(405, "MethodNotAllowed", {"method": "GET"}),
    Case(405, "MethodNotAllowed", {"method": "PUT"}),
    Case(404, "BadPath", {"path": f"/3/devices/{TOKEN}"}),
    Case(404, "BadPath", {"path": "/"}),
    Case(403, "MissingProviderToken", {"authorization": None}),
    Case(403, "MissingProviderToken", {"authorization": "basic YTpi"}),
    Case(403, "InvalidProviderToken", {"authorization": "bearer nonsense"}),
    Case(403, "InvalidProviderToken", bearer={"key": "other"}, name="another key"),
    Case(403, "InvalidProviderToken", bearer={"key_id": "AAAAAAAAAA"}, name="another key id"),
    Case(403, "InvalidProviderToken", bearer={"team_id": "AAAAAAAAAA"}, name="another team"),
    Case(403, "InvalidProviderToken", bearer={"age_s": -600}, name="from the future"),
    Case(403, "InvalidProviderToken", bearer={"iat": "soon"}, name="no time of issue"),
    Case(403, "ExpiredProviderToken", bearer={"age_s": 3700}, name="an hour old"),
    Case(400, "MissingTopic", {"apns_topic": None}),
    Case(400, "BadTopic", {"apns_topic": "de.cospace app"}),
    Case(400, "InvalidPushType", {"apns_push_type": "loud"}),
    Case(400, "InvalidPushType", {"apns_push_type": "voip"}, name="voip without its suffix"),
    Case(400, "InvalidPushType", VOIP | {"apns_push_type": "background", "apns_priority": "5"}, name="suffix only"),
    Case(400, "InvalidPushType", {"apns_topic": f"{TOPIC}.voip-ptt"}, name="a longer suffix"),
    Case(400, "BadPriority", {"apns_priority": "10"}, name="background at 10"),
    Case(400, "BadPriority", {"apns_priority": "7"}),
    Case(400, "BadPriority", {"apns_priority": "high"}),
    Case(400, "MissingDeviceToken", {"path": "/3/device/"}),
    Case(400, "BadDeviceToken", {"path": f"/3/device/{TOKEN[:-1]}"}, name="short"),
    Case(400, "BadDeviceToken", {"path": f"/3/device/{TOKEN[:-1]}x"}, name="not hexadecimal"),
    Case(400, "BadExpirationDate", {"apns_expiration": "tomorrow"}),
    Case(400, "BadExpirationDate", {"apns_expiration": "-1"}),
    Case(400, "BadMessageId", {"apns_id": "17"}),
    Case(400, "BadMessageId", {"apns_id": "0" * 32}, name="without dashes"),
    Case(400, "BadCollapseId", {"apns_collapse_id": "x" * 65}),
    Case(400, "PayloadEmpty", body=b""),
    Case(400, "PayloadEmpty", body=b"{}", name="an empty object"),
    Case(400, "PayloadEmpty", body=b'["aps"]', name="not an object"),
    Case(400, "PayloadEmpty", body=b'{"aps":{}', name="half an object"),
    Case(400, "PayloadEmpty", body=b'{"message":"fax_new"}', name="no aps"),
    Case(413, "PayloadTooLarge", body=b'{"aps":{"alert":"%s"}}' % (b"x" * 4096)),
    Case(413, "PayloadTooLarge", VOIP, b'{"aps":{"alert":"%s"}}' % (b"x" * 5120), name="for voip"),
]
ACCEPTED = [
    Case(200, "", name="as it should be"),
    Case(200, "", {"apns_priority": "1"}),
    Case(200, "", {"apns_priority": None}, name="no priority"),
    Case(200, "", {"apns_push_type": None, "apns_priority": "10"}, name="no push type"),
    Case(200, "", {"apns_push_type": "alert", "apns_priority": "10"}),
    Case(200, "", {"apns_id": None, "apns_expiration": None}, name="neither id nor expiration"),
    Case(200, "", {"apns_expiration": "0"}),
    Case(200, "", {"apns_collapse_id": "x" * 64}),
    Case(200, "", {"authorization": "Bearer"}, name="bearer in upper case"),
    Case(200, "", bearer={"age_s": 3500}, name="a token of 58 minutes"),
    Case(200, "", body=b'{"aps":{"alert":"%s"}}' % (b"x" * (4096 - 20)), name="4096 bytes, nearly"),
    Case(200, "", VOIP, b'{"call":"%s"}' % (b"x" * 5000), name="voip, large, and without aps"),
    *(
        Case(200, "", {"apns_topic": TOPIC + suffix, "apns_push_type": push_type, "apns_priority": "10"})
        for push_type, suffix in [
            ("complication", ".complication"),
            ("fileprovider", ".pushkit.fileprovider"),
            ("liveactivity", ".push-type.liveactivity"),
            ("location", ".location-query"),
            ("mdm", ""),
            ("pushtotalk", ".voip-ptt"),
        ]
    ),
]


def _name(case: Case) -> str:
    return case.name or "-".join(
        [case.reason or "ok", *(f"{name}={value}"[:30] for name, value in case.changes.items())]
    )


async def _try(lab: Lab, case: Case, door: str = "production") -> Answer:
    changes = dict(case.changes)
    if case.bearer:
        key = {"key": _other_key()} if case.bearer.get("key") == "other" else {}
        changes["authorization"] = lab.bearer(**(case.bearer | key))
    elif changes.get("authorization") == "Bearer":
        changes["authorization"] = "Bearer " + lab.bearer().partition(" ")[2]
    return await (await lab.connect(door)).ask(lab.push(**changes), case.body)


@pytest.mark.parametrize("case", REFUSALS, ids=_name)
async def test_a_wrong_request_is_refused_with_apples_status_and_reason(case: Case, lab: Lab) -> None:
    answer = await _try(lab, case)
    assert (answer.status, answer.json) == (case.status, {"reason": case.reason})
    assert lab.emulator.inbox.find() == []
    [counted] = lab.emulator.stats()["answers"]
    assert (counted["status"], counted["reason"], counted["count"]) == (case.status, case.reason, 1)


@pytest.mark.parametrize("case", ACCEPTED, ids=_name)
async def test_a_right_request_is_accepted(case: Case, lab: Lab) -> None:
    answer = await _try(lab, case)
    assert (answer.status, answer.body) == (200, b"")
    assert len(lab.emulator.inbox.find()) == 1


def test_every_reason_has_a_test_with_its_status() -> None:
    told_apart_below = {
        "BadCertificate", "BadCertificateEnvironment", "DeviceTokenNotForTopic", "DuplicateHeaders",
        "TooManyProviderTokenUpdates", "TopicDisallowed",
    }  # fmt: skip
    assert {case.reason for case in REFUSALS} | told_apart_below == {reason.text for reason in Reason}


async def test_a_request_may_end_with_trailers(lab: Lab) -> None:
    answer = (await lab.connect("production")).send(lab.push(), BODY, trailers=[("x-checksum", "1")])
    await asyncio.wait_for(answer.ended.wait(), 5)
    assert answer.status == 200
    assert [entry["body"]["message"] for entry in lab.emulator.inbox.find()] == ["fax_new"]


async def test_the_apns_id_comes_back_or_is_made(lab: Lab) -> None:
    connection = await lab.connect("production")
    id = "00112233-4455-6677-8899-AABBCCDDEEFF"
    assert (await connection.ask(lab.push(apns_id=id), BODY)).headers == {"apns-id": id}
    made = (await connection.ask(lab.push(apns_id=None), BODY)).headers["apns-id"]
    assert str(uuid.UUID(made)).upper() == made
    refused = await connection.ask(lab.push(apns_id=id, apns_topic="?"), BODY)
    assert refused.headers["apns-id"] == id


async def test_the_sandbox_adds_a_unique_id(lab: Lab) -> None:
    answer = await (await lab.connect("sandbox")).ask(lab.push(), BODY)
    assert answer.headers.keys() == {"apns-id", "apns-unique-id"}


async def test_a_repeated_header_is_refused(lab: Lab) -> None:
    headers = [*lab.push(), ("apns-priority", "5")]
    answer = await (await lab.connect("production")).ask(headers, BODY)
    assert (answer.status, answer.reason) == (400, "DuplicateHeaders")


async def test_a_device_token_belongs_to_one_environment_and_one_topic(lab: Lab) -> None:
    production, sandbox = await lab.connect("production"), await lab.connect("sandbox")
    token = new_token()
    assert (await production.ask(lab.push(token), BODY)).status == 200
    elsewhere = await sandbox.ask(lab.push(token), BODY)
    assert (elsewhere.status, elsewhere.reason) == (400, "BadDeviceToken")
    other = await production.ask(lab.push(token, apns_topic="de.cospace.other"), BODY)
    assert (other.status, other.reason) == (400, "DeviceTokenNotForTopic")
    assert (await production.ask(lab.push(token.upper()), BODY)).status == 200


async def test_a_token_that_was_refused_belongs_to_nothing_yet(lab: Lab) -> None:
    production, sandbox = await lab.connect("production"), await lab.connect("sandbox")
    token = new_token()
    assert (await production.ask(lab.push(token), b"{}")).status == 400
    assert (await sandbox.ask(lab.push(token), BODY)).status == 200


async def test_only_the_allowed_topics_may_be_pushed_to(laboratory: Laboratory) -> None:
    lab = await laboratory(topics=frozenset({TOPIC}))
    connection = await lab.connect("production")
    assert (await connection.ask(lab.push(), BODY)).status == 200
    assert (await connection.ask(lab.push(apns_topic=f"{TOPIC}.voip", apns_push_type="voip"), BODY)).status == 200
    for topic in ("de.cospace.other", f"{TOPIC}.more", f"{TOPIC}x"):
        refused = await connection.ask(lab.push(apns_topic=topic), BODY)
        assert (refused.status, refused.reason) == (400, "TopicDisallowed")


async def test_a_provider_token_changed_too_soon_is_refused_where_that_rule_is_on(laboratory: Laboratory) -> None:
    lab = await laboratory(token_update_interval_s=1200)
    connection = await lab.connect("production")
    first, second = lab.bearer(age_s=60), lab.bearer()
    assert (await connection.ask(lab.push(authorization=first), BODY)).status == 200
    refused = await connection.ask(lab.push(authorization=second), BODY)
    assert (refused.status, refused.reason) == (429, "TooManyProviderTokenUpdates")
    assert (await connection.ask(lab.push(authorization=first), BODY)).status == 200
    assert (await (await lab.connect("production")).ask(lab.push(authorization=second), BODY)).status == 200


async def test_a_verified_provider_token_is_remembered(lab: Lab) -> None:
    connection = await lab.connect("production")
    bearer = lab.bearer()
    for _ in range(5):
        assert (await connection.ask(lab.push(authorization=bearer), BODY)).status == 200
    assert lab.emulator.stats()["provider_tokens_verified"] == 1


async def test_what_was_found_out_of_one_request_is_not_taken_for_another(lab: Lab) -> None:
    """The emulator recognises the fields that repeat: a field that moves, or changes, must not slip through."""
    connection = await lab.connect("production")
    bearer = lab.bearer()
    good = list(lab.push(authorization=bearer))
    for _ in range(2):
        assert (await connection.ask(good, BODY)).status == 200
    turned = good[:4] + good[:3:-1]
    assert (await connection.ask(turned, BODY)).status == 200
    bad = [(name, "10" if name == "apns-priority" else value) for name, value in good]
    assert (await connection.ask(bad, BODY)).reason == "BadPriority"
    doubled = [(name if name != "apns-expiration" else "apns-id", value) for name, value in good]
    assert (await connection.ask(doubled, BODY)).reason == "DuplicateHeaders"
    assert (await connection.ask([pair for pair in good if pair[0] != "authorization"], BODY)).status == 403


# -- client certificates -----------------------------------------------------------------------------------------------


async def test_a_certificate_stands_in_for_the_provider_token_and_names_the_topics(lab: Lab) -> None:
    connection = await lab.connect("production", lab.emulator.files.certificate)
    assert (await connection.ask(lab.push(authorization=None), BODY)).status == 200
    voip = lab.push(authorization="bearer ignored", apns_topic=f"{TOPIC}.voip", apns_push_type="voip")
    assert (await connection.ask(voip, BODY)).status == 200
    other = await connection.ask(lab.push(authorization=None, apns_topic="de.cospace.other"), BODY)
    assert (other.status, other.reason) == (400, "TopicDisallowed")
    none = await connection.ask(lab.push(authorization=None, apns_topic=None), BODY)
    assert (none.status, none.reason) == (400, "MissingTopic")


def _issue(files: Files, path: Path, name: x509.Name, *extensions: x509.ExtensionType) -> Path:
    """A client certificate from the emulator's CA."""
    ca_key: Any = serialization.load_pem_private_key(files.ca_key.read_bytes(), None)
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(ca.subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    pem = builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM)
    path.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


async def test_a_certificate_with_one_topic_needs_no_topic_header(lab: Lab, tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, TOPIC)])
    certificate = _issue(lab.emulator.files, tmp_path / "one.pem", name)
    connection = await lab.connect("production", certificate)
    assert (await connection.ask(lab.push(authorization=None, apns_topic=None), BODY)).status == 200


async def test_a_certificate_that_is_not_for_push_is_a_bad_one(lab: Lab, tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    certificate = _issue(lab.emulator.files, tmp_path / "bad.pem", name)
    answer = await (await lab.connect("production", certificate)).ask(lab.push(authorization=None), BODY)
    assert (answer.status, answer.reason) == (403, "BadCertificate")


async def test_a_certificate_for_the_sandbox_is_not_for_production(lab: Lab, tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, TOPIC)])
    extension = x509.UnrecognizedExtension(FOR_SANDBOX, b"\x05\x00")
    certificate = _issue(lab.emulator.files, tmp_path / "sandbox.pem", name, extension)
    answer = await (await lab.connect("production", certificate)).ask(lab.push(authorization=None), BODY)
    assert (answer.status, answer.reason) == (403, "BadCertificateEnvironment")
    assert (await (await lab.connect("sandbox", certificate)).ask(lab.push(authorization=None), BODY)).status == 200
