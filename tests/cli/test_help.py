"""Every command has a help text with an example."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.cli.conftest import Run

from tocsin.cli.root import app


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from _leaves(child, (*path, name))


LEAVES = dict(_leaves(typer.main.get_command(app)))


def examples_of(command: Any) -> list[list[str]]:
    text = command.epilog.partition("Example:")[2].replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_ends_with_an_example(path: tuple[str, ...], run: Run) -> None:
    ran = run(*path, "--help")
    assert ran.status == 0
    assert f"tocsin {' '.join(path)}" in ran.out.partition("Example:")[2]


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_the_example_is_valid(path: tuple[str, ...]) -> None:
    examples = examples_of(LEAVES[path])
    assert examples
    for words in examples:
        assert tuple(words[: len(path) + 1]) == ("tocsin", *path)
        LEAVES[path].make_context(words[0], words[len(path) + 1 :])


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_commands_that_print_data_take_json(path: tuple[str, ...]) -> None:
    of_data = {
        "list",
        "show",
        "check",
        "history",
        "create",
        "import",
        "verify",
        "erase",
        "search",
        "doctor",
        "status",
        "top",
    }
    prints_data = path[-1] in of_data or path[0] in {"send", "demo"}
    options = {option for parameter in LEAVES[path].params for option in parameter.opts}
    assert ("--json" in options) is prints_data


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_commands_that_use_the_store_take_a_configuration(path: tuple[str, ...]) -> None:
    options = {option for parameter in LEAVES[path].params for option in parameter.opts}
    assert ("--config" in options) is (path[0] not in {"demo", "emulator", "completion"})


def test_the_page_about_the_command_line_describes_every_command() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    headings = [line for line in page.splitlines() if line.startswith("### `tocsin ")]
    for path in LEAVES:
        told = [heading for heading in headings if heading.startswith(f"### `tocsin {path[0]}")]
        assert told, path
        assert path[0] == "send" or len(path) == 1 or any(path[1] in heading for heading in told), path


def test_a_wrong_option_is_a_usage_error(run: Run) -> None:
    ran = run("serve", "--prot", "80")
    assert ran.status == 2
    assert "No such option" in ran.err
