"""The fault scripts in `docs/emulator.md` are valid, and every field and option is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tocsin.emulator.__main__ import parser
from tocsin.emulator.faults import Rule, Script, load_script, parse_script

DOCS = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text()
PAIRS = re.findall(r"```json\n(.*?)```\n```toml\n(.*?)```", DOCS, re.DOTALL)


@pytest.mark.parametrize(("as_json", "as_toml"), PAIRS)
def test_an_example_is_the_same_valid_script_in_json_and_toml(as_json: str, as_toml: str) -> None:
    script = parse_script(as_json.encode())
    assert script == load_script(as_toml)
    assert script != Script()


def test_every_field_of_a_rule_is_documented() -> None:
    examples = "".join(as_json for as_json, _ in PAIRS)
    for name in Rule.__struct_fields__:
        assert f"`{name}`" in DOCS or f'"{name}"' in examples, name


def test_every_option_is_documented() -> None:
    for action in parser()._actions:
        assert any(f"`{option}" in DOCS for option in action.option_strings if option != "-h") or action.dest == "help"
