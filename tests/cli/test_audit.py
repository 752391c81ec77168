"""`tocsin audit`, and what each command leaves in the log."""

from __future__ import annotations

import getpass
import json
import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import APPLICATION, OWNER, Run

from tocsin.cli import acting
from tocsin.cli.opening import in_store
from tocsin.domain.devices import Address, DeviceToken, Registration
from tocsin.domain.events import UserId
from tocsin.emulator.credentials import Files
from tocsin.settings import load
from tocsin.store.ports import Store
from tocsin.store.sqlite import connection

TOKEN = "ab" * 32


def entries(run: Run) -> list[dict[str, Any]]:
    """All entries, oldest first."""
    ran = run("audit", "list", "--limit", "1000", "--json")
    assert ran.status == 0, ran.err
    return list(reversed(ran.json))


def told(run: Run) -> list[tuple[str, str]]:
    return [(one["action"], one["subject"]) for one in entries(run)]


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as driver, driver:
        for statement in statements:
            driver.execute(statement)


def three_keys(run: Run) -> None:
    for name in ("one", "two", "three"):
        assert run("key", "create", "producer", "--name", name).status == 0


def test_who_runs_a_command_is_in_the_log_with_what_was_done_and_when(run: Run, store: Path) -> None:
    run("key", "create", "producer", "--name", "fax backend")
    [entry] = entries(run)
    assert (entry["kind"], entry["actor"], entry["source"]) == ("system-user", getpass.getuser(), "command line")
    assert (entry["action"], entry["details"]["name"]) == ("key.create", "fax backend")
    assert entry["at"].endswith("Z")
    shown = run("audit", "list").out
    assert f"system-user {getpass.getuser()}" in shown
    assert "name=fax backend" in shown


def test_whoever_has_called_sudo_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting.os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", "65534")
    assert acting.command_line().id == "root (sudo by nobody)"
    monkeypatch.setattr(acting.os, "getuid", lambda: 65534)
    assert acting.command_line().id == "nobody", "only root's word counts"
    monkeypatch.setattr(acting.os, "getuid", lambda: 4_000_000_000)
    assert acting.command_line().id == "uid 4000000000"


def test_every_command_that_changes_something_is_in_the_log(run: Run, store: Path, credentials: Files) -> None:
    run("app", "add", APPLICATION, "--key", str(credentials.apns_key), "--key-id", "ABC123DEFG")
    run("fcm", "add", "main", "--service-account", str(credentials.service_account))
    run("fcm", "default", "main")
    key = run("key", "create", "admin", "--name", "ops", "--json").json["id"]
    session = run("session", "create", "--owner", OWNER, "--json").json["id"]
    run("key", "revoke", key)
    run("session", "revoke", session)

    async def register(store: Store) -> None:
        await store.registry.add(Registration(UserId(OWNER), "apns", DeviceToken(TOKEN), Address("a")), 100)

    in_store(load(), register)
    Path("token").write_text(TOKEN)
    run("device", "remove", "--token-file", "token")
    run("device", "restore", "--token-file", "token")
    run("store", "rekey")
    run("fcm", "remove", "main")
    run("app", "remove", APPLICATION)
    # What only reads, or does nothing, is not.
    for command in ("app list", "key list", "session list", "deadletter list", "store check", "audit verify"):
        run(*command.split())
    run("key", "revoke", "key_000000000000")
    run("deadletter", "discard", "--all")
    assert told(run) == [
        ("credential.put", f"apns:{APPLICATION}"),
        ("credential.put", "fcm:main"),
        ("credential.put", "fcm:main"),
        ("key.create", key),
        ("session.create", session),
        ("key.revoke", key),
        ("session.revoke", session),
        ("device.add", "apns:abababab…"),
        ("device.delete", "apns:abababab…"),
        ("device.restore", "apns:abababab…"),
        ("store.rekey", ""),
        ("credential.remove", "fcm:main"),
        ("credential.remove", f"apns:{APPLICATION}"),
    ]
    log = run("audit", "export").out
    for hidden in (TOKEN, OWNER, *credentials.apns_key.read_text().splitlines()[1:-1]):
        assert hidden not in log


def test_the_master_keys_are_printed_only_after_the_log_tells_of_it(run: Run, store: Path) -> None:
    three_keys(run)
    run("store", "rekey")
    assert run("store", "export-key").status == 0
    assert told(run)[-1] == ("store.export-key", "")


def test_the_master_keys_of_a_store_that_cannot_be_written_are_not_printed(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("store", "rekey")
    monkeypatch.setattr(connection.open_connection, "__kwdefaults__", {"read_only": False, "busy_timeout_s": 0.1})
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ran = run("store", "export-key")
    assert (ran.status, ran.out) == (1, "")
    assert "locked" in ran.err


def test_a_lost_master_key_stops_no_change_and_leaves_the_user_without_a_name(run: Run, store: Path) -> None:
    run("session", "create", "--owner", OWNER)
    store.with_name("tocsin.db.key").unlink()
    ran = run("session", "create", "--owner", OWNER)
    assert ran.status == 0, ran.err
    before, after = (one["details"]["user"] for one in entries(run))
    assert before.startswith("user_")
    assert after == "user_unreadable"
    assert run("audit", "verify").status == 0


def test_the_keys_can_be_exported_where_there_is_no_store(run: Run, store: Path) -> None:
    run("store", "rekey")
    for file in store.parent.glob("tocsin.db"):
        file.unlink()
    ran = run("store", "export-key")
    assert ran.status == 0, ran.err
    assert ran.out


def test_a_restore_is_in_the_log_that_it_has_restored_with_the_head_that_was_lost(run: Run, store: Path) -> None:
    run("key", "create", "admin", "--name", "before")
    run("store", "backup", "copy.db")
    run("key", "create", "admin", "--name", "after")
    lost = entries(run)[-1]
    ran = run("store", "restore", "copy.db")
    assert ran.status == 0, ran.err
    assert told(run)[1:] == [("store.restore", "copy.db")]
    assert entries(run)[-1]["details"] == {"lost main": f"2 {lost['hash']}"}
    assert run("audit", "verify").status == 0
    assert run("audit", "verify", "--expect", lost["hash"]).status == 1


def test_a_restore_of_a_copy_without_a_log_is_in_the_log_that_its_migration_makes(run: Run, store: Path) -> None:
    from tests.sqlite.old_stores import made_by

    made_by("0007", Path("copy.db").absolute())
    ran = run("store", "restore", "copy.db")
    assert ran.status == 0, ran.err
    assert told(run) == [("store.restore", "copy.db")]


def test_that_a_user_was_erased_is_in_the_log_and_not_who(run: Run, store: Path) -> None:
    run("session", "create", "--owner", OWNER)
    [before] = entries(run)
    erased = run("user", "erase", OWNER, "--yes", "--json")
    assert erased.status == 0, erased.err
    last = entries(run)[-1]
    assert (last["action"], last["details"]["user"]) == ("user.erase", before["details"]["user"])
    assert OWNER not in run("audit", "export").out
    run("session", "create", "--owner", OWNER)
    assert entries(run)[-1]["details"]["user"] != before["details"]["user"]


def test_that_a_lost_key_was_given_up_is_in_the_log(run: Run, store: Path, credentials: Files) -> None:
    run("app", "add", APPLICATION, "--key", str(credentials.apns_key), "--key-id", "ABC123DEFG")
    store.with_name("tocsin.db.key").unlink()
    lost = run("store", "check").out.split("master key ")[1].split()[0].strip(":;,")
    given_up = run("store", "give-up-key", lost, "--yes")
    assert given_up.status == 0, given_up.err
    assert told(run)[-1] == ("store.give-up-key", lost)
    assert entries(run)[-1]["details"] == {"credentials": [APPLICATION], "events": 0}
    assert run("audit", "verify").status == 0


def test_long_lists_go_on_with_the_cursor_that_the_page_before_says(run: Run, store: Path) -> None:
    three_keys(run)
    first = run("audit", "list", "--limit", "2", "--json")
    cursor = first.err.split()[-1]
    second = run("audit", "list", "--start", cursor, "--json")
    assert [one["details"]["name"] for one in first.json + second.json] == ["three", "two", "one"]
    assert second.err == ""
    refused = run("audit", "list", "--start", "x")
    assert refused.status == 2
    assert "not valid: use the value that `tocsin " in refused.err


def test_an_export_can_be_verified_with_nothing_but_sha_256(run: Run, store: Path) -> None:
    three_keys(run)
    exported = run("audit", "export")
    before = bytes(32)
    lines = exported.out.splitlines()
    for number, line in enumerate(lines, 1):
        one = json.loads(line)
        text = line[line.index('"entry":') + len('"entry":') : -1]
        assert json.loads(text) == one["entry"]
        assert one["entry"]["number"] == number
        before = sha256(before + text.encode()).digest()
        assert one["hash"] == before.hex()
    assert len(lines) == 3
    assert before.hex() in exported.err


def test_an_untouched_log_is_verified_and_an_empty_one_too(run: Run, store: Path) -> None:
    assert run("audit", "verify").status == 0
    three_keys(run)
    ran = run("audit", "verify")
    assert ran.status == 0
    assert "main: 3 entries are as they were written" in ran.err
    assert run("audit", "verify", "--json").json["findings"] == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE audit SET text = replace(text, 'two', 'tow') WHERE number = 2", "the chain breaks at entry 2"),
        ("UPDATE audit SET text = x'00' WHERE number = 2", "the chain breaks at entry 2: it cannot be read"),
        ("UPDATE audit SET hash = zeroblob(32) WHERE number = 3", "the chain breaks at entry 3"),
        ("DELETE FROM audit WHERE number = 1", "the chain breaks at entry 1: it is missing"),
        ("DELETE FROM audit WHERE number = 2", "the chain breaks at entry 2: it is missing"),
        ("DELETE FROM audit WHERE number = 3", "the chain breaks at entry 3: it is missing"),
        ("DELETE FROM audit", "the chain breaks at entry 1: it is missing"),
    ],
)
def test_what_was_changed_in_the_file_is_found_and_where(run: Run, store: Path, damage: str, said: str) -> None:
    three_keys(run)
    change(store, damage)
    ran = run("audit", "verify")
    assert ran.status == 1
    assert said in ran.out
    assert said in run("audit", "verify", "--json").json["findings"][0]
    assert run("audit", "list").status == 0
    assert run("audit", "export").status == 0


def test_a_removed_end_is_found_with_a_hash_from_an_earlier_export(run: Run, store: Path) -> None:
    three_keys(run)
    head = run("audit", "export").err.split()[-1]
    run("key", "create", "admin", "--name", "four")
    assert run("audit", "verify", "--expect", head).status == 0
    change(
        store,
        "DELETE FROM audit WHERE number > 2",
        "UPDATE audit_chain SET head_number = 2, head_hash = (SELECT hash FROM audit WHERE number = 2)",
    )
    assert run("audit", "verify").status == 0, "nothing in the file shows it"
    ran = run("audit", "verify", "--expect", head)
    assert ran.status == 1
    assert "entries were cut off at the end" in ran.out
    assert run("audit", "verify", "--expect", "abc").status == 2


def test_a_name_with_control_characters_stays_on_its_line(run: Run, store: Path) -> None:
    run("key", "create", "admin", "--name", "a\nb\x1b[31m")
    shown = run("audit", "list").out
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2


def test_a_log_is_named_by_the_settings(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_keys(run)
    monkeypatch.setenv("TOCSIN_AUDIT__CHAIN", "node-2")
    run("key", "create", "admin", "--name", "of another node")
    assert [(one["chain"], one["number"]) for one in entries(run)] == [
        ("main", 1),
        ("main", 2),
        ("main", 3),
        ("node-2", 1),
    ]
    assert run("audit", "verify").status == 0
