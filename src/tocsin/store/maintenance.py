"""Checks the store that the settings name, copies it, and puts a copy in its place."""

from __future__ import annotations

from pathlib import Path

from tocsin.settings import Settings


def name(settings: Settings) -> str:
    """What messages call the store."""
    return str(settings.store.path)


def place(settings: Settings) -> str:
    """Where exactly the store is."""
    return str(settings.store.path.absolute())


def exists(settings: Settings) -> bool:
    """Whether there is a store: something with its name, whatever it is, and whoever may read it."""
    try:
        settings.store.path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # A directory that may not be searched, for example: to open it says what.
        return True
    return True


def check(settings: Settings) -> list[str]:
    """What is wrong with the store, as sentences; an empty list says that all is well. A server may be running."""
    from tocsin.store.sqlite import maintenance

    return maintenance.check(settings.store.path)


def backup(settings: Settings, target: Path) -> None:
    """Copy the store to a new file, as it is at one instant. A server may be running.

    Raises:
        StoreError: the store cannot be read, or the copy not be written.
    """
    from tocsin.store.sqlite import maintenance

    maintenance.backup(settings.store.path, target)


def restore(settings: Settings, copy: Path) -> None:
    """Put a copy in the place of the store, whose content is lost. No server may be running.

    Raises:
        StoreError: a server is running, or `copy` cannot be used. Then the store is left as it is.
    """
    from tocsin.store.sqlite import maintenance

    maintenance.restore(settings.store.path, copy)
