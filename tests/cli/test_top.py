"""`tocsin top`: the figures of a running server, once and live in a terminal of any width."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console
from tests.cli.conftest import OWNER, Run
from tests.cli.server import Server
from tests.torture.processes import free_ports

from tocsin.api.admin.figures import BacklogView, FiguresView, MomentView, PerSecond, Totals
from tocsin.api.control import Latency
from tocsin.api.lane_views import LaneView, NodeView
from tocsin.cli.top.screen import Screen

_WITHIN_S = 60.0


def _top(server: Server) -> list[str]:
    return ["top", "--api", server.url, "--key-file", str(server.admin_key)]


def test_once_prints_what_the_server_counts(run: Run, server: Server) -> None:
    fax = ["--fax", "af729cc0-3251-11e2-81c1-0800200c9a66", "--phone", "+492215587412", "--page-count", "2"]
    assert run("send", "fax_new", "--owner", OWNER, *fax, "--config", str(server.config)).status == 0
    ran = run(*_top(server), "--once")
    assert ran.status == 0, ran.err
    for word in ("per second", "latency", "backlog", "dead letters", server.url):
        assert word in ran.out


def test_json_is_what_the_api_answers(run: Run, server: Server) -> None:
    ran = run(*_top(server), "--json")
    assert ran.status == 0
    assert {"per_second", "totals", "backlog", "lanes", "nodes", "history"} <= ran.json.keys()


def test_a_read_only_key_is_enough(run: Run, server: Server, tmp_path: Path) -> None:
    made = run("key", "create", "admin", "--read-only", "--area", "deliveries", "--config", str(server.config))
    (tmp_path / "key").write_text(made.out)
    assert run("top", "--api", server.url, "--key-file", str(tmp_path / "key"), "--once").status == 0


def test_a_key_that_is_not_for_it_is_told_which_one_is(run: Run, server: Server) -> None:
    ran = run("top", "--api", server.url, "--key-file", str(server.producer_key))
    assert ran.status == 1
    assert "admin key" in ran.err
    assert server.producer_key.read_text().strip() not in ran.err


def test_no_server_is_a_failure(run: Run, server: Server) -> None:
    ran = run("top", "--api", f"http://127.0.0.1:{free_ports(1)}", "--key-file", str(server.admin_key))
    assert ran.status == 1
    assert ran.err.startswith("tocsin: http://127.0.0.1:")


class Terminal:
    """`tocsin top` in a terminal, and all that it has written there."""

    def __init__(self, arguments: list[str], columns: int) -> None:
        self._end, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tocsin", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=environment | {"TERM": "xterm"},
        )
        os.close(theirs)
        self.text = ""

    def wait_for(self, word: str) -> None:
        """Wait until it has written this after what was waited for before."""
        deadline, begin = time.monotonic() + _WITHIN_S, len(self.text)
        while word not in self.text[begin:]:
            assert time.monotonic() < deadline, self.text
            self._read()

    def end_by(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        deadline = time.monotonic() + _WITHIN_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read()
        self._read()
        return self.process.wait(1)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._end)

    def _read(self) -> None:
        if select.select([self._end], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):  # It has ended.
                self.text += os.read(self._end, 65_536).decode(errors="replace")


@contextlib.contextmanager
def terminal(arguments: list[str], columns: int = 80) -> Iterator[Terminal]:
    opened = Terminal(arguments, columns)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_and_leaves_the_terminal_as_it_was(server: Server, by: signal.Signals) -> None:
    with terminal([*_top(server), "--every", "0.2"], columns=40) as shown:
        shown.wait_for("dead letters")
        shown.wait_for("dead letters")  # It goes on by itself.
        assert shown.end_by(by) == 0
        assert shown.text.rfind("\x1b[?1049l") > shown.text.rfind("\x1b[?1049h") >= 0, "the alternate screen"
        assert "\x1b[?25h" in shown.text[shown.text.rfind("\x1b[?25l") :], "the cursor"
        assert "Traceback" not in shown.text


@pytest.mark.slow
def test_a_server_that_is_restarted_is_waited_for(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with contextlib.ExitStack() as running:
        first = running.enter_context(contextlib.ExitStack())
        first.enter_context(server.serving())
        shown = running.enter_context(terminal([*_top(server), "--every", "0.2"], columns=100))
        shown.wait_for("dead letters")
        first.close()
        shown.wait_for("no newer figures")
        running.enter_context(server.serving())
        deadline = time.monotonic() + _WITHIN_S
        while "no newer figures" in shown.text[-2000:]:
            assert time.monotonic() < deadline
            shown.wait_for("dead letters")
        assert shown.end_by(signal.SIGINT) == 0


def _figures() -> FiguresView:
    at = "2026-11-24T03:31:32.000Z"
    lanes = [
        LaneView(
            name=f"apns:{environment}:39JSDKGJ38.de.cospace.app",
            state=state,
            reason=reason,
            in_flight=1234,
            waiting=56_789,
            misconfigured_topics={},
            fuse_blown=False,
            provider="apns",
            environment=environment,
            account="39JSDKGJ38.de.cospace.app",
            misconfigured_devices=0,
            pauses=[],
            parked_due_at=at,
        )
        for environment, state, reason in (
            ("production", "running", ""),
            ("sandbox", "paused", "403 InvalidProviderToken [red]said[/red]"),
        )
    ]
    return FiguresView(
        at=at,
        version="1.0",
        window_s=10,
        per_second=PerSecond(12_345.6, 12_000.0, 3.5),
        totals=Totals(1, 2, 3),
        latency_ms=Latency(12.0, 34.0, 5678.0, 100, 60),
        backlog=BacklogView(1_234_567, 8 * 1024**3, at, 7300.0),
        dead_letters=7,
        quarantined=["39JSDKGJ38.de.cospace.app"],
        lanes=lanes,
        nodes=[
            NodeView(
                node=f"host-{number}:1",
                version="1.0",
                at=at,
                age_s=20.0 * number,
                gone=number > 0,
                problems=[],
                lanes=lanes,
            )
            for number in range(2)
        ],
        problems=["lane apns:sandbox:39JSDKGJ38.de.cospace.app is paused: 403 InvalidProviderToken"],
        of_nodes=["host-0:1"],
        history=[MomentView(at, 1.0, float(number % 50), 0.0, 5, 12.0) for number in range(300)],
    )


@pytest.mark.parametrize("columns", [30, 40, 60, 69, 70, 80, 120, 250])
def test_the_screen_fits_a_terminal_of_any_width_and_says_why_a_lane_is_paused(columns: int) -> None:
    output = io.StringIO()
    console = Console(file=output, width=columns, markup=False, highlight=False, emoji=False)
    console.print(Screen(_figures(), "http://127.0.0.1:8080", "the server has gone"))
    lines = output.getvalue().splitlines()
    assert max(cell_len(line) for line in lines) <= columns
    text = "".join("".join(lines).split())
    assert "InvalidProviderToken[red]said[/red]" in text, "a provider's words are no markup"
    assert "gone" in text
    assert text.count("morewaitsinthestore,thefirstdueat03:31:32UTC") == 1, "of the lane that is paused"
    # The lane that does not run comes first, and each is on one line.
    head = next(number for number, line in enumerate(lines) if line.split()[:2] == ["lane", "state"])
    assert [line.split()[1] for line in lines[head : head + 3]] == ["state", "paused", "running"]


@pytest.mark.parametrize(
    ("of_nodes", "said"),
    [(["a:1", "b:1"], "2 nodes together"), (["a:1"], "1 of 2 nodes together, without b:1")],
)
def test_the_screen_says_whose_figures_they_are_where_there_are_several_nodes(of_nodes: list[str], said: str) -> None:
    nodes = [replace(_figures().nodes[0], node=name, gone=name == "c:1") for name in ("a:1", "b:1", "c:1")]
    output = io.StringIO()
    figures = replace(_figures(), nodes=nodes, of_nodes=of_nodes)
    Console(file=output, width=100).print(Screen(figures, "http://127.0.0.1:8080"))
    assert said in output.getvalue()
