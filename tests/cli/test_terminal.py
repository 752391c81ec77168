"""What a terminal shows beside data: that a command is still at work, tables that fit, and completed commands."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from tests.cli.conftest import OWNER, Run
from tests.support.line import make_event

from tocsin.cli import output, progress
from tocsin.cli.output import print_table
from tocsin.cli.progress import working
from tocsin.settings import Settings, load
from tocsin.store.opening import open_store
from tocsin.store.records import Attempt, Result, Settlement

OLDEST = ("0199f2ab-6d3c-7a51-9c1e-5d0f8a3b2c4d", "2026-11-24 03:31:32 UTC")


# -- progress ----------------------------------------------------------------------------------------------------------


def shown(after_s: float, *, terminal: bool, works_s: float = 0.0) -> str:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=80)
    with working("copying the store", console=console, after_s=after_s) as work:
        deadline = time.monotonic() + works_s
        while time.monotonic() < deadline and "50%" not in written.getvalue():
            work.at(50, 100)
            time.sleep(0.01)
    return written.getvalue()


def test_what_takes_long_shows_how_far_it_is() -> None:
    text = shown(0.0, terminal=True, works_s=20)
    assert "copying the store" in text
    assert "50%" in text


def test_what_is_done_soon_shows_nothing() -> None:
    assert shown(60.0, terminal=True) == ""


def test_in_a_pipe_nothing_is_shown() -> None:
    assert shown(0.0, terminal=False, works_s=0.2) == ""


@pytest.mark.parametrize(
    "command", [("store", "check"), ("store", "backup", "copy.db"), ("deadletter", "discard", "--all")]
)
def test_commands_that_may_take_long_show_that_they_work(
    command: tuple[str, ...], store: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    made = progress.Work.__init__

    def noted(self: progress.Work, what: str, *more: object) -> None:
        begun.append(what)
        made(self, what, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(progress.Work, "__init__", noted)
    ran = run(*command)
    assert ran.status == 0
    assert len(begun) == 1
    assert begun[0] not in ran.err


async def make_dead_letters(settings: Settings, count: int) -> list[str]:
    async with open_store(settings, server=True) as store:
        await store.start()
        events = [make_event() for _ in range(count)]
        await store.queue.append(events)
        attempt = Attempt(1, "apns:a", "apns:production:x", Result.REFUSED, 400, "BadPriority")
        items = await store.queue.claim(count)
        await store.queue.settle([Settlement(item, [attempt], []) for item in items])
        return [event.id for event in events]


def test_what_takes_long_shows_which_share_of_it_is_done(
    store: Path, run: Run, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[tuple[int, int | None]] = []

    def noted(self: progress.Work, done: int, total: int | None = None) -> None:
        shares.append((done, total))

    monkeypatch.setattr(progress.Work, "at", noted)

    def shares_of(*command: str) -> list[tuple[int, int | None]]:
        shares.clear()
        ran = run(*command)
        assert ran.status == 0, ran.err
        return list(shares)

    dead = asyncio.run(make_dead_letters(load(), 300))
    assert shares_of("deadletter", "discard", *dead[:2]) == [(2, 2)]
    assert shares_of("deadletter", "replay", "--all") == [(200, 298), (298, 298)]
    (rekeyed,) = shares_of("store", "rekey")
    assert rekeyed[0] == rekeyed[1]
    monkeypatch.setenv("TOCSIN_SECRETS__KEY_FILE", f"{store}.key")
    move = shares_of("store", "migrate", "--from", f"sqlite:{store}", "--to", database)
    assert move == sorted(move)
    assert len(move) > 3
    assert move[-1] == (move[-1][1], move[0][1])


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80])
def test_tables_fit_the_terminal_and_ids_stay_whole(width: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ("producer", "admin"):
        assert run("key", "create", role, "--name", "a name that is quite long for a key").status == 0
    assert run("session", "create", "--owner", OWNER).status == 0
    csv = f"owner,system,device_token\n{OWNER},fcm,{'f' * 150}\n"
    Path("devices.csv").write_text(csv)
    assert run("device", "import", "devices.csv").status == 0
    commands = (("key", "list"), ("session", "list"), ("device", "list", "--owner", OWNER), ("audit", "list"))
    whole = {command: run(*command).out for command in commands}
    monkeypatch.setattr(output, "terminal_width", lambda: width)
    for command in commands:
        fitted = run(*command).out
        assert max(map(len, fitted.splitlines())) <= width, fitted
        for word in whole[command].split():
            if word.startswith(("key_", "ses_", "main:")):
                assert word in fitted.split()
    assert "f" * 150 in whole["device", "list", "--owner", OWNER]


def test_where_no_table_fits_each_cell_has_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "terminal_width", lambda: 60)
    print_table(("event", "at", "owner"), [(*OLDEST, "9" * 50)], empty="")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"EVENT  {OLDEST[0]}", f"AT     {OLDEST[1]}", f"OWNER  {'9' * 50}", ""]


# -- completion --------------------------------------------------------------------------------------------------------

_ASK = {
    "bash": (
        "source ./script; COMP_WORDS=({words}); COMP_CWORD={last}; _tocsin_completion tocsin;"
        ' printf "%s\\n" "${{COMPREPLY[@]}}"'
    ),
    "fish": "source ./script; complete -C '{line}'",
}


_ASK_ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1=; PATH='$PWD/bin':\$PATH; cd '$PWD'; autoload -Uz compinit"
zpty -w shell "@LOAD@; print now re''ady"
zpty -r shell shown "*now ready*"
zpty -w -n shell $'tocsin deadl\t'
zpty -r shell shown '*deadl*etter*'
zpty -w -n shell $'\x15tocsin \t'
zpty -r shell shown '*completion *'"tocsin's"'*'
print -r -- "$shown"
"""


def program(directory: Path) -> None:
    """`tocsin` in `directory`."""
    directory.mkdir()
    (directory / "tocsin").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tocsin "$@"\n')
    (directory / "tocsin").chmod(0o755)


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(reason=f"{shell} is not installed (Debian: apt-get install {shell})")


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_completes_commands_and_options(shell: str, run: Run, tmp_path: Path) -> None:
    needs(shell)
    (tmp_path / "script").write_text(run("completion", shell).out)
    program(tmp_path / "bin")
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for line, expected in (("tocsin deadl", {"deadletter"}), ("tocsin device li", {"list"})):
        words = line.split()
        text = str(_ASK[shell]).format(words=line, last=len(words) - 1, line=line)
        asked = subprocess.run([shell, "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert {part.split("\t")[0] for part in asked.stdout.split("\n") if part} >= expected, asked.stderr


@pytest.mark.parametrize(
    "load",
    ["fpath=(./functions \\$fpath); compinit -u -D", "compinit -u -D; source functions/_tocsin"],
    ids=["in its path of functions", "read at its start"],
)
def test_zsh_completes_at_the_first_tab_and_shows_what_each_command_is_for(load: str, run: Run, tmp_path: Path) -> None:
    needs("zsh")
    program(tmp_path / "bin")
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions/_tocsin").write_text(run("completion", "zsh").out)
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    asked = subprocess.run(
        ["zsh", "-f", "-c", _ASK_ZSH.replace("@LOAD@", load)],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "-- Print the script that completes tocsin's" in asked.stdout, asked.stderr
