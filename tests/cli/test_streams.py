"""What a command does where its standard streams are closed, full, or read by nobody; each as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import OWNER

pytestmark = pytest.mark.slow

TOCSIN = f"{sys.executable} -m tocsin"
FAX = f"send fax_new --owner {OWNER} --fax af729cc0-3251-11e2-81c1-0800200c9a66 --phone +492215587412 --page-count 2"


def _shell(directory: Path, line: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=directory,
        env=environment | {"PYTHONPATH": str(Path("src").absolute())},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a store, in which there is a key."""
    directory = tmp_path_factory.mktemp("streams")
    assert _shell(directory, f"{TOCSIN} key create producer --name the-only-one").returncode == 0
    return directory


@pytest.mark.parametrize(
    ("stdout", "reason"),
    [
        (">/dev/full", "No space left on device"),
        (">&-", "Bad file descriptor"),
        # Which has ended when the key is made: it waits for nothing.
        ("| true", "Broken pipe"),
    ],
)
@pytest.mark.parametrize(
    ("create", "listed"),
    [("key create admin", "key list"), (f"session create --owner {OWNER} --json", "session list")],
)
def test_a_secret_that_cannot_be_printed_is_not_kept(
    directory: Path, create: str, listed: str, stdout: str, reason: str
) -> None:
    before = _shell(directory, f"{TOCSIN} {listed} --json").stdout
    ran = _shell(directory, f"{TOCSIN} {create} {stdout}")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith(f"tocsin: standard output: {reason}; the {create.split()[0]} ")
    assert ran.stderr.endswith(" could not be printed, and is revoked\n")
    assert _shell(directory, f"{TOCSIN} {listed} --json").stdout == before


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["key list", "--help", "--version"])
def test_data_that_cannot_be_written_is_told_in_one_sentence(directory: Path, command: str, unbuffered: str) -> None:
    ran = _shell(directory, f"PYTHONUNBUFFERED={unbuffered} {TOCSIN} {command} >/dev/full")
    assert ran.returncode == 1
    assert ran.stderr == "tocsin: standard output: No space left on device; what was printed is not complete\n"


def test_an_event_whose_id_cannot_be_printed_is_told_to_be_accepted(directory: Path) -> None:
    ran = _shell(directory, f"{TOCSIN} {FAX} >/dev/full")
    assert ran.returncode == 1
    assert "the event is accepted, as " in ran.stderr
    event = ran.stderr.split()[-1]
    shown = _shell(directory, f"{TOCSIN} event show {event} --json")
    assert json.loads(shown.stdout)["state"] == "accepted"


@pytest.mark.parametrize("command", ["key list", "--help"])
def test_a_command_whose_reader_has_gone_says_nothing(directory: Path, command: str) -> None:
    ran = _shell(directory, f"{TOCSIN} {command} | true")
    assert (ran.returncode, ran.stderr) == (1, "")


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_remarks_that_cannot_be_written_change_nothing(directory: Path, stderr: str) -> None:
    created = _shell(directory, f"{TOCSIN} session create --anonymous {stderr}")
    assert created.returncode == 0
    assert len(created.stdout) == 44
    for command, status in (("app list", 0), ("app remove T.x", 2), ("app lsit", 2), ("fcm remove x", 1)):
        assert _shell(directory, f"{TOCSIN} {command} {stderr}").returncode == status


def test_no_file_takes_the_place_of_a_closed_stream(directory: Path) -> None:
    program = "from tocsin.cli.streams import prepared\nwith prepared(): raise SystemExit(open('file', 'w').fileno())"
    ran = _shell(directory, f'{sys.executable} -c "{program}" <&- >&- 2>&-')
    assert ran.returncode > 2
    assert _shell(directory, f"{TOCSIN} app list <&- >&- 2>&-").returncode == 0
    assert _shell(directory, f"{TOCSIN} quarantine purge x <&-").returncode == 2
