"""Apps and Firebase projects: what is added is checked, and no command prints a secret."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
from tests.cli.conftest import APPLICATION, Run

from tocsin.emulator.credentials import Files


def test_an_app_with_a_key_is_listed_without_the_key(run: Run, credentials: Files) -> None:
    assert run("app", "add", APPLICATION, "--key", str(credentials.apns_key)).status == 0
    (listed,) = run("app", "list", "--json").json
    assert listed["application_id"] == APPLICATION
    assert listed["key_id"] == credentials.key_id
    assert "PRIVATE" not in run("app", "list", "--json").out


@pytest.mark.parametrize("file", ["certificate", "certificate_p12"])
def test_an_app_with_a_certificate_shows_when_it_ends(run: Run, credentials: Files, file: str) -> None:
    assert run("app", "add", APPLICATION, "--certificate", str(getattr(credentials, file))).status == 0
    (listed,) = run("app", "list", "--json").json
    assert listed["credential"] == "certificate"
    assert listed["certificate_expires"].endswith("Z")


def _with_password(p12: Path, password: str) -> str:
    """A copy of a PKCS#12 file, in the working directory, that needs this password."""
    content = pkcs12.load_pkcs12(p12.read_bytes(), None)
    assert isinstance(content.key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    assert content.cert is not None
    encryption = serialization.BestAvailableEncryption(password.encode())
    copy = Path("push.p12")
    copy.write_bytes(
        pkcs12.serialize_key_and_certificates(None, content.key, content.cert.certificate, None, encryption)
    )
    return str(copy)


def test_the_password_of_a_certificate_is_read_from_a_file_or_standard_input(
    run: Run, credentials: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ("app", "add", APPLICATION, "--certificate", _with_password(credentials.certificate_p12, "sesam öffne dich"))
    Path("password.txt").write_text("sesam öffne dich\n")
    assert run(*add, "--password-file", "password.txt").status == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("sesam öffne dich".encode())))
    assert run(*add, "--password-file", "-").status == 0
    for wrong in ([], ["--password-file", "push.p12"], ["--password-file", "nowhere.txt"]):
        assert run(*add, *wrong).status == 2


def test_a_password_on_the_command_line_is_refused_and_not_repeated(run: Run, credentials: Files) -> None:
    ran = run("app", "add", APPLICATION, "--certificate", str(credentials.certificate_p12), "--password", "hunter2")
    assert (ran.status, ran.out) == (2, "")
    assert "use --password-file FILE" in ran.err
    assert "hunter2" not in ran.err
    assert "--password " not in run("app", "add", "--help").out


@pytest.mark.usefixtures("store")
def test_a_certificate_of_another_app_is_refused(run: Run, credentials: Files) -> None:
    ran = run("app", "add", "39JSDKGJ38.de.other.app", "--certificate", str(credentials.certificate))
    assert ran.status == 2
    assert "39JSDKGJ38.de.other.app" in ran.err
    assert "issued for another app" in ran.err
    assert run("app", "list", "--json").json == []


def test_a_key_on_another_curve_is_refused(run: Run, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "AuthKey_ABC123DEFG.p8").write_bytes(key)
    ran = run("app", "add", APPLICATION, "--key", "AuthKey_ABC123DEFG.p8")
    assert ran.status == 2
    assert "not a P-256 private key" in ran.err


def test_a_renamed_key_file_needs_the_key_id(run: Run, credentials: Files, tmp_path: Path) -> None:
    (tmp_path / "push.p8").write_bytes(credentials.apns_key.read_bytes())
    assert "--key-id" in run("app", "add", APPLICATION, "--key", "push.p8").err
    assert run("app", "add", APPLICATION, "--key", "push.p8", "--key-id", "ABC123DEFG").status == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["de.cospace.app", "--key", "x.p8"], "must be the team id, a dot and the bundle id"),
        ([APPLICATION], "one credential"),
        ([APPLICATION, "--key", "x.p8", "--certificate", "x.pem"], "one credential"),
        ([APPLICATION, "--key", "AuthKey_ABC123DEFG.p8"], "No such file"),
        ([APPLICATION, "--key", "x.p8", "--key-id", "short"], "ten letters and digits"),
    ],
)
def test_an_app_that_breaks_a_rule_is_refused(run: Run, arguments: list[str], said: str) -> None:
    ran = run("app", "add", *arguments)
    assert ran.status == 2
    assert said in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("arguments", [("app", "remove", APPLICATION), ("app", "check", APPLICATION)])
@pytest.mark.usefixtures("store")
def test_an_unknown_app_is_named(run: Run, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)
    assert ran.status == 1
    assert f"{APPLICATION}: no such app" in ran.err


def test_an_app_can_be_removed(run: Run, credentials: Files) -> None:
    run("app", "add", APPLICATION, "--key", str(credentials.apns_key))
    assert run("app", "remove", APPLICATION).status == 0
    assert run("app", "list", "--json").json == []


def test_a_project_is_named_as_its_file_says_and_the_first_is_the_default(run: Run, credentials: Files) -> None:
    account = str(credentials.service_account)
    assert run("fcm", "add", "--service-account", account).status == 0
    assert run("fcm", "add", "tablets", "--service-account", account).status == 0
    listed = {project["name"]: project for project in run("fcm", "list", "--json").json}
    assert listed["tocsin-emulator"]["default"]
    assert not listed["tablets"]["default"]
    assert "PRIVATE" not in str(listed)


def test_another_project_can_become_the_default(run: Run, credentials: Files) -> None:
    account = str(credentials.service_account)
    run("fcm", "add", "phones", "--service-account", account)
    run("fcm", "add", "tablets", "--service-account", account)
    assert run("fcm", "default", "tablets").status == 0
    assert [project["name"] for project in run("fcm", "list", "--json").json if project["default"]] == ["tablets"]
    ran = run("fcm", "remove", "tablets")
    assert "choose another" in ran.err


def test_a_default_project_that_is_added_again_stays_the_default(run: Run, credentials: Files) -> None:
    account = str(credentials.service_account)
    for name in ("phones", "tablets", "phones"):
        assert run("fcm", "add", name, "--service-account", account).status == 0
    assert [project["name"] for project in run("fcm", "list", "--json").json if project["default"]] == ["phones"]


def test_a_project_that_is_added_while_none_is_the_default_becomes_the_default(run: Run, credentials: Files) -> None:
    account = str(credentials.service_account)
    for name in ("phones", "tablets"):
        run("fcm", "add", name, "--service-account", account)
    run("fcm", "remove", "phones")
    run("fcm", "add", "watches", "--service-account", account)
    assert [project["name"] for project in run("fcm", "list", "--json").json if project["default"]] == ["watches"]


def test_the_table_of_projects_shows_whose_account_it_is(run: Run, credentials: Files) -> None:
    run("fcm", "add", "phones", "--service-account", str(credentials.service_account))
    (project,) = run("fcm", "list", "--json").json
    _, row = run("fcm", "list").out.splitlines()
    assert row.split()[:4] == ["phones", project["project_id"], project["client_email"], "yes"]


def test_a_file_that_is_no_service_account_is_refused(run: Run, credentials: Files) -> None:
    ran = run("fcm", "add", "--service-account", str(credentials.ca))
    assert ran.status == 2
    assert "not a service account" in ran.err


def test_a_project_of_a_domain_is_called_by_its_id(run: Run, credentials: Files, tmp_path: Path) -> None:
    file = tmp_path / "domain.json"
    account = json.loads(credentials.service_account.read_text())
    file.write_text(json.dumps(account | {"project_id": "example.com:calls"}))
    assert run("fcm", "add", "--service-account", str(file)).status == 0
    (project,) = run("fcm", "list", "--json").json
    assert (project["name"], project["project_id"]) == ("example.com:calls", "example.com:calls")
    assert run("fcm", "remove", "example.com:calls").status == 0


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("name", ["ma in", "a/b", ":main", "", "x" * 202, "main\n"])
def test_a_name_that_the_api_could_not_take_is_refused(run: Run, credentials: Files, name: str) -> None:
    ran = run("fcm", "add", name, "--service-account", str(credentials.service_account))
    assert ran.status == 2
    assert "project name" in ran.err
    assert run("fcm", "list", "--json").json == []


@pytest.mark.parametrize("verb", ["remove", "default", "check"])
@pytest.mark.usefixtures("store")
def test_an_unknown_project_is_named(run: Run, verb: str) -> None:
    ran = run("fcm", verb, "nobody")
    assert ran.status == 1
    assert "nobody: no such Firebase project" in ran.err
