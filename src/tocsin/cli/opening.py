"""From a command's options to its settings and the open store, with every expected error made a `CommandError`.

The store is imported when a command needs it: `--help` should not wait for SQLAlchemy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tocsin.cli.errors import CommandError, InputError
from tocsin.settings import Settings, SettingsError, load
from tocsin.telemetry import configure_logging

if TYPE_CHECKING:
    from tocsin.store.opening import Store

T = TypeVar("T")

DEFAULT_CONFIG = Path("tocsin.toml")


def settings_of(config: Path | None) -> Settings:
    """The settings from the file named, or from ./tocsin.toml where there is one.

    Raises:
        InputError: the file cannot be read, or a key or a value in it is wrong.
    """
    if config is None and DEFAULT_CONFIG.exists():
        config = DEFAULT_CONFIG
    try:
        settings = load(config)
    except SettingsError as error:
        raise InputError(str(error)) from None
    # What the layers below log belongs on stderr, where it spoils no data; the server configures its own log.
    configure_logging("error", settings.log.format)
    return settings


def in_store(settings: Settings, operation: Callable[[Store], Awaitable[T]]) -> T:
    """Open the store, run one operation in it, and close it. A server may be running on the same store.

    Raises:
        CommandError: the store cannot be opened or written.
    """
    from tocsin.store.configured import open_store
    from tocsin.store.opening import StoreError
    from tocsin.store.ports import StoreUnavailable

    async def run() -> T:
        async with open_store(settings) as store:
            return await operation(store)

    try:
        return asyncio.run(run())
    except StoreError as error:
        raise CommandError(str(error)) from None
    except StoreUnavailable as error:
        raise CommandError(f"{settings.store.path}: the store cannot write: {error}; nothing was changed") from None
