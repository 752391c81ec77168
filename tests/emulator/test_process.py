"""`python -m tocsin.emulator`: its files, its journal, how it starts and stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12
from tests.emulator.harness import Harness, StartEmulator, new_token
from tests.emulator.test_fcm_checks import GOOD

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin(credentials: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the emulator in `tmp_path`, and waits until `emulator.json` exists."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str, wait: bool = True) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tocsin.emulator", "--directory", str(tmp_path), *arguments]
        summary = tmp_path / "emulator.json"
        summary.unlink(missing_ok=True)
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )
        running.append(process)
        deadline = time.monotonic() + 20
        while wait and not summary.exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    for file in credentials.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / file.name).chmod(0o600)
    yield start
    for process in running:
        process.kill()
        process.communicate()


def _summary(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "emulator.json").read_text()))


def _private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == 0o600


def test_emulator_json_has_everything_that_a_client_needs(begin: Start, tmp_path: Path) -> None:
    begin()
    summary = _summary(tmp_path)
    assert summary.keys() == {
        "apns", "fcm", "token_uri", "control", "ca", "apns_key", "key_id", "team_id", "service_account", "project_id",
        "apns_certificate", "apns_certificate_key", "apns_certificate_p12",
    }  # fmt: skip
    assert summary["team_id"] == "39JSDKGJ38"
    assert summary["apns"].keys() == {"production", "sandbox"}
    key = load_pem_private_key(Path(summary["apns_key"]).read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    assert isinstance(key.curve, SECP256R1)
    account = json.loads(Path(summary["service_account"]).read_text())
    assert (account["token_uri"], account["project_id"]) == (summary["token_uri"], summary["project_id"])
    bundle = Path(summary["apns_certificate_p12"]).read_bytes()
    assert pkcs12.load_pkcs12(bundle, None).cert is not None
    assert pkcs12.load_pkcs12(bundle, b"").key is not None
    # Go's `pkcs12` reads no newer form: pbeWithSHAAnd3-KeyTripleDES-CBC for both, a MAC with SHA-1, no PBES2.
    assert bundle.count(bytes.fromhex("060a2a864886f70d010c0103")) == 2
    assert bytes.fromhex("06052b0e03021a") in bundle
    assert bytes.fromhex("06092a864886f70d01050d") not in bundle
    assert httpx.get(f"{summary['control']}/inbox").json() == []


async def test_only_the_owner_can_read_the_private_files(harness: Harness) -> None:
    files = harness.emulator.files
    private = (files.apns_key, files.service_account, files.certificate_key, files.certificate, files.certificate_p12)
    for path in (*private, files.server, files.ca_key):
        assert _private(path), path


def test_keys_and_certificates_are_kept_at_a_restart(begin: Start, tmp_path: Path) -> None:
    first = begin()
    before = _summary(tmp_path), (tmp_path / "ca.pem").read_bytes()
    first.send_signal(signal.SIGTERM)
    first.wait(10)
    begin()
    after = _summary(tmp_path), (tmp_path / "ca.pem").read_bytes()
    for name in ("key_id", "apns_key", "project_id"):
        assert before[0][name] == after[0][name]
    assert before[1] == after[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_stops_without_an_error_on_a_signal(begin: Start, number: signal.Signals) -> None:
    process = begin()
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert json.loads(out)["control"].startswith("http://127.0.0.1:")
    assert err == ""


def _five_free_ports() -> int:
    for _ in range(50):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        try:
            for offset in range(5):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        return first
    raise AssertionError("no five free ports in a row")


def test_ports_can_be_chosen_and_an_unavailable_port_is_reported(begin: Start, tmp_path: Path) -> None:
    first = _five_free_ports()
    begin("--port", str(first))
    summary = _summary(tmp_path)
    urls = [*summary["apns"].values(), summary["fcm"], summary["token_uri"].removesuffix("/token"), summary["control"]]
    assert [int(url.rpartition(":")[2]) for url in urls] == list(range(first, first + 5))
    second = begin("--port", str(first), wait=False)
    _, err = second.communicate(timeout=20)
    assert second.returncode == 1
    assert f"127.0.0.1:{first}: cannot listen" in err


def test_an_invalid_fault_file_is_reported(begin: Start, tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text("[[rules]]\nstaus = 1\n")
    process = begin("--faults", str(path), wait=False)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "faults.toml" in err
    assert "staus" in err


async def test_the_journal_has_a_line_for_every_accepted_push(start_emulator: StartEmulator, tmp_path: Path) -> None:
    harness = await start_emulator(journal=tmp_path / "journal", journal_bodies=True)
    connection = await harness.connect("sandbox")
    token, id = new_token(), "00112233-4455-6677-8899-aabbccddeeff"
    await connection.ask(
        harness.push(token, apns_id=id), b'{\n  "aps": {"content-available": 1},\n  "page_count": 2\n}'
    )
    await connection.ask(harness.push(), b"{}")
    sent = await harness.send_message(GOOD)
    deadline = time.monotonic() + 2
    while len(lines := (tmp_path / "journal").read_text().splitlines()) < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    push, message = (json.loads(line) for line in lines)
    assert abs(push.pop("t") - time.time()) < 60
    data = {"aps": {"content-available": 1}, "page_count": 2}
    assert push == {"p": "apns", "env": "sandbox", "token": token, "id": id, "data": data}
    assert message.pop("t")
    assert message == {
        "p": "fcm",
        "env": None,
        "token": GOOD["token"],
        "id": sent.json["name"].rpartition("/")[2],
        "data": GOOD["data"],
    }
