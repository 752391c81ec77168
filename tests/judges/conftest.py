"""Fixtures: what the judges need, fetched once; where it cannot be had, the tests are skipped and say why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.emulator.conftest import credentials, harness, start_emulator
from tests.judges import packages
from tests.judges.clients import Program

__all__ = ["credentials", "harness", "start_emulator"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that needs a judge waits until its packages are fetched and built."""
    for item in items:
        if "tests/judges/" in item.nodeid:
            item.add_marker(pytest.mark.timeout(packages.FETCH_TIMEOUT_S + packages.BUILD_TIMEOUT_S + 120))


def _node() -> Program:
    directory = packages.node_modules()
    command = [packages.program("node"), str(packages.HERE / "node" / "clients.js")]
    return Program("node", command, {"JUDGES_PACKAGES": str(directory)})


def _go() -> Program:
    return Program("go", [str(packages.go_binary())])


CLIENTS: dict[str, Callable[[], Program]] = {"node": _node, "go": _go}


@pytest.fixture(scope="session", params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Program:
    """Both clients of a provider, one after the other: in JavaScript, and in Go."""
    made: Program = packages.or_skip(CLIENTS[request.param])
    return made
