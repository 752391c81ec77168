"""Where the master keys come from: a file, the environment, systemd's credentials, or a command.

Each of them gives text: one key per line, 32 bytes in base64, the newest first; lines that begin with `#` are comments.
`openssl rand -base64 32` makes a key.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from tocsin.secret_files import readable_by_others
from tocsin.settings import Settings
from tocsin.store.ports import StorageFailure, StoreError
from tocsin.store.sealing import KEY_BYTES, Keyring, MasterKey, RandomBytes

SYSTEMD_CREDENTIAL: Final = "tocsin-master-key"
_COMMAND_TIMEOUT_S: Final = 30.0
_MOST_BYTES: Final = 64 * 1024
_NOTE: Final = (
    "# Master keys of tocsin, the newest first: with them the credentials in the store are encrypted.\n"
    "# Keep a copy apart from the store's backups: without it their credentials cannot be read.\n"
)


class KeySource(Protocol):
    """One place from which the keys come."""

    def read(self) -> Keyring | None:
        """The keys as they are now; None where there are none yet and tocsin may make one.

        Raises:
            StoreError: they cannot be had; the message names the place, the reason and the remedy.
        """

    def text(self) -> str:
        """The keys as text, for safe-keeping. Raises StoreError."""

    def add(self, random: RandomBytes) -> MasterKey | None:
        """Make a new key, the newest from now on; None where the place is not tocsin's to write to. Raises StoreError.

        It is durable when this returns.
        """


class KeyFile:
    """A file of keys. Nobody but its owner may read it; where it belongs to root, its group may (mounted secrets)."""

    def __init__(self, path: Path, *, may_be_made: bool = True) -> None:
        self.path = path
        self._may_be_made = may_be_made

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> Keyring | None:
        text = self._content()
        if text is not None:
            return parse(text, str(self.path))
        if self._may_be_made:
            return None
        raise StoreError(f"{self.path}: there is no such file; secrets.key_file names it for the master key")

    def text(self) -> str:
        text = self._content()
        if text is None:
            raise StoreError(f"{self.path}: there is no master key yet; the first start makes one")
        return text

    def add(self, random: RandomBytes) -> MasterKey:
        """Make a new key and put it first; those that are there stay behind it."""
        key = MasterKey(random(KEY_BYTES))
        line = base64.b64encode(key.secret).decode()
        try:
            with _directory(self.path.parent) as directory:
                # Nobody else adds one meanwhile.
                fcntl.flock(directory, fcntl.LOCK_EX)
                before = self._content()
                keys = [] if before is None else [one for _, one in _lines(before)]
                _write(self.path, _NOTE + "".join(f"{one}\n" for one in (line, *keys)))
                os.fsync(directory)
        except OSError as error:
            raise StorageFailure(self.path, f"{error.strerror}: the master key cannot be written") from None
        return key

    def _content(self) -> str | None:
        try:
            with self.path.open("rb") as file:
                if (wrong := readable_by_others(self.path, os.fstat(file.fileno()))) is not None:
                    raise StoreError(f"{self.path}: {wrong}")
                return file.read(_MOST_BYTES).decode("ascii", "replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}: the master key cannot be read") from None


class KeyText:
    """Keys that somebody else hands over; tocsin cannot add to them."""

    def __init__(self, name: str, get: Callable[[], str]) -> None:
        self._name = name
        self._get = get

    def __str__(self) -> str:
        return self._name

    def read(self) -> Keyring:
        return parse(self._get(), self._name)

    def text(self) -> str:
        return self._get()

    def add(self, random: RandomBytes) -> None:
        return None


def configured(settings: Settings, environ: Mapping[str, str] | None = None) -> KeySource:
    """The place that the settings name; else systemd's credential where there is one; else a file beside the store.

    Raises:
        StoreError: the store is on PostgreSQL, and no place is named: no node makes a key for all of them.
    """
    secrets = settings.secrets
    if secrets.key is not None:
        value = secrets.key.get_secret_value()
        return KeyText("secrets.key", lambda: value)
    if secrets.key_file is not None:
        return KeyFile(secrets.key_file, may_be_made=False)
    if secrets.key_command is not None:
        argv = secrets.key_command
        return KeyText("secrets.key_command", lambda: _output_of(argv))
    directory = (os.environ if environ is None else environ).get("CREDENTIALS_DIRECTORY")
    if directory and (credential := Path(directory) / SYSTEMD_CREDENTIAL).exists():
        # systemd decides who may read it.
        return KeyText(str(credential), lambda: _read_credential(credential))
    if settings.store.is_postgres:
        raise StoreError(
            "a store on PostgreSQL needs a configured master key, the same one for every node: make one with"
            " `openssl rand -base64 32`, and name it with secrets.key_file, key_command or key"
        )
    return beside(settings.store.path)


def beside(store: Path) -> KeyFile:
    """The file of keys for a store in a file, where no other place is named; the same through a symbolic link."""
    file = Path(os.path.realpath(store))
    return KeyFile((file if os.path.islink(store) else store).with_name(f"{file.name}.key"))


def parse(text: str, name: str) -> Keyring:
    """Raises StoreError; the message says which line is wrong, and never shows it."""
    keys: list[MasterKey] = []
    for number, line in _lines(text):
        try:
            keys.append(MasterKey(base64.b64decode(line, validate=True)))
        except (binascii.Error, ValueError):
            raise StoreError(
                f"{name}: line {number} is not a master key: {KEY_BYTES} bytes in base64 are needed, as"
                f" `openssl rand -base64 {KEY_BYTES}` prints them"
            ) from None
    if not keys:
        raise StoreError(f"{name}: there is no master key in it; one line each, as `openssl rand -base64 32` prints it")
    return Keyring(keys)


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines with keys, with their numbers from 1: neither empty nor a comment."""
    stripped = [line.strip() for line in text.splitlines()]
    return [(number, line) for number, line in enumerate(stripped, 1) if line and not line.startswith("#")]


@contextmanager
def _directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    """Put a file in place whole; it is durable once its directory is."""
    partial = path.with_name(f".{path.name}.partial")
    # What a process that was killed has left.
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _output_of(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_COMMAND_TIMEOUT_S, check=False)
    except OSError as error:
        raise StoreError(f"secrets.key_command: {argv[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise StoreError(f"secrets.key_command: {argv[0]} gave no key within {_COMMAND_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        # Its output is not shown: it may hold a part of a key.
        raise StoreError(f"secrets.key_command: {argv[0]} ended with status {done.returncode}")
    return done.stdout[:_MOST_BYTES].decode("ascii", "replace")


def _read_credential(path: Path) -> str:
    try:
        return path.read_bytes()[:_MOST_BYTES].decode("ascii", "replace")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}: the master key cannot be read") from None
