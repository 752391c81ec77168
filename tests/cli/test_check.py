"""`check` asks the provider itself: here the emulator, as strict as Apple and Google."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.cli.conftest import APPLICATION, Run

from tocsin.cli.demo.children import running
from tocsin.cli.demo.environment import configuration


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    directory = tmp_path_factory.mktemp("emulator")
    with running("emulator", ["emulator", "--directory", str(directory)], directory / "log") as child:
        child.wait_until((directory / "emulator.json").exists)
        yield json.loads((directory / "emulator.json").read_text())


@pytest.fixture
def against(run: Run, emulator: dict[str, Any], tmp_path: Path) -> Run:
    Path("tocsin.toml").write_text(configuration(tmp_path, emulator))
    return run


@pytest.mark.parametrize("sandbox", [[], ["--sandbox"]])
@pytest.mark.parametrize("credential", [("--key", "apns_key"), ("--certificate", "apns_certificate_p12")])
def test_a_good_credential_is_confirmed(
    against: Run, emulator: dict[str, Any], credential: tuple[str, str], sandbox: list[str]
) -> None:
    option, name = credential
    assert against("app", "add", APPLICATION, option, emulator[name]).status == 0
    ran = against("app", "check", APPLICATION, *sandbox, "--json")
    assert ran.status == 0, ran.out
    assert ran.json["ok"] is True


def test_a_key_that_apple_does_not_know_is_reported(against: Run, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "AuthKey_ABC123DEFG.p8").write_bytes(key)
    assert against("app", "add", APPLICATION, "--key", "AuthKey_ABC123DEFG.p8").status == 0
    ran = against("app", "check", APPLICATION)
    assert ran.status == 1
    assert APPLICATION in ran.out


def test_a_good_service_account_is_confirmed(against: Run, emulator: dict[str, Any]) -> None:
    assert against("fcm", "add", "--service-account", emulator["service_account"]).status == 0
    ran = against("fcm", "check", emulator["project_id"])
    assert ran.status == 0, ran.out
    assert ran.out.startswith(f"{emulator['project_id']}: ")


def test_a_project_may_be_called_otherwise_than_google_calls_it(against: Run, emulator: dict[str, Any]) -> None:
    assert against("fcm", "add", "phones", "--service-account", emulator["service_account"]).status == 0
    ran = against("fcm", "check", "phones")
    assert ran.status == 0, ran.out


def test_a_service_account_that_google_does_not_know_is_reported(
    against: Run, emulator: dict[str, Any], tmp_path: Path
) -> None:
    account = msgspec.json.decode(Path(emulator["service_account"]).read_bytes())
    account["client_email"] = "nobody@tocsin-emulator.iam.gserviceaccount.com"
    (tmp_path / "account.json").write_bytes(msgspec.json.encode(account))
    assert against("fcm", "add", "phones", "--service-account", "account.json").status == 0
    ran = against("fcm", "check", "phones", "--json")
    assert ran.status == 1
    assert ran.json["ok"] is False
    assert ran.json["sentence"]


def test_the_last_check_is_shown_in_the_lists_until_the_credential_is_replaced(
    against: Run, emulator: dict[str, Any]
) -> None:
    assert against("fcm", "add", "phones", "--service-account", emulator["service_account"]).status == 0
    _, row = against("fcm", "list").out.splitlines()
    assert row.endswith("never")
    asked = against("fcm", "check", "phones", "--json").json
    _, row = against("fcm", "list").out.splitlines()
    assert re.search(r"  accepted \d{4}-\d\d-\d\d$", row)
    (project,) = against("fcm", "list", "--json").json
    assert project["last_check"] == {
        "at": project["last_check"]["at"],
        "sandbox": False,
        "ok": True,
        "sentence": asked["sentence"],
    }
    assert against("fcm", "add", "phones", "--service-account", emulator["service_account"]).status == 0
    (project,) = against("fcm", "list", "--json").json
    assert "last_check" not in project


def test_what_apple_says_of_an_app_is_kept_with_where_it_was_asked(against: Run, emulator: dict[str, Any]) -> None:
    key = ("--key", emulator["apns_key"], "--key-id", "AAAAAAAAAA")
    assert against("app", "add", APPLICATION, *key).status == 0
    asked = against("app", "check", APPLICATION, "--sandbox", "--json")
    assert asked.status == 1
    _, row = against("app", "list").out.splitlines()
    assert re.search(r"  not accepted \d{4}-\d\d-\d\d, sandbox$", row)
    (app,) = against("app", "list", "--json").json
    assert (app["last_check"]["ok"], app["last_check"]["sentence"]) == (False, asked.json["sentence"])
