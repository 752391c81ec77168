"""Seals and opens the records of a store, with the keys as their source has them now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from tocsin.store.master_keys import KeySource
from tocsin.store.ports import StoreError
from tocsin.store.sealing import Keyring, RandomBytes, Sealed, missing

log = structlog.get_logger(__name__)


def credential_identity(provider: str, account: str) -> str:
    """As what a credential is sealed."""
    return f"credential {provider} {account}"


def refuse_missing(keys: Keyring | None, used: Sequence[str]) -> None:
    """Raises SealError where a master key is missing that the store's records need."""
    if absent := [key_id for key_id in used if keys is None or key_id not in keys]:
        raise missing(absent)


def say_in_log(sentence: str) -> None:
    """For whoever has no person to tell what opening a store has done for the first time."""
    log.info(sentence)


class Sealer:
    """One for a store that is open.

    A key that is not known is looked for once more at its source: another process may have added it. That may take as
    long as a command takes that prints keys, so open records where waiting does no harm.
    """

    def __init__(
        self,
        source: KeySource,
        keys: Keyring | None,
        random: RandomBytes,
        say: Callable[[str], None],
        *,
        used: Sequence[str] = (),
    ) -> None:
        """`used` are the ids of the keys that the store's records need; `say` is told, for a person, of a new key."""
        self._source = source
        self._keys = keys
        self._random = random
        self._say = say
        self._used = used

    def make_first_key(self) -> None:
        """Where there is no key yet, and no record needs one, make one. Raises StoreError."""
        if self._keys is not None or self._used:
            return
        self.refresh()  # another process may have made it
        if self._keys is None:
            self._source.add(self._random)
            self._say(
                f"a master key was made in {self._source}: it encrypts the credentials and messages in the store;"
                " keep a copy of it apart from the store's backups (`tocsin store export-key`)"
            )
            self.refresh()

    def seal(self, identity: str, content: bytes) -> Sealed:
        """Raises SealError where the keys that the store needs are missing."""
        self.make_first_key()
        return self._known().seal(identity, content, self._random)

    def open(self, identity: str, sealed: Sealed) -> bytes:
        """Raises SealError, and StoreError where the keys cannot be had."""
        if self._keys is None or sealed.key_id not in self._keys:
            self.refresh()
        return self._known().open(identity, sealed)

    def look_for(self, key_id: str) -> None:
        """Where this key is not known, read the keys again: another process may have added it. Never raises."""
        if self._keys is None or key_id not in self._keys:
            try:
                self.refresh()
            except StoreError as error:
                log.warning("the master keys cannot be read again", error=str(error))

    def rewrap(self, identity: str, sealed: Sealed) -> Sealed | None:
        """The record under the newest key, or None where it is already. Raises as `open` does."""
        keys = self._known()
        return None if sealed.key_id == keys.current.id else keys.rewrap(identity, sealed, self._random)

    @property
    def current_id(self) -> str | None:
        """The id of the key that seals; None where there is no key yet."""
        return None if self._keys is None else self._keys.current.id

    def refresh(self) -> None:
        """Read the keys again. Raises StoreError where they cannot be had."""
        self._keys = self._source.read() or self._keys

    def _known(self) -> Keyring:
        if self._keys is None:
            raise missing(self._used)
        return self._keys
