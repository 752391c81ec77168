"""The pages' stage: what their commands and examples run against. See `stage`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.docs.stage import Stage
from tests.docs.terminal import tocsin_program

from tocsin.emulator.credentials import Files, write_credentials
from tocsin_client.testing import LocalTocsin, User

_NEEDED = ("bash", "curl", "jq")


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a `tocsin` that starts at once."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(reason=f"{', '.join(missing)}: what the pages use is not installed")
    with tocsin_program(tmp_path_factory.mktemp("p")) as directory:
        yield directory


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_credentials(tmp_path_factory.mktemp("credentials"))


class StagedTocsin(LocalTocsin):
    """The one of `tocsin_client.testing`, whose commands need not start a Python."""

    def __init__(self, stage: Stage, key: str, emulator: dict[str, object]) -> None:
        super().__init__(stage.url, key, emulator, stage.directory / "tocsin.toml")
        self._stage = stage

    def add_user(self, id: UUID | None = None) -> User:
        id = id or uuid4()
        return User(self, id, self._stage.run(f"tocsin session create --owner {id} 2>&-"))


@pytest.fixture(scope="session")
def tocsin(programs: Path, credentials: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTocsin]:
    """A server that runs, and delivers to an emulator."""
    stage = Stage(tmp_path_factory.mktemp("stage"), programs, credentials)
    try:
        stage.emulator()
        key = stage.run("tocsin key create producer 2>&-")
        stage.run("tocsin serve")
        yield StagedTocsin(stage, key, json.loads((stage.directory / "emulator/emulator.json").read_text()))
        stage.terminal.stop()
    finally:
        stage.terminal.close()
