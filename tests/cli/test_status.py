"""`tocsin status`: asks the running server; where there is none, it says so and looks into the store."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.cli.conftest import APPLICATION, OWNER, Run
from tests.cli.server import Server
from tests.torture.processes import free_ports

from tocsin.cli.demo.children import running
from tocsin.settings import load


def test_a_server_that_is_well_is_said_to_be_and_the_status_is_0(run: Run, server: Server) -> None:
    ran = run("status", "--config", str(server.config))
    assert (ran.status, ran.out) == (0, f"well: {server.private_url} accepts and delivers\n")


def test_a_key_opens_the_reasons_and_a_wrong_one_does_not(run: Run, server: Server) -> None:
    ran = run("status", "--api", server.url, "--key-file", str(server.admin_key), "--json")
    assert ran.status == 0, ran.out
    assert ran.json == {
        "well": True,
        "server": server.url,
        "answers": True,
        "reasons": [],
        "notes": [],
        "waiting": None,
    }
    ran = run("status", "--api", server.url, "--key-file", str(server.producer_key))
    assert ran.status == 0
    assert "a monitoring or admin key is needed" in ran.out
    ran = run("status", "--api", server.url)
    assert ran.status == 0
    assert "--key-file" in ran.out


def test_no_server_is_not_well_and_what_waits_in_the_store_is_shown(run: Run, store: Path) -> None:
    Path("tocsin.toml").write_text(f"[server]\nport = {free_ports(1)}\n")
    for _ in range(2):
        fax = ["--fax", "af729cc0-3251-11e2-81c1-0800200c9a66", "--phone", "+492215587412", "--page-count", "2"]
        assert run("send", "fax_new", "--owner", OWNER, *fax).status == 0
    ran = run("status", "--json")
    assert ran.status == 1
    assert ran.json["answers"] is False
    assert ran.json["reasons"][0].startswith("no server answers: http://127.0.0.1:")
    waiting = ran.json["waiting"]
    assert (waiting["events"], waiting["dead_letters"], waiting["quarantined"]) == (2, 0, [])
    assert waiting["oldest"]
    ran = run("status")
    assert ran.status == 1
    assert "backlog: 2 events" in ran.out
    assert "tocsin serve" in ran.out


def test_no_server_and_no_store_is_said_and_no_store_is_made(run: Run) -> None:
    Path("tocsin.toml").write_text(f"[server]\nport = {free_ports(1)}\n")
    ran = run("status")
    assert ran.status == 1
    assert "there is no store" in ran.out
    assert not Path("var").exists()


def test_a_server_that_answers_elsewhere_is_noticed_by_its_store(run: Run, server: Server, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.toml"
    path = load(server.config).store.path
    elsewhere.write_text(f"[server]\nport = {free_ports(1)}\n[store]\npath = '{path}'\n")
    ran = run("status", "--config", str(elsewhere))
    assert ran.status == 1
    assert "a server uses the store" in ran.out


def test_what_is_no_server_of_tocsin_is_not_taken_for_one(run: Run, server: Server) -> None:
    ran = run("status", "--api", f"{server.url}/elsewhere", "--json")
    assert ran.status == 1
    assert ran.json["answers"] is True


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "http://me:word@localhost", "http://:x"])
def test_an_address_that_is_none_is_refused(run: Run, url: str) -> None:
    ran = run("status", "--api", url)
    assert ran.status == 2
    assert ran.err.startswith("tocsin: --api ")


def test_a_name_that_cannot_be_in_the_dns_is_no_server(run: Run, store: Path) -> None:
    ran = run("status", "--api", "http://tocsin..local:8080")
    assert ran.status == 1
    assert "http://tocsin..local:8080" in ran.err + ran.out
    assert "Traceback" not in ran.err


def test_a_server_that_is_not_well_says_why(run: Run, tmp_path: Path) -> None:
    """Its lane waits for a key: what the device needs was removed."""
    emulator = tmp_path / "emulator"
    with running("emulator", ["emulator", "--directory", str(emulator)], tmp_path / "emulator.log") as child:
        child.wait_until((emulator / "emulator.json").exists)
        summary = msgspec.json.decode((emulator / "emulator.json").read_bytes())
        made = Server(tmp_path)
        with made.config.open("a") as file:
            url, ca = summary["apns"]["production"], summary["ca"]
            file.write(f"[apns]\nproduction_url = '{url}'\nsandbox_url = '{url}'\nca_file = '{ca}'\n")
        config = ["--config", str(made.config)]
        wrong = tmp_path / "AuthKey_ABC123DEFG.p8"
        wrong.write_bytes(_new_key())
        assert run("app", "add", APPLICATION, "--key", str(wrong), *config).status == 0
        (tmp_path / "devices.csv").write_text(
            f"owner,system,device_token,application_id\n{OWNER},apns,{'a6' * 32},{APPLICATION}\n"
        )
        assert run("device", "import", str(tmp_path / "devices.csv"), *config).status == 0
        call = ["--owner", OWNER, "--fax", "af729cc0-3251-11e2-81c1-0800200c9a66", "--phone", "", "--page-count", "1"]
        assert run("send", "fax_new", *call, *config).status == 0
        with made.serving() as server:
            server.wait_until(lambda: run("status", *config).status == 1)
            ran = run("status", *config)
            assert ran.out.startswith(f"not well: {made.private_url}\n  lane apns:production:{APPLICATION} is paused: ")
            ran = run("status", "--api", made.url)
            assert ran.status == 1
            assert "--key-file" in ran.out


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
