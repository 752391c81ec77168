"""Whatever an option or an argument is given, a command ends with 0, 1 or 2, and where it fails it says why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Run
from tests.cli.test_help import LEAVES, examples_of

pytestmark = pytest.mark.slow

_HOSTILE = (
    "",
    "-1",
    "9" * 19,
    "9" * 400,
    "1e400",
    "nan",
    "\udcff",
    "\x01\n'\"",
    "/dev/full",
    "/dev/zero",
    "nowhere/x",
    "x" * 100_000,
    "999999w",
    ":memory:",
    "[" * 2000,
)
# They run until they are stopped: see test_starting.py.
_COMMANDS = [path for path in LEAVES if path[0] not in {"serve", "emulator", "demo"}]


def _given(path: tuple[str, ...], parameter: Any, value: str) -> Iterator[str]:
    """The arguments of the command's first example, with this value for one of its parameters."""
    is_option = parameter.param_type_name == "option"
    words = iter(examples_of(LEAVES[path])[0][len(path) + 1 :])
    for word in words:
        if not word.startswith("--"):
            if is_option:
                yield word
        elif is_option and word in parameter.opts:
            next(words)
        else:
            yield word
            option = next(one for one in LEAVES[path].params if word in one.opts)
            if not option.is_flag:
                yield next(words)
    if is_option:
        yield f"{parameter.opts[0]}={value}"
    else:
        yield from ("--", value)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("path", _COMMANDS, ids=" ".join)
def test_no_value_makes_a_traceback_or_a_silent_failure(run: Run, path: tuple[str, ...]) -> None:
    for parameter in LEAVES[path].params:
        if parameter.param_type_name == "option" and parameter.is_flag:
            continue
        for value in _HOSTILE:
            ran = run(*_given(path, parameter, value))
            assert ran.status in (0, 1, 2), (parameter.name, value)
            assert ran.status == 0 or ran.out or ran.err, (parameter.name, value)
            assert "Traceback" not in ran.err, (parameter.name, value)
    assert set(os.listdir()) <= {"var", "-1", *_HOSTILE}, "a command has made a file"
    assert Path("var/tocsin.db").exists()
