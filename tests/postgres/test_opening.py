"""What is said where the store cannot be opened: which setting, the reason, and what to do."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.contract.support import ACCOUNT, OWNER
from tests.postgres.nodes import Nodes, event_of
from tests.support.postgres import MASTER_KEY, options
from tests.support.postgres_server import shared_server

from tocsin.domain.credentials import Credential
from tocsin.domain.nodes import NodeRole
from tocsin.settings import Settings, SettingsError, load
from tocsin.store import maintenance, opening
from tocsin.store.master_keys import KeyText
from tocsin.store.ports import StorageFailure, StoreError
from tocsin.store.postgres import schema
from tocsin.store.postgres.clock import NOW_MS
from tocsin.store.postgres.connections import Target, connect
from tocsin.store.postgres.hosts import Hosts
from tocsin.store.postgres.old_days import date_of
from tocsin.store.postgres.opening import open_store
from tocsin.store.postgres.places import day_of


def settings(tmp_path: Path, **store: object) -> Settings:
    lines = [f"{key} = {value!r}" for key, value in store.items()]
    file = tmp_path / "tocsin.toml"
    file.write_text("\n".join(["[store]", *lines]))
    return load(file, environ={"TOCSIN_SECRETS__KEY": MASTER_KEY})


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_file_may_be_named_as_a_url(tmp_path: Path) -> None:
    given = settings(tmp_path, url="sqlite:elsewhere/tocsin.db")
    assert (given.store.path, given.store.is_postgres) == (Path("elsewhere/tocsin.db"), False)


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ({"url": "mysql://a@b/c"}, "store.url: must be sqlite:FILE, or postgresql://"),
        ({"url": "postgresql://tocsin:secret@db/tocsin"}, "must not hold the password"),
        ({"url": "sqlite:"}, "must be sqlite:FILE"),
        ({"url": "sqlite::memory:"}, "must name a file"),
        ({"url": "sqlite:a.db", "path": "b.db"}, "url and path are both set; keep url"),
        ({"session_url": "postgresql://a@b/c"}, "session_url needs a url of PostgreSQL"),
        ({"password_file": "x"}, "password_file needs a url of PostgreSQL"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, store: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(tmp_path, **store)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_name_of_the_store_shows_no_user_and_no_parameter(tmp_path: Path) -> None:
    given = settings(tmp_path, url="postgresql://tocsin@a,b:5433/events?sslmode=verify-full")
    assert maintenance.name(given) == "postgresql://a,b:5433/events"


async def test_without_the_driver_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"pip install 'tocsin\[postgres\]'"):
        async with opening.open_store(settings(tmp_path, url="postgresql://tocsin@db/tocsin")):
            raise AssertionError


async def test_the_master_key_must_be_configured_as_no_node_makes_one(tmp_path: Path) -> None:
    given = settings(tmp_path, url="postgresql://tocsin@db/tocsin").model_copy(update={"secrets": Settings().secrets})
    with pytest.raises(StoreError, match="needs a configured master key, the same one for every node"):
        async with opening.open_store(given):
            raise AssertionError


async def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    given = settings(tmp_path, url="postgresql://tocsin@db/tocsin", password_file=str(tmp_path / "none"))
    with pytest.raises(StoreError, match=r"none: No such file.*\(store.password_file\)"):
        async with opening.open_store(given):
            raise AssertionError


async def test_one_process_serves_a_file_so_that_it_has_no_role_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="use --role all"):
        async with opening.open_store(settings(tmp_path, path=str(tmp_path / "t.db")), server=True, role=NodeRole.API):
            raise AssertionError


# -- servers -----------------------------------------------------------------------------------------------------------


async def test_a_server_that_cannot_be_reached_is_waited_for() -> None:
    with pytest.raises(StorageFailure, match=r"cannot be reached: Connection refused") as failure:
        await open_store(options("postgresql://tocsin@127.0.0.1:1/tocsin", None))
    assert failure.value.reason == "the server cannot be reached: Connection refused"


async def test_a_database_that_is_not_there_is_named_with_the_remedy() -> None:
    with pytest.raises(StoreError, match="/missing: there is no such database; create it"):
        await open_store(options(shared_server().url("missing"), None))


async def test_a_wrong_password_is_no_failure_that_goes_by_itself(nodes: Nodes) -> None:
    await nodes.execute(
        "DO $$ BEGIN CREATE ROLE stranger LOGIN PASSWORD 'x'; EXCEPTION WHEN duplicate_object THEN END $$"
    )
    hba = Path((await nodes.execute("SHOW hba_file"))[0][0])
    before = hba.read_text()
    hba.write_text("host all stranger 127.0.0.1/32 scram-sha-256\n" + before)
    try:
        await nodes.execute("SELECT pg_reload_conf()")
        url = nodes.url.replace("tocsin@", "stranger@")
        given = options(url, None).__class__(
            url=url, password="wrong", max_events=1, max_bytes=1, lease_s=30.0, keys=options(url, None).keys
        )
        with pytest.raises(StoreError, match=r"refuses the user or the password; correct store\.url or") as refused:
            await open_store(given)
        assert not isinstance(refused.value, StorageFailure)
        assert "wrong" not in str(refused.value)
    finally:
        hba.write_text(before)
        await nodes.execute("SELECT pg_reload_conf()")


async def test_tables_of_a_newer_version_are_refused_and_those_that_only_add_are_not(nodes: Nodes) -> None:
    newest = schema.steps()[-1].number
    await nodes.execute("UPDATE meta SET value = $1 WHERE name = 'schema'", newest + 1)
    await (await nodes.open(server=False)).close()
    await nodes.execute("UPDATE meta SET value = $1 WHERE name = 'oldest'", newest + 1)
    with pytest.raises(StoreError, match="its tables are of a newer tocsin"):
        await nodes.open(server=False)


async def test_two_processes_that_start_on_an_empty_database_make_its_tables_once(nodes: Nodes) -> None:
    await nodes.execute("DROP SCHEMA public CASCADE")
    await nodes.execute("CREATE SCHEMA public")
    stores = await asyncio.gather(*(nodes.open(server=False) for _ in range(4)))
    await stores[0].access.create_session(OWNER, None)
    assert len(await stores[3].access.sessions()) == 1


async def test_a_server_without_the_master_key_of_its_credentials_does_not_start(nodes: Nodes) -> None:
    node = await nodes.open()
    await node.credentials.put(Credential("apns", ACCOUNT, b"{}"))
    other = KeyText("another key", lambda: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    given = options(nodes.url, None)
    wrong = given.__class__(url=given.url, max_events=1, max_bytes=1, lease_s=30.0, keys=other)
    with pytest.raises(StoreError, match="is encrypted with the master key"):
        await open_store(wrong, server=True)


async def test_a_check_names_a_transaction_that_holds_back_every_log(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tocsin.store.postgres import maintenance as of_postgres

    monkeypatch.setattr(of_postgres, "_OLDEST_TRANSACTION_S", 0.0)
    slow = await nodes.connection()
    async with slow.transaction():
        await slow.fetchval("SELECT pg_current_xact_id()")
        findings = await of_postgres.check(nodes.url, None, keep_s=0)
    assert any("until it ends no node reads a new event" in finding for finding in findings)


async def test_a_check_by_a_user_without_rights_finds_what_is_held_up_and_says_what_it_cannot_see(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL shows such a user no other one's transactions (pg_stat_activity): the check said that all is well."""
    from tocsin.store.postgres import maintenance as of_postgres

    node = await nodes.open()
    user = f"plain_{nodes.url.rpartition('_')[2][:8]}"
    await nodes.execute(f"CREATE ROLE {user} LOGIN")
    try:
        await nodes.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")
        as_user = nodes.url.replace("//tocsin@", f"//{user}@")
        assert as_user != nodes.url
        assert await of_postgres.check(as_user, None, keep_s=0) == []
        (sentence,) = await of_postgres.unseen(as_user, None)
        assert "`GRANT pg_read_all_stats`" in sentence
        assert await of_postgres.unseen(nodes.url, None) == []
        monkeypatch.setattr(of_postgres, "_OLDEST_TRANSACTION_S", 0.0)
        slow = await nodes.connection()
        async with slow.transaction():
            await slow.fetchval("SELECT pg_current_xact_id()")
            assert await of_postgres.check(as_user, None, keep_s=0) == []
            await node.queue.append([event_of(node, OWNER)])
            (finding,) = await of_postgres.check(as_user, None, keep_s=0)
            assert "cannot be read yet: a transaction of this server that began before them has not ended" in finding
            await nodes.execute(f"GRANT pg_read_all_stats TO {user}")
            assert await of_postgres.unseen(as_user, None) == []
            findings = await of_postgres.check(as_user, None, keep_s=0)
        assert any("has been writing for" in one for one in findings)
    finally:
        await nodes.execute(f"DROP OWNED BY {user}")
        await nodes.execute(f"DROP ROLE {user}")


@pytest.mark.parametrize("time", ["00:00:00", "11:59:59.9996", "12:00:01", "23:59:59.9996"])
async def test_the_day_of_the_database_s_clock_is_the_same_before_noon_and_after(nodes: Nodes, time: str) -> None:
    """A cast to a whole number rounds: after noon a check looked at tomorrow, and a store was moved to it."""
    statement = NOW_MS.replace("clock_timestamp()", f"timestamptz '2026-11-27 {time}Z'")
    assert statement != NOW_MS
    ((now_ms,),) = await nodes.execute(statement)
    assert date_of(day_of(now_ms)) == "2026-11-27"


async def test_connections_are_recognized_on_the_server() -> None:
    watched = await connect(
        Target(url=shared_server().url(), application="tocsin test", hosts=Hosts(shared_server().url()))
    )
    try:
        assert await watched.connection.fetchval("SHOW application_name") == "tocsin test"
        assert await watched.connection.fetchval("SHOW idle_in_transaction_session_timeout") == "10s"
    finally:
        watched.connection.terminate()


async def test_a_command_has_the_databases_time_from_the_beginning(nodes: Nodes) -> None:
    """On a host whose clock is wrong, what it hands in lives as long as it should, and lies in the day that it is."""
    wrong = replace(options(nodes.url, None), host_clock=lambda: time.time() - 3 * 86_400)
    store = await open_store(wrong)
    try:
        assert store.now_ms() == pytest.approx(time.time() * 1000, abs=2000)
    finally:
        await store.close()
