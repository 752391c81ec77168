"""What the console says of a request that the API refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tocsin.console.admin_api import _refused

OWNER = {"at": "$.owner", "reason": "Invalid UUID"}
LIMIT = {"at": "$.limit", "reason": "too many"}


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ({"detail": "$.owner: Invalid UUID", "errors": [OWNER]}, "$.owner: Invalid UUID"),
        ({"detail": "$.owner: Invalid UUID", "errors": [OWNER, LIMIT]}, "$.owner: Invalid UUID; $.limit: too many"),
        ({"title": "Bad input", "errors": [OWNER]}, "Bad input; $.owner: Invalid UUID"),
        ({"detail": "There is no key of this id."}, "There is no key of this id."),
    ],
)
def test_each_violation_is_said_once(problem: dict[str, Any], said: str) -> None:
    assert str(_refused(400, msgspec.json.encode(problem))) == said
