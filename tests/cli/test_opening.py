"""`in_store`: what a command prints when the store fails, and that it is true."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Run

from tocsin.cli.errors import CommandError
from tocsin.cli.opening import in_store
from tocsin.settings import Settings
from tocsin.settings import Store as StoreSettings
from tocsin.store.maintenance import backup, check
from tocsin.store.ports import CommitUnknown, StorageFailure, Store, StoreError, StoreUnavailable


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=StoreSettings(path=tmp_path / "tocsin.db"))


def _message(settings: Settings, error: Exception, *, in_steps: bool = False) -> str:
    async def fail(store: Store) -> None:
        raise error

    with pytest.raises(CommandError) as raised:
        in_store(settings, fail, create=True, in_steps=in_steps)
    assert raised.value.exit_code == 1
    return str(raised.value)


def test_where_the_answer_of_the_commit_was_lost_it_is_not_known_whether_it_was_done(settings: Settings) -> None:
    message = _message(settings, CommitUnknown("connection lost"))
    assert message.startswith(f"{settings.store.path}: it is not known whether this was done: connection lost")
    assert "check before you run the command again" in message
    assert "nothing was changed" not in message


def test_where_the_store_cannot_be_used_nothing_was_changed(settings: Settings) -> None:
    message = _message(settings, StoreUnavailable("the disk is full"))
    assert message == f"{settings.store.path}: the store cannot be used: the disk is full; nothing was changed"


def test_where_it_fails_in_the_middle_of_several_steps_some_may_be_done(settings: Settings) -> None:
    message = _message(settings, StoreUnavailable("the disk is full"), in_steps=True)
    assert "some of it may be done; run the command again for the rest" in message
    assert "nothing was changed" not in message


@pytest.mark.parametrize("error", [StoreError("x.db: damaged"), StorageFailure("x.db", "damaged")])
def test_the_message_of_a_store_that_cannot_be_opened_is_printed_as_it_is(
    settings: Settings, error: StoreError
) -> None:
    assert _message(settings, error) == "x.db: damaged"


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(store=StoreSettings(path=tmp_path / "file" / "tocsin.db"))

    async def nothing(store: Store) -> None: ...

    with pytest.raises(CommandError, match=r"file/tocsin\.db"):
        in_store(settings, nothing, create=True)


_ID = "0199f2ab-6d3c-7a51-9c1e-5d0f8a3b2c4d"
_FINDS_WHAT_IS_THERE = [
    "app list",
    "app check 39JSDKGJ38.de.cospace.app",
    "app remove 39JSDKGJ38.de.cospace.app",
    "fcm list",
    "fcm check x",
    "fcm default x",
    "fcm remove x",
    "key list",
    "key revoke key_3f9a1c5be207",
    "session list",
    "session revoke ses_3f9a1c5be207",
    f"device list --token-file {__file__}",
    f"device history --token-file {__file__}",
    f"device remove --token-file {__file__}",
    f"device restore --token-file {__file__}",
    f"event show {_ID}",
    "deliveries search",
    "quarantine list",
    "quarantine release x",
    "quarantine purge x --yes",
    "deadletter list",
    "deadletter replay --all",
    "deadletter discard --all",
    "store check",
    "store backup copy.db",
]


@pytest.mark.parametrize("command", _FINDS_WHAT_IS_THERE)
def test_a_command_that_adds_nothing_says_where_there_is_no_store_and_makes_none(run: Run, command: str) -> None:
    ran = run(*command.split())
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"tocsin: {Path('var/tocsin.db').absolute()}: there is no store; ")
    assert "--config FILE" in ran.err
    assert not list(Path().iterdir())


def test_a_store_may_have_any_name_that_a_file_may_have(run: Run) -> None:
    here = Path().absolute()
    for path in (Path(f"/{here}/a.db"), here / "a%20b?c#d.db", here / "\udcff.db", Path("file:x.db")):
        settings = Settings(store=StoreSettings(path=path))

        async def keys(store: Store) -> int:
            return len(await store.access.keys())

        assert in_store(settings, keys, create=True) == 0
        assert path.exists()
        assert check(settings) == []
        backup(settings, path.with_suffix(".copy"), lambda copied, of: None)


def test_a_name_that_no_file_can_have_is_told_in_one_sentence(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "x" * 300
    for command in (
        ["store", "backup", long],
        ["store", "restore", long],
        ["key", "list", "--config", long],
        ["serve", "--ready-file", f"{long}/ready"],
    ):
        ran = run(*command)
        assert ran.status in (1, 2)
        assert ran.err.startswith("tocsin: ")
        assert long in ran.err
        assert ran.err.count("\n") == 1
    monkeypatch.setenv("TOCSIN_STORE__PATH", long)
    for command in (["key", "list"], ["key", "create", "admin"], ["store", "check"], ["store", "backup", "copy.db"]):
        ran = run(*command)
        said = ran.out + ran.err
        assert (ran.status, said.count("\n")) == (1, 1)
        assert long in said
