"""The demo, as a user runs it: real processes, TLS and HTTP/2, and the contents of the specification's examples."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.docs.blocks import blocks
from tests.docs.shapes import real_values

from tocsin.cli.demo.children import running
from tocsin.cli.demo.command import check_received
from tocsin.cli.demo.events import EVENTS, EXPECTED
from tocsin.cli.demo.received import InboxReader
from tocsin.cli.demo.users import ANNA, USERS
from tocsin.cli.errors import CommandError
from tocsin.domain.events import MESSAGES

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
DEMO = [sys.executable, "-m", "tocsin", "demo"]


@pytest.fixture(scope="module")
def once() -> list[dict[str, Any]]:
    # The demo must not use the caller's settings, least of all the caller's store.
    environment = os.environ | {"TOCSIN_STORE__PATH": "/nowhere/at/all.db", "TOCSIN_CONFIG": "/nowhere/tocsin.toml"}
    ran = subprocess.run([*DEMO, "--once", "--json"], capture_output=True, text=True, timeout=90, env=environment)
    assert ran.returncode == 0, ran.stderr
    arrived: list[dict[str, Any]] = json.loads(ran.stdout)
    return arrived


def test_every_content_equals_the_example_of_the_specification(once: list[dict[str, Any]]) -> None:
    for arrived in once:
        example = json.loads((GOLDEN / f"{arrived['event']}.{arrived['provider']}.json").read_text())
        # Compared as text: in Python 2 == 2.0 and 1 == True.
        assert json.dumps(arrived["content"], sort_keys=True) == json.dumps(example, sort_keys=True)


def test_every_event_reaches_every_kind_of_device_once(once: list[dict[str, Any]]) -> None:
    kinds = [(one["event"], one["provider"], one["environment"], one["headers"].get("apns-topic")) for one in once]
    expected = {
        (message, *kind)
        for message in MESSAGES
        for kind in (
            ("apns", "production", "de.cospace.app"),
            ("apns", "production", "de.cospace.app.voip"),
            ("apns", "sandbox", "de.cospace.app"),
            ("fcm", None, None),
        )
    }
    assert len(kinds) == len(expected)
    assert set(kinds) == expected
    assert all(set(one) == {"event", "provider", "environment", "token", "headers", "content"} for one in once)


def test_without_a_terminal_every_push_received_is_printed_as_a_line() -> None:
    ran = subprocess.run([*DEMO, "--once"], capture_output=True, text=True, timeout=90)
    assert ran.returncode == 0, ran.stderr
    for event in EVENTS:
        for phone in ANNA.phones:
            assert f"{event['message']} reached {ANNA.name}'s {phone.name}" in ran.stdout
    assert "Everything arrived" in ran.stdout


@pytest.fixture(scope="module")
def running_demo() -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A demo that has shown everything and keeps running, and what it has printed so far."""
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1) as demo:
        try:
            assert demo.stdout is not None
            said = []
            for line in demo.stdout:
                said.append(line.rstrip("\n"))
                if line.startswith("Running until Ctrl-C"):
                    break
            yield demo, said
        finally:
            demo.terminate()


def test_the_console_is_named_first_and_one_can_sign_in_with_the_key_that_is_printed(
    running_demo: tuple[subprocess.Popen[str], list[str]],
) -> None:
    _, said = running_demo
    first = [line for line in said if not line.startswith("Starting ")][:2]
    assert first[0].startswith("The console: http://127.0.0.1:")
    url, key = first[0].partition(": ")[2], first[1].rpartition(" ")[2]
    with httpx.Client(base_url=url, follow_redirects=True) as browser:
        csrf = re.findall(r'name="csrf" value="([0-9a-f]+)"', browser.get("/sign-in").text)[0]
        assert "All is well" in browser.post("/sign-in", data={"csrf": csrf, "key": key}).text
        phones = browser.get("/phones").text
    for user in USERS:
        assert user.name in phones
    assert "lunch today?" in phones


def test_it_prints_what_the_readme_shows(running_demo: tuple[subprocess.Popen[str], list[str]]) -> None:
    _, said = running_demo
    (shown,) = (block.text for block in blocks() if block.page == "README.md" and "The console: " in block.text)
    missing = [line for line in shown.splitlines() if all(real_values(line, real) is None for real in said)]
    assert missing == []


def test_what_it_shows_in_a_terminal_fits_on_one_screen() -> None:
    """80 columns and 30 rows, with the wrapped rows counted."""
    said, size = b"", struct.pack("HHHH", 30, 80, 0, 0)
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "30"}
    with subprocess.Popen(DEMO, stdout=terminal, stderr=terminal, env=environment) as demo:
        os.close(terminal)
        try:
            deadline = time.monotonic() + 90
            while b"Running until Ctrl-C" not in said:
                assert time.monotonic() < deadline, said.decode(errors="replace")
                said += os.read(main, 65536)
        finally:
            demo.terminate()
    os.close(main)
    text = said.decode()
    # The table is drawn again and again in its place: what counts is before it, its last state, and after it. Where the
    # start takes its time, there was a progress bar before, which has gone.
    first, *drawn = text.split("\x1b[?25l")
    before = first + "".join(one.rpartition("\x1b[?25h")[2] for one in drawn[:-1])
    table, _, after = drawn[-1].rpartition("\x1b[?25h")
    table = table.rpartition("\x1b[2K")[2]
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", before + table + after).splitlines()
    rows = sum(max(1, -(-len(line.rstrip()) // 80)) for line in shown)
    assert "The console: " in before
    assert any(line.startswith(" chat_message") for line in shown)
    assert rows <= 30, "\n".join(shown)


def _children_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_commands_that_it_prints_can_be_pasted(running_demo: tuple[subprocess.Popen[str], list[str]]) -> None:
    demo, said = running_demo
    (named,) = [line.partition("cat ")[2] for line in said if line.startswith("To try: ")]
    commands = Path(shlex.split(named)[0]).read_text().splitlines()
    lines = [line for line in commands if line.startswith(("curl ", shlex.quote(sys.executable)))]
    assert len(lines) >= 6
    for line in lines:
        ran = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, (line, ran.stderr)
        assert "urn:tocsin:problem" not in ran.stdout, line
    assert demo.stdout is not None
    assert {demo.stdout.readline().split("'s ")[0] for _ in range(2)} == {"  fax_new reached John Doe"}


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_ctrl_c_ends_the_demo_and_its_children(running_demo: tuple[subprocess.Popen[str], list[str]]) -> None:
    demo, _ = running_demo
    assert demo.poll() is None, demo.stdout and demo.stdout.read()
    children = _children_of(demo.pid)
    assert len(children) == 3
    demo.send_signal(signal.SIGINT)
    assert demo.wait(30) == 0
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_a_demo_that_is_killed_leaves_no_children_running(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # What it leaves is a directory.
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as demo:
        try:
            assert demo.stdout is not None
            for line in demo.stdout:
                if line.startswith("Running until Ctrl-C"):
                    break
            children = _children_of(demo.pid)
            assert len(children) == 3
            demo.kill()
            deadline = time.monotonic() + 30
            while any(_runs(child) for child in children):
                assert time.monotonic() < deadline, "a child outlives the demo"
                time.sleep(0.1)
        finally:
            demo.kill()


def _runs(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def test_a_push_that_is_missing_or_unexpected_fails_the_demo() -> None:
    reader = InboxReader(list)
    with pytest.raises(CommandError, match="20 of 20 pushes did not arrive"):
        check_received(reader)

    def entry(token: str, message: str) -> dict[str, Any]:
        common = {"provider": "apns", "environment": "production", "headers": {}, "time": 0.0}
        return common | {"token": token, "id": f"{token} {message}", "body": {"message": message}}

    inbox = [entry(token, message) for message, token in EXPECTED]
    reader = InboxReader(lambda: inbox)
    assert len(reader.read_new()) == len(EXPECTED)
    assert reader.read_new() == []
    check_received(reader)
    inbox.append(entry("somebody else's", "fax_new"))
    reader.read_new()
    with pytest.raises(CommandError, match="1 pushes reached phones that they were not for"):
        check_received(reader)


def test_the_error_of_a_child_that_fails_has_the_end_of_its_log(tmp_path: Path) -> None:
    arguments = ["serve", "--config", str(tmp_path / "nowhere.toml")]
    with (
        pytest.raises(CommandError, match=r"(?s)the server ended with status 2.*nowhere.toml: No such file"),
        running("server", arguments, tmp_path / "server.log") as server,
    ):
        server.wait_until(lambda: False)
