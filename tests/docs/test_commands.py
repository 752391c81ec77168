"""Every command in the documentation does what its page says: page by page, in order, against real servers.

A page's commands run in one shell, with a real emulator of Apple and Google behind them. Addresses, directories and the
credentials of the examples are replaced by those of the test; `exceptions` says which commands do not run, and why.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
import typer
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.cli.test_help import LEAVES
from tests.docs.blocks import ROOT, Command, blocks, commands, pages
from tests.docs.exceptions import FIRST_LINE_ONLY, MAY_FAIL, OUTPUT_NOT_COMPARED, PROGRAMS
from tests.docs.stage import APPLICATION, OWNER, Stage

from tocsin.cli.root import app
from tocsin.emulator.credentials import Files

CONSOLE: Final = [block for block in blocks() if block.language == "console"]
TOKEN: Final = "a6461732069737d42065496e0000000000000000000000000000000000000000"


# -- what runs here ----------------------------------------------------------------------------------------------------


def kind_of(command: Command) -> str:
    """Which judge a command has: `except`, `make`, `pip`, `python`, or `run`."""
    first = command.words[0]
    if first in PROGRAMS:
        return "except"
    if first in ("make", "pip"):
        return first
    return "python" if first == ".venv/bin/python" else "run"


def runs(page: str) -> list[Command]:
    """The commands of a page that run."""
    return [one for block in CONSOLE if block.page == page for one in commands(block) if kind_of(one) == "run"]


PAGES: Final = [page for page in dict.fromkeys(block.page for block in CONSOLE) if runs(page)]


# -- what pages take for granted ---------------------------------------------------------------------------------------


def _readme(stage: Stage) -> None:
    stage.put_credentials("var/emulator")


def _command_line(stage: Stage) -> None:
    (stage.directory / "tocsin.toml").touch()
    stage.emulator()
    stage.devices()
    stage.run("tocsin session create --owner <user> > token.txt")
    stage.run("tocsin key create admin > admin.key && tocsin key create monitoring > monitoring.key")
    stage.replaced["5d0b6e3c7f2a4189c6d3a0b1e4f5968778695a4b3c2d1e0f9a8b7c6d5e4f3a2b"] = re.findall(
        r"[0-9a-f]{64}", stage.run("tocsin audit export > audit.jsonl")
    )[-1]


def _handbook(stage: Stage) -> None:
    (stage.directory / "examples").symlink_to(ROOT / "examples")
    stage.emulator()
    stage.devices()
    stage.run("tocsin key create producer --name fax-server-2026 > old.key")
    event = stage.run("tocsin send recording_new --owner <user> --recording <user> --phone 1")
    (stage.replaced["<event id>"],) = re.findall(r"[0-9a-f-]{36}$", event)


def _emulator(stage: Stage) -> None:
    stage.put_credentials("emulator")


def _push(stage: Stage) -> None:
    """The device of the page about the emulator gets a push."""
    stage.run(f"tocsin app add {APPLICATION} --key AuthKey_ABC123DEFG.p8")
    stage.devices()
    stage.run("tocsin send recording_new --owner <user> --recording <user> --phone 1")
    stage.run("tocsin serve")
    deadline = time.monotonic() + 30
    while stage.run(f'curl -sS "$control/inbox?token={TOKEN}"') == "[]":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _sign_in(stage: Stage) -> None:
    """A token of the platform that is for another service."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    (stage.directory / "jwks.json").write_text(json.dumps({"keys": [{**public, "kid": "1", "use": "sig"}]}))
    claims = {"iss": "https://issuer", "aud": "the shop", "exp": int(time.time()) + 600, "sub": OWNER}
    (stage.directory / "token.txt").write_text(jwt.encode(claims, key, "RS256", {"kid": "1"}))
    (stage.directory / "tocsin.toml").write_text(
        '[sessions]\nissuer = "https://issuer"\naudiences = ["tocsin"]\njwks_file = "jwks.json"\n'
    )
    stage.run("tocsin key create admin")


def _with_a_configuration(stage: Stage) -> None:
    stage.emulator()
    stage.devices()
    (stage.directory / "etc/tocsin/tocsin.toml").touch()


SETTING_UP: Final[dict[str, Callable[[Stage], None]]] = {
    "README.md": _readme,
    "docs/cli.md": _command_line,
    "docs/configuration.md": _with_a_configuration,
    "docs/operating.md": _handbook,
    "docs/emulator.md": _emulator,
    "docs/sign-in.md": _sign_in,
}
BEFORE: Final[dict[str, Callable[[Stage], None]]] = {
    # What must have happened when a command is read, besides what the page has shown.
    "tocsin store restore": lambda stage: stage.terminal.stop(),
    'curl "$control/inbox': _push,
}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_do_what_it_says(page: str, programs: Path, credentials: Files, tmp_path: Path) -> None:
    stage = Stage(tmp_path, programs, credentials)
    try:
        if page in SETTING_UP:
            SETTING_UP[page](stage)
        for command in runs(page):
            for start, prepare in BEFORE.items():
                if command.text.startswith(start):
                    prepare(stage)
            stage.play(command)
        stage.terminal.stop()
    finally:
        stage.terminal.close()


# -- what is looked at, and not run ------------------------------------------------------------------------------------


def of_kind(*kinds: str) -> list[Any]:
    """The commands of these kinds, for `parametrize`."""
    found = [(block.page, one) for block in CONSOLE for one in commands(block) if kind_of(one) in kinds]
    return [pytest.param(page, one, id=f"{page}: {one.text.splitlines()[0][:60]}") for page, one in found]


def without_remark(command: Command) -> list[str]:
    return shlex.split(command.text, comments=True)


@pytest.mark.parametrize(("page", "command"), of_kind("make"))
def test_what_make_is_to_do_has_a_recipe(page: str, command: Command) -> None:
    read = subprocess.run(
        [*without_remark(command), "--dry-run", "--always-make"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert read.returncode == 0, read.stderr


@pytest.mark.parametrize(("page", "command"), of_kind("pip"))
def test_what_pip_is_to_install_is_there(page: str, command: Command) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = {*project["tool"]["setuptools"]["dynamic"]["optional-dependencies"]}
    (what,) = without_remark(command)[2:]
    named = re.fullmatch(r"tocsin\[(\w+)\]", what)
    assert named[1] in extras if named else (ROOT / what / "pyproject.toml").exists()


@pytest.mark.parametrize(("page", "command"), of_kind("python"))
def test_what_python_is_to_run_has_the_options_that_are_named(
    page: str, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, minus_m, module, *arguments = without_remark(command)
    assert minus_m == "-m"
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    spec = find_spec(module)
    assert spec is not None
    run = f"{module}.__main__" if spec.submodule_search_locations else module
    monkeypatch.delitem(sys.modules, run, raising=False)  # another test may have imported it
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code in (None, 0)
    helped = capsys.readouterr().out
    options = [one for one in arguments if one.startswith("--")]
    assert [one for one in options if not re.search(rf"{one}\b", helped)] == []


@pytest.mark.parametrize(("page", "command"), of_kind("except"))
def test_the_files_that_a_command_names_are_there_where_it_cannot_run(page: str, command: Command) -> None:
    named = re.findall(r"(?<![\w/])((?:deploy|requirements|src)/[\w./-]+)", command.text)
    # The key is what the command writes.
    assert [one for one in named if not (ROOT / one).exists() and not one.endswith("master.key")] == []


def test_every_exception_is_needed() -> None:
    used = {one.words[0] for block in CONSOLE for one in commands(block)}
    texts = [one.text for block in CONSOLE for one in commands(block)]
    assert set(PROGRAMS) - used == set()
    for start in (*FIRST_LINE_ONLY, *OUTPUT_NOT_COMPARED, *MAY_FAIL):
        assert any(text.startswith(start) for text in texts), start


# -- commands within the text ------------------------------------------------------------------------------------------


def spans(start: str) -> list[Any]:
    """What stands between backticks outside code blocks, and begins so."""
    found = set()
    for page in pages():
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        name = page.relative_to(ROOT).as_posix()
        found |= {(name, re.sub(r"\s+", " ", one)) for one in re.findall(rf"`({start} [^`]+)`", text)}
    return [pytest.param(page, one, id=f"{page}: {one}") for page, one in sorted(found)]


@pytest.mark.parametrize(("page", "span"), spans("tocsin"))
def test_a_command_in_the_text_is_one_with_the_options_that_it_names(page: str, span: str) -> None:
    words = [word for word in re.split(r"\s+", span)[1:] if word not in ("|", "…")]
    root: Any = typer.main.get_command(app)
    at = root
    while words and words[0] in getattr(at, "commands", {}):
        at = at.commands[words.pop(0)]
    known = {option for parameter in at.params for option in parameter.opts}
    assert at is not root or words[0].startswith("-")
    if at in LEAVES.values():
        assert [one for one in words if one.startswith("-") and one not in known] == []


@pytest.mark.parametrize(("page", "span"), spans("make"))
def test_a_target_in_the_text_is_one(page: str, span: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    words = [word for word in span.split()[1:] if "=" not in word]
    assert [word for word in words if word not in targets] == []
