"""`tocsin doctor`: a line for each thing that can be wrong, with its remedy, and a status for scripts."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.cli.conftest import APPLICATION, OWNER, Ran, Run
from tests.support.https_server import HttpsServer, Reply
from tests.support.nats import client_of, nats_server
from tests.torture.processes import free_ports

from tocsin.cli.demo.children import running
from tocsin.cli.demo.environment import configuration
from tocsin.cli.doctor.findings import Finding, Level, line
from tocsin.emulator.credentials import Files

_NOBODY = "https://localhost:1"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    directory = tmp_path_factory.mktemp("emulator")
    with running("emulator", ["emulator", "--directory", str(directory)], directory / "log") as child:
        child.wait_until((directory / "emulator.json").exists)
        yield json.loads((directory / "emulator.json").read_text())


@pytest.fixture
def against(run: Run, emulator: dict[str, Any], tmp_path: Path) -> Run:
    """Commands with the emulator as the providers, and a good credential for each of them."""
    Path("tocsin.toml").write_text(configuration(tmp_path, emulator))
    assert run("app", "add", APPLICATION, "--key", emulator["apns_key"]).status == 0
    assert run("fcm", "add", "--service-account", emulator["service_account"]).status == 0
    return run


def _of(ran: Ran, subject: str) -> list[dict[str, str]]:
    return [one for one in ran.json["findings"] if one["subject"] == subject]


def _worst(ran: Ran, subject: str) -> str:
    levels = [one["level"] for one in _of(ran, subject)]
    assert levels, ran.out
    return max(levels, key=["ok", "warning", "problem"].index)


def test_where_all_is_well_each_thing_has_a_line_and_the_status_is_0(against: Run, emulator: dict[str, Any]) -> None:
    ran = against("doctor", "--json")
    assert ran.status == 0, ran.out
    assert ran.json["ok"] is True
    for subject in ("settings", "file rights", "disk", "open files", "store", "master key", "audit log", "sign-in"):
        assert _worst(ran, subject) != "problem"
    reached = [one["finding"] for one in _of(ran, "network")]
    assert len(reached) == 4
    assert all("reached over TLS" in one for one in reached)
    assert {one["level"] for one in _of(ran, "credentials")} == {"ok"}
    told = "\n".join(one["finding"] for one in _of(ran, "credentials"))
    assert APPLICATION in told
    assert emulator["project_id"] in told


def test_it_is_a_line_for_each_thing_in_a_pipe(against: Run) -> None:
    ran = against("doctor", "--offline")
    assert ran.status == 0, ran.out
    *lines, last = ran.out.splitlines()
    assert all(line.split()[0] in {"ok", "warning", "problem"} for line in lines)
    assert last.startswith("no problems, ")


def test_a_wrong_setting_is_the_only_finding(run: Run) -> None:
    Path("tocsin.toml").write_text("[server]\nprot = 80\n")
    ran = run("doctor", "--json")
    assert ran.status == 1
    (found,) = ran.json["findings"]
    assert (found["level"], found["subject"]) == ("problem", "settings")
    assert "server.prot" in found["finding"]


def test_a_variable_that_nothing_reads_is_a_warning(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_RETENTION", "7d")
    monkeypatch.setenv("TOCSIN_SERVICE_HOST", "10.0.0.1")  # as Kubernetes sets it
    monkeypatch.setenv("TOCSIN_STORE__SEARCH", "true")
    ran = run("doctor", "--offline", "--json")
    assert ran.status == 0, ran.out
    (warned,) = [one for one in _of(ran, "settings") if one["level"] == "warning"]
    assert "TOCSIN_RETENTION" in warned["finding"]
    assert "SERVICE_HOST" not in warned["finding"]
    assert "STORE" not in warned["finding"]


def test_a_store_that_is_not_there_is_a_problem_and_none_is_made(run: Run) -> None:
    ran = run("doctor", "--offline", "--json")
    assert ran.status == 1
    (found,) = _of(ran, "store")
    assert found["level"] == "problem"
    assert not list(Path().iterdir())


def test_a_damaged_store_is_a_problem(store: Path, run: Run) -> None:
    store.write_bytes(b"SQLite format 3\0" + os.urandom(4096))
    ran = run("doctor", "--offline", "--json")
    assert ran.status == 1
    assert _worst(ran, "store") == "problem"


def test_a_lost_master_key_is_a_problem(against: Run, tmp_path: Path) -> None:
    (tmp_path / "tocsin.db.key").rename(tmp_path / "elsewhere")
    ran = against("doctor", "--offline", "--json")
    assert ran.status == 1
    assert any("master key" in one["finding"] for one in _of(ran, "store"))
    assert not (tmp_path / "tocsin.db.key").exists()


def test_a_master_key_that_others_can_read_is_a_problem(against: Run, tmp_path: Path) -> None:
    (tmp_path / "tocsin.db.key").chmod(0o644)
    ran = against("doctor", "--offline", "--json")
    assert ran.status == 1
    assert any("chmod 600" in one["finding"] for one in _of(ran, "master key"))


@pytest.mark.parametrize("suffix", ["", ".lock", ".migrate-lock"])
def test_a_file_of_the_store_that_everybody_can_read_is_a_problem(store: Path, run: Run, suffix: str) -> None:
    file = store.with_name(store.name + suffix)
    file.touch()
    file.chmod(0o604)
    ran = run("doctor", "--offline", "--json")
    assert ran.status == 1
    remedies = [one["remedy"] for one in _of(ran, "file rights") if one["level"] == "problem"]
    assert f"run `chmod o-rwx {file.absolute()}`" in remedies


@pytest.mark.parametrize(
    "content",
    [
        "[secrets]\nkey = 'YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE='\n",
        "[apns]\nproxy = 'http://me:word@localhost:3128'\n",
    ],
)
def test_a_configuration_with_a_secret_that_others_can_read_is_a_problem(store: Path, run: Run, content: str) -> None:
    file = Path("tocsin.toml")
    file.write_text(content)
    file.chmod(0o644)
    ran = run("doctor", "--offline", "--json")
    assert ran.status == 1
    assert any("tocsin.toml" in one["finding"] and one["level"] == "problem" for one in _of(ran, "file rights"))
    assert "word" not in ran.out
    assert "YWFh" not in ran.out
    file.chmod(0o600)
    ran = run("doctor", "--offline", "--json")
    assert _worst(ran, "file rights") == "ok"


def test_too_few_open_files_are_a_warning_with_the_number_that_is_needed(store: Path, run: Run) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, limits[1]))
    try:
        ran = run("doctor", "--offline", "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    (found,) = _of(ran, "open files")
    assert found["level"] == "warning"
    assert "LimitNOFILE" in found["remedy"]


def test_a_key_that_the_provider_refuses_is_a_problem_and_offline_it_is_not_asked(against: Run, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "AuthKey_ABC123DEFG.p8").write_bytes(key)
    assert against("app", "add", APPLICATION, "--key", "AuthKey_ABC123DEFG.p8").status == 0
    ran = against("doctor", "--json")
    assert ran.status == 1
    (refused,) = [one for one in _of(ran, "credentials") if one["level"] == "problem"]
    assert APPLICATION in refused["finding"]
    assert against("doctor", "--offline", "--json").status == 0


def test_a_certificate_that_ends_soon_is_a_warning(
    against: Run, emulator: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert against("app", "add", APPLICATION, "--certificate", emulator["apns_certificate_p12"]).status == 0
    assert _worst(against("doctor", "--offline", "--json"), "credentials") == "ok"
    monkeypatch.setattr("tocsin.cli.doctor.configuration.SOON", timedelta(days=36_500))
    ran = against("doctor", "--offline", "--json")
    assert ran.status == 0
    assert _worst(ran, "credentials") == "warning"


def test_a_provider_that_cannot_be_reached_is_a_problem_where_a_credential_needs_it(
    against: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_APNS__PRODUCTION_URL", _NOBODY)
    ran = against("doctor", "--json")
    assert ran.status == 1
    (found,) = [one for one in _of(ran, "network") if one["level"] == "problem"]
    assert found["finding"].startswith(_NOBODY)
    assert against("app", "remove", APPLICATION).status == 0
    ran = against("doctor", "--json")
    assert ran.status == 0, ran.out
    assert _worst(ran, "network") == "warning"


def test_a_name_that_dns_does_not_know_is_said_to_be_one(against: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_APNS__SANDBOX_URL", "https://sandbox.invalid")  # RFC 2606, 2: never a name
    ran = against("doctor", "--json")
    assert ran.status == 0, ran.out
    assert any("DNS" in one["finding"] and one["level"] == "warning" for one in _of(ran, "network"))


@pytest.mark.parametrize(("off_s", "level"), [(0, "ok"), (-3600, "problem"), (30, "warning")])
def test_the_clock_is_compared_with_the_providers(
    against: Run, emulator: dict[str, Any], credentials: Files, tmp_path: Path, off_s: int, level: str
) -> None:
    def answer(asked: object) -> Reply:
        date = email.utils.formatdate(time.time() + off_s, usegmt=True)
        return Reply(raw=f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())

    both = tmp_path / "both.pem"
    both.write_bytes(Path(emulator["ca"]).read_bytes() + credentials.ca.read_bytes())
    with HttpsServer(credentials) as server:
        server.answers["/"] = answer
        account = msgspec.json.decode(Path(emulator["service_account"]).read_bytes())
        account["token_uri"] = server.url("/token")
        (tmp_path / "account.json").write_bytes(msgspec.json.encode(account))
        assert against("fcm", "add", emulator["project_id"], "--service-account", "account.json").status == 0
        text = Path("tocsin.toml").read_text()
        Path("tocsin.toml").write_text(text.replace(str(emulator["ca"]), str(both)))
        ran = against("doctor", "--json")
    (found,) = _of(ran, "clock")
    assert found["level"] == level, ran.out


def test_an_issuer_that_cannot_be_reached_is_a_problem(store: Path, run: Run) -> None:
    Path("tocsin.toml").write_text(
        f'[sessions]\nissuer = "https://id.example"\naudiences = ["tocsin"]\njwks_url = "{_NOBODY}/keys"\n'
    )
    ran = run("doctor", "--offline", "--json")
    assert ran.status == 0, ran.out
    ran = run("doctor", "--json")
    assert ran.status == 1
    assert _worst(ran, "sign-in") == "problem"


async def test_the_stream_is_looked_at_and_nothing_is_made_in_it(tmp_path: Path, store: Path, run: Run) -> None:
    async with nats_server(tmp_path / "nats") as server, client_of(server) as client:
        Path("tocsin.toml").write_text(
            f'[sources.nats]\nservers = ["{server.url}"]\nstream = "EVENTS"\nsubjects = ["events.>"]\n'
            'refusals_subject = "refused.events"\n'
        )
        ran = await asyncio.to_thread(run, "doctor", "--json")
        assert ran.status == 1
        assert _of(ran, "NATS")[0]["finding"] == "there is no stream 'EVENTS'; create it"
        js = client.jetstream()
        await js.add_stream(name="EVENTS", subjects=["events.>"])
        ran = await asyncio.to_thread(run, "doctor", "--json")
        assert ran.status == 1
        looked, refusals, weakness = _of(ran, "NATS")
        assert looked["finding"] == "stream EVENTS: 1 replica, on disk; tocsin: not there yet"
        assert "refused.events" in refusals["finding"]
        assert weakness["level"] == "warning"
        assert "fewer than three replicas" in weakness["finding"]
        await js.add_stream(name="REFUSED", subjects=["refused.>"])
        ran = await asyncio.to_thread(run, "doctor", "--json")
        assert ran.status == 0, ran.out
        assert not await js.consumers_info("EVENTS")


def test_a_bus_that_cannot_be_reached_is_a_problem(store: Path, run: Run) -> None:
    Path("tocsin.toml").write_text(
        '[sources.nats]\nservers = ["nats://localhost:1"]\nstream = "EVENTS"\nsubjects = ["events.>"]\n'
        'refusals_subject = "refused.events"\n'
    )
    ran = run("doctor", "--json")
    assert ran.status == 1
    assert _worst(ran, "NATS") == "problem"


def test_a_line_is_folded_to_the_terminal_and_a_path_stays_whole() -> None:
    finding = Finding(Level.WARNING, "disk", "/var/lib/tocsin/a/very/long/path: 5.0 GiB are free", "make room " * 8)
    for width in (30, 50, 80, 200):
        lines = line(finding, width).splitlines()
        assert all(len(one) <= width or "/var/lib" in one for one in lines), width
        assert any("/var/lib/tocsin/a/very/long/path:" in one for one in lines)
    assert "\n" not in line(finding, None)


def test_on_postgresql_it_is_said_what_a_power_cut_or_a_lost_server_takes(on_postgres: Run) -> None:
    ran = on_postgres("doctor", "--offline", "--json")
    assert ran.status == 0, ran.out
    sound, *weaknesses = _of(ran, "store")
    assert "sound" in sound["finding"]
    told = "\n".join(one["finding"] for one in weaknesses)
    for setting in ("fsync is off", "full_page_writes is off", "synchronous_commit is off", "no synchronous standby"):
        assert setting in told
    assert {one["level"] for one in weaknesses} == {"warning"}
    assert not [one for one in ran.json["findings"] if one["subject"] == "disk"], "the database has a disk of its own"


def test_on_postgresql_that_cannot_be_reached_it_is_a_problem(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_STORE__URL", f"postgresql://tocsin@127.0.0.1:{free_ports(1)}/tocsin")
    ran = run("doctor", "--offline", "--json")
    assert ran.status == 1
    assert _worst(ran, "store") == "problem"
    assert run("status").status == 1


def test_on_postgresql_status_shows_what_waits(on_postgres: Run) -> None:
    Path("tocsin.toml").write_text(f"[server]\nport = {free_ports(1)}\n")
    fax = ["--fax", "af729cc0-3251-11e2-81c1-0800200c9a66", "--phone", "+492215587412", "--page-count", "2"]
    sent = on_postgres("send", "fax_new", "--owner", OWNER, *fax)
    assert sent.status == 0, sent.err
    ran = on_postgres("status", "--json")
    assert ran.status == 1
    assert ran.json["waiting"]["events"] == 1


@pytest.mark.parametrize("offline", [[], ["--offline"]])
def test_a_file_of_authorities_that_is_not_there_is_a_problem_and_all_else_is_looked_at(
    against: Run, emulator: dict[str, Any], offline: list[str]
) -> None:
    text = Path("tocsin.toml").read_text()
    Path("tocsin.toml").write_text(text.replace(str(emulator["ca"]), "nowhere.pem"))
    ran = against("doctor", "--json", *offline)
    assert ran.status == (0 if offline else 1), ran.out
    assert _worst(ran, "sign-in") == "ok"
    if not offline:
        assert any("nowhere.pem" in one["finding"] for one in ran.json["findings"] if one["level"] == "problem")


def test_an_extra_that_is_not_installed_is_a_problem(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tocsin.sources.looking", None)
    Path("tocsin.toml").write_text(
        '[sources.nats]\nservers = ["nats://localhost:1"]\nstream = "EVENTS"\nsubjects = ["events.>"]\n'
        'refusals_subject = "refused.events"\n'
    )
    ran = run("doctor", "--json")
    assert ran.status == 1
    assert "tocsin[nats]" in _of(ran, "NATS")[0]["remedy"]


def test_tracing_without_its_extra_is_a_problem(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tocsin.service.tracing", None)
    monkeypatch.setenv("TOCSIN_TRACING__ENDPOINT", "http://127.0.0.1:4318/v1/traces")
    ran = run("doctor", "--offline", "--json")
    assert ran.status == 1
    assert "pip install 'tocsin[tracing]'" in ran.out


def test_a_disk_that_the_largest_backlog_would_fill_is_a_warning(
    store: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_STORE__MAX_BACKLOG_BYTES", str(2**60))
    ran = run("doctor", "--offline", "--json")
    assert ran.status == 0, ran.out
    assert _worst(ran, "disk") == "warning"


@pytest.mark.parametrize(("status", "level"), [(200, "ok"), (401, "problem")])
def test_the_introspection_service_is_asked_whether_it_takes_us(
    store: Path, run: Run, credentials: Files, status: int, level: str
) -> None:
    with HttpsServer(credentials) as server:
        server.say("/introspect", Reply(b'{"active": false}', status=status))
        Path("tocsin.toml").write_text(
            f'[sessions]\nintrospection_url = "{server.url("/introspect")}"\nintrospection_client_id = "tocsin"\n'
            f'introspection_client_secret = "of-the-test"\nca_file = "{credentials.ca}"\n'
        )
        Path("tocsin.toml").chmod(0o600)
        ran = run("doctor", "--json")
    assert _worst(ran, "sign-in") == level, ran.out
    assert ran.status == (0 if level == "ok" else 1)
    assert "of-the-test" not in ran.out
