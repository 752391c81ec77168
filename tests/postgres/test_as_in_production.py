"""PostgreSQL as in production: verified TLS, a password from a file, a user that owns its database and no more, two
hosts of which one takes no writes; and versions other than that of most tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.contract.support import OWNER, claim, device_of, done, register
from tests.postgres.nodes import event_of
from tests.support.postgres import MASTER_KEY, fetch
from tests.support.postgres_server import (
    FAST,
    SUPERUSER,
    PostgresServer,
    belongs_to_user,
    programs_of_16,
    programs_with_tls,
    remove,
)
from tests.torture.processes import free_ports

from tocsin.cli import main
from tocsin.emulator.credentials import Files, write_credentials
from tocsin.settings import load
from tocsin.store.opening import open_store
from tocsin.store.ports import StoreError
from tocsin.store.postgres import partitions
from tocsin.store.postgres.places import day_of
from tocsin.store.postgres.store import PostgresStore
from tocsin.store.records import Retention, State

_PASSWORD = "a:word/with@signs %41"
_SHORT = Retention(events_s=1, dead_letters_s=1, removals_s=1)
# Whoever sets the tests' server up may come from here without a password; everybody else as in production.
_RULES = f"""local all all reject
host all,replication {SUPERUSER} 127.0.0.1/32 trust
{{connection}} all all 127.0.0.1/32 scram-sha-256
"""

needs_tls = pytest.mark.skipif(
    programs_with_tls() is None,
    reason="PostgreSQL with TLS is not installed (Debian: apt-get install postgresql); the wheel's has none",
)


def secured(server: PostgresServer, files: Files | None) -> PostgresServer:
    """Started, with these rules and, where there are files, TLS."""
    rules = server.data / "pg_hba.conf"
    rules.write_text(_RULES.format(connection="host" if files is None else "hostssl"))
    if files is not None:
        pair = server.data / "server.pem"
        pair.write_text(files.server.read_text())
        pair.chmod(0o600)
        belongs_to_user(pair)
    return server.start()


@pytest.fixture
def issued(tmp_path: Path) -> Files:
    return write_credentials(tmp_path / "issued")


def settings_for(tls: bool) -> dict[str, str]:
    on = {"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.pem"} if tls else {}
    return {**FAST, "password_encryption": "scram-sha-256", **on}


@pytest.fixture
def with_tls(issued: Files) -> Iterator[str]:
    """The hosts of a cluster with TLS, and its parameters: the standby comes first."""
    primary = secured(PostgresServer(settings_for(True), programs=programs_with_tls()), issued)
    try:
        asyncio.run(prepare(primary))
        standby = PostgresServer.copy_of(primary, settings_for(True)).start()
        try:
            yield f"localhost:{standby.port},localhost:{primary.port}/app?sslmode=verify-full"
        finally:
            remove(standby)
    finally:
        remove(primary)


@pytest.fixture
def of_16() -> Iterator[str]:
    """The hosts of PostgreSQL 16: at the first nobody listens."""
    server = secured(PostgresServer(settings_for(False), programs=programs_of_16()), None)
    try:
        asyncio.run(prepare(server))
        yield f"127.0.0.1:{free_ports(1)},127.0.0.1:{server.port}/app?sslmode=disable"
    finally:
        remove(server)


async def prepare(server: PostgresServer) -> None:
    quoted = _PASSWORD.replace("'", "''")
    await fetch(server.url(), f"CREATE ROLE app LOGIN PASSWORD '{quoted}'")
    await fetch(server.url(), "CREATE DATABASE app OWNER app")


def configured(directory: Path, place: str) -> Path:
    (directory / "password").write_text(f"{_PASSWORD}\n")
    (directory / "password").chmod(0o600)
    file = directory / "tocsin.toml"
    file.write_text(
        f'[store]\nurl = "postgresql://app@{place}"\npassword_file = "{directory / "password"}"\n'
        f'[secrets]\nkey = "{MASTER_KEY}"\n'
    )
    return file


async def use(store: PostgresStore) -> None:
    """All that a node does."""
    await store.start()
    await register(store, "a")
    event = event_of(store, OWNER)
    await store.queue.append([event])
    (item,) = await claim(store, 10, {})
    assert item.event == event
    device = await device_of(store, "a")
    assert await store.queue.settle([done(item, device=f"apns:{device.token}")]) == [True]
    record = await store.log.record(event.id)
    assert record is not None
    assert record.state is State.DONE
    today = day_of(store.now_ms())
    await store.database.write(lambda one: partitions.make(one, today - 9, today - 8))
    await store.look_after()
    assert not await store.prune(_SHORT)
    assert today - 9 not in await store.database.read(lambda one: partitions.existing(one, "event"))
    while await store.search.fill(1.0):
        pass


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with a configuration: its status, and what it printed to both."""
    monkeypatch.chdir(tmp_path)

    def run(config: Path, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main((*arguments, "--config", str(config)))
        captured = capfd.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else 0 if code is None else 1, captured.out, captured.err

    return run


def it_works(run: Run, config: Path, version: str) -> None:
    async def story() -> None:
        async with open_store(load(config), server=True) as store:
            assert isinstance(store, PostgresStore)
            await use(store)
            found = await store.database.read(lambda one: one.fetchval("SHOW server_version_num"))
            assert found.startswith(version)

    asyncio.run(story())
    status, out, err = run(config, "store", "check")
    assert (status, out) == (0, ""), out + err
    assert "all is well" in err
    assert "GRANT pg_read_all_stats" in err
    _, out, _ = run(config, "doctor", "--json")
    assert "sound, and of this version" in out
    assert "GRANT pg_read_all_stats" in out


@needs_tls
def test_with_verified_tls_scram_two_hosts_and_a_user_without_rights_everything_works(
    run: Run, tmp_path: Path, with_tls: str, issued: Files
) -> None:
    programs = programs_with_tls()
    assert programs is not None
    it_works(run, configured(tmp_path, f"{with_tls}&sslrootcert={issued.ca}"), programs.parent.name)
    other = write_credentials(tmp_path / "other").ca
    config = configured(tmp_path, f"{with_tls}&sslrootcert={other}")

    async def refused() -> None:
        async with open_store(load(config), server=True):
            raise AssertionError("a certificate of an unknown authority")

    with pytest.raises(StoreError, match=r"the server's certificate is not accepted: .*sslrootcert"):
        asyncio.run(refused())
    status, out, _ = run(config, "store", "check")
    assert status == 1
    assert "the server's certificate is not accepted" in out
    _, out, _ = run(configured(tmp_path, with_tls.replace("verify-full", "disable")), "store", "check")
    assert "no encryption" in out


def test_of_postgresql_16_everything_works(run: Run, tmp_path: Path, of_16: str) -> None:
    it_works(run, configured(tmp_path, of_16), "16")
