"""`tocsin serve` towards hostile and TLS clients, as a real process with its own event loop."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.serving import PATIENCE_S, serving
from tocsin.emulator.credentials import Files, write_credentials

pytestmark = pytest.mark.slow


def lines_of(directory: Path) -> list[dict[str, object]]:
    """The log; every line of it is JSON."""
    return [json.loads(line) for line in (directory / "log").read_text().splitlines()]


def with_tls(directory: Path) -> tuple[dict[str, str], Files]:
    files = write_credentials(directory / "first")
    shutil.copy(files.server, directory / "server.pem")  # the certificate and its key, in one file
    (directory / "server.pem").chmod(0o600)
    return {"TOCSIN_SERVER__TLS_CERTIFICATE": "server.pem", "TOCSIN_SERVER__TLS_KEY": "server.pem"}, files


def live(url: str, ca: Path) -> int | None:
    """The status of `/health/live`; None where the certificate is not that authority's."""
    context = ssl.create_default_context(cafile=str(ca))
    try:
        asked = httpx.get(
            url.replace("127.0.0.1", "localhost") + "/health/live", verify=context, timeout=PATIENCE_S, trust_env=False
        )
    except httpx.ConnectError:
        return None
    return asked.status_code


def test_a_thousand_bad_requests_are_a_few_json_lines_and_no_plain_text(tmp_path: Path) -> None:
    with serving(tmp_path, {}) as url:
        port = int(url.rsplit(":", 1)[1])
        for number in range(1000):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"nonsense %d\r\n\r\n" % number)
                assert client.recv(12) == b"HTTP/1.1 400"
    told = [line for line in lines_of(tmp_path) if "count" in line]
    assert sum(line["count"] for line in told if isinstance(line["count"], int)) == 1000
    assert len(told) <= 5


def test_the_server_speaks_tls_and_takes_a_new_certificate_by_itself(tmp_path: Path) -> None:
    environment, first = with_tls(tmp_path)
    second = write_credentials(tmp_path / "second")
    with serving(tmp_path, environment) as url:
        assert url.startswith("https://127.0.0.1:")
        assert {live(url, first.ca) for _ in range(10)} == {200}
        port = int(url.rsplit(":", 1)[1])
        for junk in (b"", b"\x16\x03", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(junk)
        context = ssl.create_default_context(cafile=str(first.ca))
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(b"nonsense\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 400"
        shutil.copy(second.server, tmp_path / "new.pem")
        (tmp_path / "new.pem").chmod(0o600)
        os.replace(tmp_path / "new.pem", tmp_path / "server.pem")
        deadline = time.monotonic() + PATIENCE_S
        while live(url, second.ca) != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert live(url, first.ca) is None
    told = [line["event"] for line in lines_of(tmp_path)]
    assert "the TLS certificate was read again" in told
    assert not [event for event in told if "rror" in str(event) or "xception" in str(event)]


def test_a_server_whose_store_cannot_be_used_yet_says_so_over_tls(tmp_path: Path) -> None:
    environment, files = with_tls(tmp_path)
    log = tmp_path / "log"
    with log.open("wb") as output:
        (tmp_path / "var").mkdir()
        locked = sqlite3.connect(tmp_path / "var" / "tocsin.db")
        locked.execute("PRAGMA locking_mode = EXCLUSIVE")
        locked.execute("BEGIN EXCLUSIVE")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "tocsin", "serve"],
            cwd=tmp_path,
            env=os.environ | environment | {"TOCSIN_SERVER__PORT": str(port)},
            stdout=output,
            stderr=output,
        )
        try:
            context = ssl.create_default_context(cafile=str(files.ca))
            deadline = time.monotonic() + PATIENCE_S
            while True:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                try:
                    ready = httpx.get(
                        f"https://localhost:{port}/health/ready", verify=context, timeout=PATIENCE_S, trust_env=False
                    )
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            assert ready.status_code == 503
        finally:
            locked.close()
            server.terminate()
            assert server.wait(PATIENCE_S) == 0


def test_a_key_that_others_can_read_keeps_the_server_from_starting(tmp_path: Path) -> None:
    environment, _ = with_tls(tmp_path)
    (tmp_path / "server.pem").chmod(0o644)
    ended = subprocess.run(
        [sys.executable, "-m", "tocsin", "serve"],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "tocsin: server.tls_key server.pem: others may read or change it (mode 0644); run `chmod 600 server.pem`"
    )
