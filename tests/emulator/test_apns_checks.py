"""APNs: every reason for which a request is refused, and variations that are accepted."""

from __future__ import annotations

import asyncio
import time
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
from tests.emulator.h2_client import Answer
from tests.emulator.harness import BODY, TOPIC, Harness, StartEmulator, new_token

from tocsin.emulator.apns_reasons import ApnsRefusal, Reason
from tocsin.emulator.client_certificates import FOR_SANDBOX
from tocsin.emulator.counters import Counters
from tocsin.emulator.credentials import TEAM_ID, Files
from tocsin.emulator.provider_tokens import ProviderTokenOptions, ProviderTokenVerifier

TOKEN = "a6461732069737d42065496e" + "0" * 40


def _other_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class Case(Struct, frozen=True):
    """A change to a valid request, and the expected answer; `bearer` are changes to its provider token."""

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
    Case(403, "InvalidProviderToken", bearer={"age_s": -600}, name="issued in the future"),
    Case(403, "InvalidProviderToken", bearer={"iat": "soon"}, name="no time of issue"),
    Case(403, "ExpiredProviderToken", bearer={"age_s": 3700}, name="an hour old"),
    Case(400, "MissingTopic", {"apns_topic": None}),
    Case(400, "BadTopic", {"apns_topic": "de.cospace app"}),
    Case(400, "InvalidPushType", {"apns_push_type": "loud"}),
    Case(400, "InvalidPushType", {"apns_push_type": "voip"}, name="voip without its suffix"),
    Case(
        400,
        "InvalidPushType",
        VOIP | {"apns_push_type": "background", "apns_priority": "5"},
        name="another type",
    ),
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
    Case(200, "", name="no change"),
    Case(200, "", {"apns_priority": "1"}),
    Case(200, "", {"apns_priority": None}, name="no priority"),
    Case(200, "", {"apns_push_type": None, "apns_priority": "10"}, name="no push type"),
    Case(200, "", {"apns_push_type": "alert", "apns_priority": "10"}),
    Case(200, "", {"apns_id": None, "apns_expiration": None}, name="neither id nor expiration"),
    Case(200, "", {"apns_expiration": "0"}),
    Case(200, "", {"apns_collapse_id": "x" * 64}),
    Case(200, "", {"authorization": "Bearer"}, name="bearer in upper case"),
    Case(200, "", bearer={"age_s": 3500}, name="a token of 58 minutes"),
    Case(200, "", body=b'{"aps":{"alert":"%s"}}' % (b"x" * (4096 - 20)), name="almost 4096 bytes"),
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


async def _send_case(harness: Harness, case: Case, endpoint: str = "production") -> Answer:
    changes = dict(case.changes)
    if case.bearer:
        key = {"key": _other_key()} if case.bearer.get("key") == "other" else {}
        changes["authorization"] = harness.bearer(**(case.bearer | key))
    elif changes.get("authorization") == "Bearer":
        changes["authorization"] = "Bearer " + harness.bearer().partition(" ")[2]
    return await (await harness.connect(endpoint)).ask(harness.push(**changes), case.body)


@pytest.mark.parametrize("case", REFUSALS, ids=_name)
async def test_an_invalid_request_is_refused_with_apples_status_and_reason(case: Case, harness: Harness) -> None:
    answer = await _send_case(harness, case)
    assert (answer.status, answer.json) == (case.status, {"reason": case.reason})
    assert harness.emulator.inbox.find() == []
    [counted] = harness.emulator.stats()["answers"]
    assert (counted["status"], counted["reason"], counted["count"]) == (case.status, case.reason, 1)


@pytest.mark.parametrize("case", ACCEPTED, ids=_name)
async def test_a_valid_request_is_accepted(case: Case, harness: Harness) -> None:
    answer = await _send_case(harness, case)
    assert (answer.status, answer.body) == (200, b"")
    assert len(harness.emulator.inbox.find()) == 1


def test_every_reason_has_a_test() -> None:
    tested_separately = {
        "BadCertificate", "BadCertificateEnvironment", "DeviceTokenNotForTopic", "DuplicateHeaders",
        "TooManyProviderTokenUpdates", "TopicDisallowed",
    }  # fmt: skip
    assert {case.reason for case in REFUSALS} | tested_separately == {reason.text for reason in Reason}


async def test_a_request_can_end_with_trailers(harness: Harness) -> None:
    answer = (await harness.connect("production")).send(harness.push(), BODY, trailers=[("x-checksum", "1")])
    await asyncio.wait_for(answer.ended.wait(), 5)
    assert answer.status == 200
    assert [entry["body"]["message"] for entry in harness.emulator.inbox.find()] == ["fax_new"]


async def test_the_answer_has_the_apns_id_of_the_request_or_a_new_one(harness: Harness) -> None:
    connection = await harness.connect("production")
    id = "00112233-4455-6677-8899-AABBCCDDEEFF"
    assert (await connection.ask(harness.push(apns_id=id), BODY)).headers == {"apns-id": id}
    made = (await connection.ask(harness.push(apns_id=None), BODY)).headers["apns-id"]
    assert str(uuid.UUID(made)).upper() == made
    refused = await connection.ask(harness.push(apns_id=id, apns_topic="?"), BODY)
    assert refused.headers["apns-id"] == id
    refused = await connection.ask(harness.push(apns_id=None, apns_topic="?"), BODY)
    assert str(uuid.UUID(refused.headers["apns-id"])).upper() == refused.headers["apns-id"]


async def test_the_sandbox_adds_a_unique_id(harness: Harness) -> None:
    answer = await (await harness.connect("sandbox")).ask(harness.push(), BODY)
    assert answer.headers.keys() == {"apns-id", "apns-unique-id"}


async def test_a_repeated_header_is_refused(harness: Harness) -> None:
    headers = [*harness.push(), ("apns-priority", "5")]
    answer = await (await harness.connect("production")).ask(headers, BODY)
    assert (answer.status, answer.reason) == (400, "DuplicateHeaders")


async def test_a_device_token_is_valid_for_one_environment_and_one_topic(harness: Harness) -> None:
    production, sandbox = await harness.connect("production"), await harness.connect("sandbox")
    token = new_token()
    assert (await production.ask(harness.push(token), BODY)).status == 200
    elsewhere = await sandbox.ask(harness.push(token), BODY)
    assert (elsewhere.status, elsewhere.reason) == (400, "BadDeviceToken")
    other = await production.ask(harness.push(token, apns_topic="de.cospace.other"), BODY)
    assert (other.status, other.reason) == (400, "DeviceTokenNotForTopic")
    assert (await production.ask(harness.push(token.upper()), BODY)).status == 200


async def test_a_refused_push_does_not_bind_its_device_token(harness: Harness) -> None:
    production, sandbox = await harness.connect("production"), await harness.connect("sandbox")
    token = new_token()
    assert (await production.ask(harness.push(token), b"{}")).status == 400
    assert (await sandbox.ask(harness.push(token), BODY)).status == 200


async def test_a_topic_that_is_not_allowed_is_refused(start_emulator: StartEmulator) -> None:
    harness = await start_emulator(topics=frozenset({TOPIC}))
    connection = await harness.connect("production")
    assert (await connection.ask(harness.push(), BODY)).status == 200
    assert (await connection.ask(harness.push(apns_topic=f"{TOPIC}.voip", apns_push_type="voip"), BODY)).status == 200
    for topic in ("de.cospace.other", f"{TOPIC}.more", f"{TOPIC}x"):
        refused = await connection.ask(harness.push(apns_topic=topic), BODY)
        assert (refused.status, refused.reason) == (400, "TopicDisallowed")


async def test_a_provider_token_that_changes_too_soon_is_refused_if_an_interval_is_set(
    start_emulator: StartEmulator,
) -> None:
    harness = await start_emulator(token_update_interval_s=1200)
    connection = await harness.connect("production")
    first, second = harness.bearer(age_s=60), harness.bearer()
    assert (await connection.ask(harness.push(authorization=first), BODY)).status == 200
    refused = await connection.ask(harness.push(authorization=second), BODY)
    assert (refused.status, refused.reason) == (429, "TooManyProviderTokenUpdates")
    assert (await connection.ask(harness.push(authorization=first), BODY)).status == 200
    assert (await (await harness.connect("production")).ask(harness.push(authorization=second), BODY)).status == 200


async def test_the_interval_of_provider_tokens_counts_from_when_any_connection_has_shown_the_last_one(
    harness: Harness,
) -> None:
    """A key has one token for all its connections: one that has shown it for a moment only may change it, too."""
    now = [time.time()]
    options = ProviderTokenOptions(
        TEAM_ID, harness.emulator.files.key_id, harness.emulator.files.apns_key.read_bytes(), update_interval_s=1200
    )
    verifier = ProviderTokenVerifier(options, Counters(), lambda: now[0])
    first, second, third = (harness.bearer(age_s=age_s).encode() for age_s in (120, 60, 0))
    busy, rare = dict[str, Any](), dict[str, Any]()
    verifier.check(first, busy)
    now[0] += 1100
    verifier.check(first, rare)
    now[0] += 200
    verifier.check(second, busy)
    verifier.check(second, rare)
    now[0] += 200
    with pytest.raises(ApnsRefusal, match="TooManyProviderTokenUpdates"):
        verifier.check(third, rare)
    # A request with a scripted answer has shown its token, too.
    verifier.see(fourth := harness.bearer(age_s=30).encode())
    now[0] += 1250
    verifier.check(fourth, fresh := dict[str, Any]())
    verifier.check(third, fresh)


async def test_the_signature_of_a_provider_token_is_verified_once(harness: Harness) -> None:
    connection = await harness.connect("production")
    bearer = harness.bearer()
    for _ in range(5):
        assert (await connection.ask(harness.push(authorization=bearer), BODY)).status == 200
    assert harness.emulator.stats()["provider_tokens_verified"] == 1


async def test_a_cached_check_result_is_not_used_for_different_header_fields(harness: Harness) -> None:
    """The emulator caches repeated fields: a field that moves or changes must be checked again."""
    connection = await harness.connect("production")
    bearer = harness.bearer()
    good = list(harness.push(authorization=bearer))
    for _ in range(2):
        assert (await connection.ask(good, BODY)).status == 200
    reordered = good[:4] + good[:3:-1]
    assert (await connection.ask(reordered, BODY)).status == 200
    bad = [(name, "10" if name == "apns-priority" else value) for name, value in good]
    assert (await connection.ask(bad, BODY)).reason == "BadPriority"
    duplicated = [(name if name != "apns-expiration" else "apns-id", value) for name, value in good]
    assert (await connection.ask(duplicated, BODY)).reason == "DuplicateHeaders"
    assert (await connection.ask([pair for pair in good if pair[0] != "authorization"], BODY)).status == 403


# -- client certificates -----------------------------------------------------------------------------------------------


async def test_a_client_certificate_replaces_the_provider_token_and_determines_the_topics(harness: Harness) -> None:
    connection = await harness.connect("production", harness.emulator.files.certificate)
    assert (await connection.ask(harness.push(authorization=None), BODY)).status == 200
    voip = harness.push(authorization="bearer ignored", apns_topic=f"{TOPIC}.voip", apns_push_type="voip")
    assert (await connection.ask(voip, BODY)).status == 200
    other = await connection.ask(harness.push(authorization=None, apns_topic="de.cospace.other"), BODY)
    assert (other.status, other.reason) == (400, "TopicDisallowed")
    none = await connection.ask(harness.push(authorization=None, apns_topic=None), BODY)
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


async def test_a_client_certificate_with_one_topic_needs_no_topic_header(harness: Harness, tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, TOPIC)])
    certificate = _issue(harness.emulator.files, tmp_path / "one.pem", name)
    connection = await harness.connect("production", certificate)
    assert (await connection.ask(harness.push(authorization=None, apns_topic=None), BODY)).status == 200


async def test_a_client_certificate_that_is_not_for_push_is_refused(harness: Harness, tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    certificate = _issue(harness.emulator.files, tmp_path / "bad.pem", name)
    answer = await (await harness.connect("production", certificate)).ask(harness.push(authorization=None), BODY)
    assert (answer.status, answer.reason) == (403, "BadCertificate")


async def test_a_client_certificate_for_the_sandbox_is_refused_in_production(harness: Harness, tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, TOPIC)])
    extension = x509.UnrecognizedExtension(FOR_SANDBOX, b"\x05\x00")
    certificate = _issue(harness.emulator.files, tmp_path / "sandbox.pem", name, extension)
    answer = await (await harness.connect("production", certificate)).ask(harness.push(authorization=None), BODY)
    assert (answer.status, answer.reason) == (403, "BadCertificateEnvironment")
    assert (
        await (await harness.connect("sandbox", certificate)).ask(harness.push(authorization=None), BODY)
    ).status == 200
