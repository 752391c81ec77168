"""Where a provider may be named: in its own package, in what its users see, and nowhere in between."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tocsin"
_NAMES = re.compile(r"apns|fcm|apple|google|firebase", re.IGNORECASE)
_NEVER = ("delivery/", "service/", "store/")
"""In no form: not in code, not in a comment."""
_MAY_NAME_THEM = (
    "providers/",
    "emulator/",
    # What is stored in files of older versions, and becomes the provider's own.
    "store/sqlite/migrations/",
    # What an operator or an app writes and reads: the API's schema, the settings, the credential commands, the demo.
    "api/schemas.py",
    "api/documentation.py",
    "api/needs.py",
    "api/problems.py",
    "api/needs.py",
    "api/admin/applications.py",
    "api/admin/devices.py",
    "settings.py",
    "cli/applications.py",
    "cli/certificates.py",
    "cli/fcm.py",
    "cli/emulator.py",
    "cli/root.py",
    "cli/demo/",
    # What the console calls them, and its forms for their credentials.
    "console/words.py",
    "console/records.py",
    "console/searching.py",
    "console/pages/applications.py",
)


def modules() -> list[str]:
    found = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py"))
    return [module for module in found if not module.startswith(_MAY_NAME_THEM)]


@pytest.mark.parametrize("module", modules())
def test_a_module_between_the_users_and_the_providers_names_no_provider(module: str) -> None:
    text = (SOURCE / module).read_text()
    words = text.splitlines() if module.startswith(_NEVER) else list(_code(ast.parse(text)))
    assert [word for word in words if _NAMES.search(word)] == []


def _code(tree: ast.AST) -> Iterator[str]:
    """The names and the strings of a module, without its prose: elsewhere an example may explain a word."""
    prose = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(body := getattr(node, "body", None), list)
        for statement in body
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(value)) if id(node) not in prose:
                yield value
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name):
                yield name


def test_the_list_of_exceptions_names_only_what_is_there() -> None:
    assert [path for path in _MAY_NAME_THEM if not (SOURCE / path).exists()] == []
