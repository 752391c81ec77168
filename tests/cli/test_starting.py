"""`tocsin serve` and `tocsin emulator` that cannot start: the option is named, and nothing is left half done."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("file", "said"),
    [("nowhere/ready", "there is no directory nowhere; make it first"), (".", "is a directory; name a file in it")],
)
def test_a_ready_file_that_cannot_be_written_is_refused_before_anything_starts(run: Run, file: str, said: str) -> None:
    ran = run("serve", "--ready-file", file)
    assert (ran.status, ran.err) == (2, f"tocsin: --ready-file {file}: {said}\n")
    assert not list(Path().iterdir())


@pytest.mark.slow
def test_a_server_whose_ready_file_cannot_be_written_drains_and_fails(tmp_path: Path) -> None:
    (tmp_path / "ready.part").mkdir()
    ended = subprocess.run(
        [sys.executable, "-m", "tocsin", "serve", "--ready-file", "ready"],
        cwd=tmp_path,
        env=os.environ | {"TOCSIN_SERVER__PORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    *log, message = ended.stderr.splitlines()
    assert message == "tocsin: --ready-file ready: Is a directory; name another file"
    assert '"stopped"' in log[-1]


@pytest.mark.slow
def test_a_server_runs_on_where_its_log_cannot_be_written(tmp_path: Path) -> None:
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            [sys.executable, "-m", "tocsin", "serve", "--ready-file", "ready"],
            cwd=tmp_path,
            env=os.environ | {"TOCSIN_SERVER__PORT": "0"},
            stdout=full,
            stderr=full,
        ) as server,
    ):
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "ready").exists():
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            url = (tmp_path / "ready").read_text().strip()
            assert httpx.get(f"{url}/health/live").status_code == 200
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


@pytest.mark.parametrize("host", ["", "a b", "a" * 300 + ".de", "nowhere.invalid", "127.0.0.1"])
def test_an_address_on_which_the_server_cannot_listen_is_told_in_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("TOCSIN_SERVER__HOST", host)
    if host == "127.0.0.1":
        with socket.create_server((host, 0)) as taken:
            monkeypatch.setenv("TOCSIN_SERVER__PORT", str(taken.getsockname()[1]))
            ran = run("serve")
    else:
        ran = run("serve")
    assert ran.status == (1 if "." in host else 2)
    assert ran.err.count("\n") == 1
    assert "server.host" in ran.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--host", ""], 2, "--host: must name an address"),
        (["--host", "a" * 300 + ".de"], 1, "choose others with --host and --port"),
        (["--inbox", "9" * 30], 2, "--inbox"),
        (["--known-tokens", "9" * 30], 2, "--known-tokens"),
        (["--max-streams", "9" * 30], 2, "--max-streams"),
        (["--token-update-interval", "inf"], 2, "--token-update-interval"),
        (["--token-update-interval", "nan"], 2, "--token-update-interval"),
        (["--access-token-lifetime", "9" * 30], 2, "--access-token-lifetime"),
        (["--journal", "nowhere/journal"], 1, "--journal nowhere/journal: No such file"),
        (["--faults", "nowhere"], 1, "--faults nowhere: No such file"),
        (["--faults", "/dev/zero"], 1, "--faults /dev/zero: larger than"),
        (["--faults", "deep"], 1, "--faults deep: "),
        (["--topic", "\udcff"], 2, "--topic"),
        (["--directory", "\udcff"], 2, "--directory: not UTF-8"),
        (["--directory", "deep"], 1, "--directory deep: File exists"),
    ],
)
def test_an_emulator_that_cannot_start_names_the_option(run: Run, arguments: list[str], status: int, said: str) -> None:
    Path("deep").write_text("a = " + "[" * 100_000)
    ran = run("emulator", "--directory", "emulator", *arguments)
    assert (ran.status, ran.out) == (status, "")
    assert said in ran.err
    assert "Traceback" not in ran.err
