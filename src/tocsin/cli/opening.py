"""Loads the settings, and runs one operation in the store; every expected error becomes a `CommandError`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Final, TypeVar

from tocsin.cli.acting import command_line
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.output import remark
from tocsin.cli.progress import working
from tocsin.settings import Settings, SettingsError, load
from tocsin.store import maintenance
from tocsin.store.acting import act_as
from tocsin.store.opening import open_store
from tocsin.store.ports import CommitUnknown, EachStep, SearchUnavailable, Store, StoreError, StoreUnavailable
from tocsin.telemetry import configure_logging

T = TypeVar("T")

DEFAULT_CONFIG: Final = Path("tocsin.toml")


def settings_of(config: Path | None) -> Settings:
    """The settings from the file named, or from ./tocsin.toml where there is one.

    Raises:
        InputError: the file cannot be read, or a key or a value in it is wrong.
    """
    # Not `Path.exists`: it raises where the working directory is another user's.
    if config is None and os.path.exists(DEFAULT_CONFIG):
        config = DEFAULT_CONFIG
    try:
        settings = load(config)
    except SettingsError as error:
        raise InputError(str(error)) from None
    # What the layers below log goes to stderr, so that stdout has data alone. The server configures its own log.
    configure_logging("error", settings.log.format)
    return settings


def require_store(settings: Settings) -> None:
    """Check that there is a store.

    Raises:
        CommandError: there is none.
    """
    if not maintenance.exists(settings):
        raise CommandError(
            f"{maintenance.place(settings)}: there is no store; run this in the server's directory, or name the store's"
            " configuration with --config FILE, or the store with TOCSIN_STORE__PATH"
        )


def in_store(
    settings: Settings,
    operation: Callable[[Store], Awaitable[T]],
    *,
    create: bool = False,
    in_steps: bool = False,
    doing: str | None = None,
    say: Callable[[str], None] = remark,
) -> T:
    """Open the store, run one operation in it, and close it. A server may be running on the same store.

    Set `create` for an operation that adds something: it makes the store where there is none. Set `in_steps` for one
    that writes more than once: when it fails, some of it may be done. `say` is told what was done for the first time.
    `doing` is shown while it goes on, where that takes long; empty where the operation itself shows how far it is.
    Without it only the opening is shown, which may bring an older store up to date.

    Raises:
        CommandError: there is no store, or it cannot be opened, read or written, or it is not known whether it was
            written.
    """
    if not create:
        require_store(settings)

    async def run() -> T:
        act_as(command_line())
        async with AsyncExitStack() as life:
            with nullcontext() if doing == "" else working(doing or f"opening {name}"):
                store = await life.enter_async_context(open_store(settings, say=say))
                if doing:
                    return await operation(store)
            return await operation(store)

    name = maintenance.name(settings)
    try:
        return asyncio.run(run())
    except StoreError as error:
        raise CommandError(str(error)) from None
    except SearchUnavailable as error:
        raise CommandError(f"{name}: {error}") from None
    except StoreUnavailable as error:
        changed = "some of it may be done; run the command again for the rest" if in_steps else "nothing was changed"
        raise CommandError(f"{name}: the store cannot be used: {error}; {changed}") from None
    except CommitUnknown as error:
        raise CommandError(
            f"{name}: it is not known whether this was done: {error}; check before you run the command again"
        ) from None


def in_counted_steps(
    settings: Settings,
    doing: str,
    how_many: Callable[[Store], Awaitable[int]],
    act: Callable[[Store, EachStep], Awaitable[T]],
) -> T | None:
    """Run an action in steps, as `in_store` does, and show which share of `how_many` is done; None where there is
    nothing to do."""
    with working(doing) as work:

        async def run(store: Store) -> T | None:
            total = await how_many(store)
            return await act(store, work.steps(total)) if total else None

        return in_store(settings, run, in_steps=True, doing="")
