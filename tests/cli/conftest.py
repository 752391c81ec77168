"""Runs commands as a user does: through `main`, in a temporary directory, without `TOCSIN_` in the environment."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec import Struct
from tests.cli.server import Server
from tests.support.new_store import lay_out
from tests.support.postgres import execute
from tests.support.postgres_server import shared_server

from tocsin.cli import main
from tocsin.cli.opening import in_store
from tocsin.emulator.credentials import Files, write_credentials, write_service_account
from tocsin.settings import load
from tocsin.store.ports import Store

APPLICATION = "39JSDKGJ38.de.cospace.app"
OWNER = "9aed5e94-3803-11e3-8475-0024e8f90cc0"


class Ran(Struct):
    """The exit status of a command, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("TOCSIN_")]:
        monkeypatch.delenv(variable)

    def run(*arguments: str) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capfd.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0 if code is None else 1, captured.out, captured.err)

    return run


@pytest.fixture
def store(run: Run) -> Path:
    """An empty store, where commands look for it."""

    async def nothing(store: Store) -> None: ...

    settings = load()
    lay_out(settings.store.path)
    in_store(settings, nothing, create=True)
    return settings.store.path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs."""
    server = Server(tmp_path_factory.mktemp("server"))
    with server.serving():
        yield server


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A key, a certificate for de.cospace.app and a service account, as the emulator makes them."""
    files = write_credentials(tmp_path_factory.mktemp("credentials"))
    write_service_account(files, "https://oauth2.googleapis.com/token")
    return files


@pytest.fixture
def database() -> str:
    """The URL of an empty database on PostgreSQL, whose server keeps nothing safe."""
    name = f"cli_{uuid4().hex}"
    asyncio.run(execute(f"CREATE DATABASE {name}"))
    return shared_server().url(name)


@pytest.fixture
def on_postgres(run: Run, database: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Commands on an empty store on PostgreSQL."""
    monkeypatch.setenv("TOCSIN_STORE__URL", database)
    monkeypatch.setenv("TOCSIN_SECRETS__KEY", "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=")
    assert run("session", "create", "--anonymous").status == 0
    return run
