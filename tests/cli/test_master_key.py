"""The master key: where it comes from, what it protects, how it is changed, and what is said where it is missing."""

from __future__ import annotations

import asyncio
import base64
import os
import stat
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import APPLICATION, Run

from tocsin.emulator.credentials import Files
from tocsin.settings import Secrets, Settings, load
from tocsin.store.master_keys import KeyFile, KeyText, configured
from tocsin.store.opening import open_store
from tocsin.store.ports import StoreError
from tocsin.store.sqlite.store import SqliteStore

STORE, KEYS = Path("var/tocsin.db"), Path("var/tocsin.db.key")


def add_key(run: Run, credentials: Files) -> None:
    done = run("app", "add", APPLICATION, "--key", str(credentials.apns_key), "--key-id", "ABC123DEFG")
    assert done.status == 0, done.err


def secrets_of(credentials: Files) -> list[bytes]:
    """What must not be found: the key's lines, and no line that every PEM file has."""
    return [line for line in credentials.apns_key.read_bytes().splitlines() if b"-----" not in line]


def everything_under(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.rglob("*") if file.is_file())


async def serving() -> None:
    """Whether a server starts on the store. What it has to look at for the search is looked at."""
    async with open_store(load(), server=True) as opened:
        await opened.start()
        while await opened.search.fill(1):
            pass


def new_line() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def test_the_first_credential_makes_a_key_that_nobody_else_may_read_and_says_so(run: Run, credentials: Files) -> None:
    assert "master key" not in run("key", "create", "producer").err
    assert not KEYS.exists()
    said = run("app", "add", APPLICATION, "--key", str(credentials.apns_key), "--key-id", "ABC123DEFG").err
    assert "a master key was made in var/tocsin.db.key" in said
    assert "export-key" in said
    assert stat.S_IMODE(KEYS.stat().st_mode) == 0o600
    assert "master key" not in run("key", "list").err


def test_the_first_start_of_a_server_makes_one_as_well(run: Run) -> None:
    asyncio.run(serving())
    assert stat.S_IMODE(KEYS.stat().st_mode) == 0o600


def test_no_private_key_stands_in_clear_in_any_file(run: Run, credentials: Files) -> None:
    add_key(run, credentials)
    run("fcm", "add", "--service-account", str(credentials.service_account))
    run("store", "backup", "copy.db")
    found = everything_under(Path())
    for secret in secrets_of(credentials):
        assert secret not in found
    assert b"private_key" not in found


def test_a_backup_is_without_the_key_and_says_so(run: Run, credentials: Files) -> None:
    add_key(run, credentials)
    assert "without the master key" in run("store", "backup", "copy.db").err
    assert base64.b64decode(KEYS.read_text().splitlines()[-1]) not in Path("copy.db").read_bytes()


def test_a_copy_is_restored_elsewhere_only_with_its_key_and_the_missing_one_is_named(
    run: Run, credentials: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_key(run, credentials)
    run("store", "backup", "copy.db")
    keys = configured(load()).read()
    assert keys is not None
    exported = run("store", "export-key").out
    monkeypatch.setenv("TOCSIN_STORE__PATH", "elsewhere/tocsin.db")
    refused = run("store", "restore", "copy.db")
    assert refused.status == 1
    assert keys.current.id in refused.err
    assert not Path("elsewhere/tocsin.db").exists()

    Path("elsewhere").mkdir(exist_ok=True)
    Path("elsewhere/tocsin.db.key").write_text(exported)
    Path("elsewhere/tocsin.db.key").chmod(0o600)
    assert run("store", "restore", "copy.db").status == 0
    asyncio.run(serving())
    assert run("store", "check").status == 0


def test_a_server_does_not_start_without_its_key_and_makes_no_new_one(run: Run, credentials: Files) -> None:
    add_key(run, credentials)
    keys = configured(load()).read()
    assert keys is not None
    KEYS.unlink()
    with pytest.raises(StoreError, match=keys.current.id):
        asyncio.run(serving())
    assert not KEYS.exists()
    assert keys.current.id in run("store", "check").out


def test_after_a_key_is_lost_its_credentials_can_be_removed_and_added_again(run: Run, credentials: Files) -> None:
    add_key(run, credentials)
    KEYS.unlink()
    refused = run("app", "add", APPLICATION, "--key", str(credentials.apns_key), "--key-id", "ABC123DEFG")
    assert refused.status == 1
    assert "master key" in refused.err
    assert "Traceback" not in refused.err
    assert run("app", "remove", APPLICATION).status == 0
    add_key(run, credentials)
    asyncio.run(serving())


def test_a_project_whose_key_is_lost_can_be_removed(run: Run, credentials: Files) -> None:
    run("fcm", "add", "phones", "--service-account", str(credentials.service_account))
    KEYS.unlink()
    removed = run("fcm", "remove", "phones")
    assert removed.status == 0, removed.err
    asyncio.run(serving())


OWNER = "9aed5e94-3803-11e3-8475-0024e8f90cc0"


def send(run: Run) -> str:
    sent = run("send", "fax_new", "--owner", OWNER, "--fax", OWNER, "--phone", "+49", "--page-count", "2")
    assert sent.status == 0, sent.err
    return sent.out.strip()


def test_what_a_lost_key_encrypts_is_given_up_and_all_the_rest_is_used_again(run: Run, credentials: Files) -> None:
    add_key(run, credentials)
    id = send(run)
    asyncio.run(serving())
    assert run("session", "create", "--owner", OWNER).status == 0
    keys = configured(load()).read()
    assert keys is not None
    lost = keys.current.id
    refused = run("store", "give-up-key", lost, "--yes")
    assert (refused.status, "is not lost" in refused.err) == (1, True)
    KEYS.unlink()
    with pytest.raises(StoreError, match=f"{lost}.*give-up-key"):
        asyncio.run(serving())
    assert run("store", "give-up-key", "0123456789ab", "--yes").status == 1
    given_up = run("store", "give-up-key", lost, "--yes")
    assert given_up.status == 0, given_up.err
    assert "1 events were given up" in given_up.err
    assert given_up.out == f"{APPLICATION}\n"
    asyncio.run(serving())
    assert run("store", "check").status == 0
    assert OWNER in run("session", "list").out
    shown = run("event", "show", id)
    assert (shown.status, "done" in shown.out) == (0, True)
    found = run("deliveries", "search", "--owner", OWNER, "--json").json
    assert [one["state"] for one in found["deliveries"]] == ["done"]
    add_key(run, credentials)
    send(run)


def test_rekey_brings_messages_and_the_key_of_digests_under_a_new_key_and_a_repeat_is_still_known(run: Run) -> None:
    id = send(run)
    keys = configured(load()).read()
    assert keys is not None
    assert run("store", "rekey").status == 0
    KEYS.write_text("".join(f"{line}\n" for line in KEYS.read_text().splitlines() if "#" not in line).split("\n")[0])
    assert configured(load()).read() is not None
    assert keys.current.id not in configured(load()).read()  # type: ignore[operator]
    asyncio.run(serving())
    assert run("event", "show", id).status == 0


def test_a_key_file_that_others_can_read_is_refused_with_the_remedy(run: Run) -> None:
    asyncio.run(serving())
    KEYS.chmod(0o644)
    refused = run("key", "list")
    assert refused.status == 1
    assert "chmod 600 var/tocsin.db.key" in refused.err


def test_rekey_brings_everything_under_a_new_key_while_a_server_runs(run: Run, credentials: Files) -> None:
    add_key(run, credentials)
    before = configured(load()).read()
    assert before is not None

    async def whole() -> None:
        async with open_store(load(), server=True) as server:
            await server.start()
            [stored] = await server.credentials.of("apns")
            done = await asyncio.to_thread(run, "store", "rekey")
            assert done.status == 0, done.err
            assert "1 records were under another master key" in done.err
            assert isinstance(server, SqliteStore)
            await server.notice_changes()  # unless the server has noticed it by itself meanwhile
            assert await server.credentials.of("apns") == [stored]

    asyncio.run(whole())
    after = configured(load()).read()
    assert after is not None
    assert before.current.id in after
    assert after.current.id != before.current.id
    # The old one is needed by nothing but older backups.
    KEYS.write_text("\n".join(line for line in KEYS.read_text().splitlines() if not line.startswith("#")).split()[0])
    asyncio.run(serving())
    assert "0 credentials" not in run("store", "rekey").err


def test_a_lost_key_is_not_replaced_by_a_new_one(run: Run, credentials: Files) -> None:
    add_key(run, credentials)
    KEYS.unlink()
    refused = run("store", "rekey")
    assert refused.status == 1
    assert "which tocsin was not given" in refused.err
    assert not KEYS.exists()


def test_a_rotation_where_the_keys_come_from_elsewhere_takes_the_first_one(
    run: Run, credentials: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = new_line(), new_line()
    monkeypatch.setenv("TOCSIN_SECRETS__KEY", old)
    add_key(run, credentials)
    assert not KEYS.exists()
    monkeypatch.setenv("TOCSIN_SECRETS__KEY", f"{new}\n{old}")
    assert "1 records were under another" in run("store", "rekey").err
    monkeypatch.setenv("TOCSIN_SECRETS__KEY", new)
    assert run("store", "check").status == 0
    asyncio.run(serving())


def test_the_keys_may_come_from_a_file_a_command_or_systemd(tmp_path: Path) -> None:
    line = new_line()
    file = tmp_path / "keys"
    file.write_text(line)
    file.chmod(0o600)
    command = [sys.executable, "-c", f"print({line!r})"]
    systemd = tmp_path / "credentials"
    systemd.mkdir()
    (systemd / "tocsin-master-key").write_text(line)
    sources = [
        configured(Settings(secrets=Secrets(key_file=file))),
        configured(Settings(secrets=Secrets(key_command=command))),
        configured(Settings(), {"CREDENTIALS_DIRECTORY": str(systemd)}),
    ]
    for source in sources:
        keys = source.read()
        assert keys is not None
        assert base64.b64encode(keys.current.secret).decode() == line


def test_a_named_file_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere: there is no such file; secrets\.key_file"):
        KeyFile(tmp_path / "nowhere", may_be_made=False).read()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["/nowhere/vault"], "No such file"),
        ([sys.executable, "-c", "print('hidden'); raise SystemExit(3)"], "ended with status 3"),
        ([sys.executable, "-c", "print('hidden')"], "line 1 is not a master key"),
    ],
)
def test_a_command_that_gives_no_key_is_explained_without_its_output(command: list[str], reason: str) -> None:
    with pytest.raises(StoreError, match=reason) as refused:
        configured(Settings(secrets=Secrets(key_command=command))).read()
    assert "hidden" not in str(refused.value)


def test_two_places_at_once_are_refused_and_no_key_is_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    line = new_line()
    monkeypatch.setenv("TOCSIN_SECRETS__KEY", line)
    monkeypatch.setenv("TOCSIN_SECRETS__KEY_FILE", "keys")
    refused = run("key", "list")
    assert refused.status == 2
    assert "only one of key_file, key_command and key" in refused.err
    assert line not in refused.err


def test_keys_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys")

    async def at_once() -> set[str]:
        made = await asyncio.gather(*(asyncio.to_thread(file.add, os.urandom) for _ in range(8)))
        return {key.id for key in made}

    made = asyncio.run(at_once())
    keys = file.read()
    assert keys is not None
    assert all(key_id in keys for key_id in made)


def test_a_source_that_is_not_tocsins_is_never_written_to() -> None:
    assert KeyText("secrets.key", new_line).add(os.urandom) is None
