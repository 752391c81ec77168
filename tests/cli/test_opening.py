"""`in_store`: what a command prints when the store fails, and that it is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tocsin.cli.errors import CommandError
from tocsin.cli.opening import in_store
from tocsin.settings import Settings
from tocsin.settings import Store as StoreSettings
from tocsin.store.ports import CommitUnknown, StorageFailure, Store, StoreError, StoreUnavailable


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=StoreSettings(path=tmp_path / "tocsin.db"))


def _message(settings: Settings, error: Exception, *, in_steps: bool = False) -> str:
    async def fail(store: Store) -> None:
        raise error

    with pytest.raises(CommandError) as raised:
        in_store(settings, fail, in_steps=in_steps)
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
        in_store(settings, nothing)
