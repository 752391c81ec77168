"""`tocsin app check` and `tocsin fcm check`: one sentence that tells what is wrong, and the remedy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec.structs import replace
from tests.support.line import APPLICATION, PROJECT

from tocsin.domain.events import MESSAGES
from tocsin.emulator.faults import Rule, Script
from tocsin.emulator.run import Emulator, EmulatorOptions, start
from tocsin.http2.network import SystemNetwork
from tocsin.http2.pool import PoolOptions
from tocsin.providers.apns.channels import ApnsOptions
from tocsin.providers.apns.check import check as check_apns
from tocsin.providers.apns.credentials import ApnsCredential
from tocsin.providers.base import CheckResult
from tocsin.providers.fcm.check import check as check_fcm
from tocsin.providers.fcm.credentials import ServiceAccount, read_service_account
from tocsin.providers.fcm.projects import FcmOptions


@pytest.fixture
async def emulator(tmp_path: Path) -> AsyncIterator[Emulator]:
    async with start(EmulatorOptions(directory=tmp_path, topics=frozenset({"de.cospace.app"}))) as running:
        yield running


def _apns(emulator: Emulator, **changes: str) -> ApnsOptions:
    urls = emulator.summary["apns"]
    assert isinstance(urls, dict)
    production, sandbox = changes.get("production", urls["production"]), urls["sandbox"]
    return ApnsOptions(production, sandbox, emulator.files.ca, PoolOptions(connect_timeout_s=2))


async def _check_apns(
    emulator: Emulator,
    application: str = APPLICATION,
    *,
    key: str | None = None,
    certificate: str | None = None,
    options: ApnsOptions | None = None,
    sandbox: bool = False,
    other_teams: tuple[str, ...] = (),
) -> CheckResult:
    credential = ApnsCredential(certificate_pem=certificate)
    if certificate is None:
        credential = ApnsCredential(key or emulator.files.apns_key.read_text(), emulator.files.key_id)
    return await check_apns(
        application,
        credential,
        options or _apns(emulator),
        network=SystemNetwork(),
        sandbox=sandbox,
        other_teams=other_teams,
    )


async def test_a_good_key_is_said_to_be_good_in_both_environments(emulator: Emulator) -> None:
    for sandbox in (False, True):
        result = await _check_apns(emulator, sandbox=sandbox)
        assert result.ok, result
        assert "accepts" in result.sentence
    assert emulator.inbox.find() == []


async def test_a_good_certificate_is_said_to_be_good(emulator: Emulator) -> None:
    pem = emulator.files.certificate.read_text()
    result = await _check_apns(emulator, certificate=pem)
    assert result.ok, result


@pytest.mark.parametrize("by_certificate", [False, True])
async def test_a_server_that_judges_the_device_token_first_says_nothing_of_the_credential(
    emulator: Emulator, by_certificate: bool
) -> None:
    emulator.faults.replace(Script(rules=[Rule(status=400, reason="BadDeviceToken")]))
    result = await _check_apns(emulator, certificate=emulator.files.certificate.read_text() if by_certificate else None)
    assert not result.ok
    assert "without any credential" in result.sentence
    assert "check the URL" in result.sentence


async def test_a_wrong_key_is_told_with_its_remedy(emulator: Emulator) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    result = await _check_apns(emulator, key=pem)
    assert not result.ok
    assert "the key id do not belong together" in result.sentence


async def test_a_wrong_team_is_told_with_its_remedy(emulator: Emulator) -> None:
    result = await _check_apns(emulator, "AAAAAAAAAA.de.cospace.app")
    assert not result.ok
    assert "the team that owns the key" in result.sentence
    # Apple says the same of a wrong key; whose it is shows where the team is one that is known here.
    teams = ("BBBBBBBBBB", "39JSDKGJ38")
    result = await _check_apns(emulator, "AAAAAAAAAA.de.cospace.app", other_teams=teams)
    assert not result.ok
    assert "the key is good, but it is of the team 39JSDKGJ38" in result.sentence


async def test_a_host_that_takes_the_request_and_never_answers_is_told(emulator: Emulator) -> None:
    emulator.faults.replace(Script(rules=[Rule(no_answer=True)]))
    options = replace(_apns(emulator), pool=PoolOptions(request_timeout_s=0.5))
    result = await _check_apns(emulator, options=options)
    assert not result.ok
    assert "cannot be reached: no answer within" in result.sentence


async def test_a_provider_that_is_unwell_is_not_taken_for_a_wrong_credential(emulator: Emulator) -> None:
    emulator.faults.replace(Script(rules=[Rule(status=503, reason="ServiceUnavailable")]))
    result = await _check_apns(emulator)
    assert not result.ok
    assert "says nothing of the credential" in result.sentence


async def test_a_wrong_topic_is_told_with_its_remedy(emulator: Emulator) -> None:
    result = await _check_apns(emulator, "39JSDKGJ38.com.other.app")
    assert not result.ok
    assert "not for the topic com.other.app" in result.sentence


async def test_a_wrong_environment_is_told_with_its_remedy(emulator: Emulator) -> None:
    emulator.faults.replace(Script(rules=[Rule(status=403, reason="BadEnvironmentKeyInToken")]))
    result = await _check_apns(emulator)
    assert not result.ok
    assert "for the other environment; check with --sandbox" in result.sentence


async def test_an_unreachable_host_is_told_with_its_remedy(emulator: Emulator) -> None:
    result = await _check_apns(emulator, options=_apns(emulator, production="https://localhost:1"))
    assert not result.ok
    assert "cannot be reached" in result.sentence
    assert "check the network" in result.sentence


def _fcm(emulator: Emulator) -> FcmOptions:
    priority = dict.fromkeys(MESSAGES, "HIGH")
    return FcmOptions(str(emulator.summary["fcm"]), emulator.files.ca, PoolOptions(), priority, ("localhost",))


def _account(fields: dict[str, str]) -> ServiceAccount:
    return read_service_account(json.dumps(fields).encode(), ("localhost",))


async def test_a_good_service_account_is_said_to_be_good_and_nothing_is_sent(emulator: Emulator) -> None:
    account = read_service_account(emulator.files.service_account.read_bytes(), ("localhost",))
    result = await check_fcm(PROJECT, account, _fcm(emulator), network=SystemNetwork())
    assert result.ok, result
    assert emulator.inbox.find() == []


async def test_a_service_account_of_another_project_is_told(emulator: Emulator) -> None:
    account = json.loads(emulator.files.service_account.read_text()) | {"project_id": "another-project"}
    result = await check_fcm("another-project", _account(account), _fcm(emulator), network=SystemNetwork())
    assert not result.ok
    assert "may not send for the project another-project" in result.sentence


async def test_a_revoked_service_account_is_told(emulator: Emulator) -> None:
    account = json.loads(emulator.files.service_account.read_text())
    account["client_email"] = "somebody@else.example"
    result = await check_fcm(PROJECT, _account(account), _fcm(emulator), network=SystemNetwork())
    assert not result.ok
    assert "download a new one" in result.sentence
