"""Records under a data key each, wrapped by a master key."""

from __future__ import annotations

import os

import pytest

from tocsin.store.master_keys import parse
from tocsin.store.ports import StoreError
from tocsin.store.sealing import KEY_BYTES, Keyring, MasterKey, Sealed, SealError

CONTENT = b"-----BEGIN PRIVATE KEY-----"
NAME = "credential apns 39JSDKGJ38.de.cospace.app"


def key() -> MasterKey:
    return MasterKey(os.urandom(KEY_BYTES))


def test_what_was_sealed_is_opened_and_cannot_be_read_without_the_key() -> None:
    keys = Keyring([key()])
    sealed = keys.seal(NAME, CONTENT, os.urandom)
    assert CONTENT not in sealed.record
    assert keys.open(NAME, sealed) == CONTENT


def test_the_same_content_is_sealed_differently_each_time() -> None:
    keys = Keyring([key()])
    first, second = keys.seal(NAME, CONTENT, os.urandom), keys.seal(NAME, CONTENT, os.urandom)
    assert first.record[:16] != second.record[:16]
    assert first.record[-16:] != second.record[-16:]


def test_a_record_that_was_moved_to_another_row_cannot_be_opened() -> None:
    keys = Keyring([key()])
    with pytest.raises(SealError, match="changed or moved"):
        keys.open("credential apns another", keys.seal(NAME, CONTENT, os.urandom))


def test_a_record_of_which_any_byte_was_changed_cannot_be_opened() -> None:
    keys = Keyring([key()])
    sealed = keys.seal(NAME, CONTENT, os.urandom)
    for at in range(len(sealed.record)):
        changed = bytearray(sealed.record)
        changed[at] ^= 1
        with pytest.raises(SealError, match="changed or moved"):
            keys.open(NAME, Sealed(sealed.key_id, bytes(changed)))


def test_a_record_that_was_cut_cannot_be_opened() -> None:
    keys = Keyring([key()])
    sealed = keys.seal(NAME, CONTENT, os.urandom)
    for length in range(len(sealed.record)):
        with pytest.raises(SealError):
            keys.open(NAME, Sealed(sealed.key_id, sealed.record[:length]))


def test_a_missing_master_key_is_named_by_its_id() -> None:
    lost = Keyring([key()])
    with pytest.raises(SealError, match=lost.current.id):
        Keyring([key()]).open(NAME, lost.seal(NAME, CONTENT, os.urandom))


def test_a_record_is_brought_under_a_new_key_without_its_content_being_encrypted_anew() -> None:
    old = key()
    sealed = Keyring([old]).seal(NAME, CONTENT, os.urandom)
    new = Keyring([key(), old])
    rewrapped = new.rewrap(NAME, sealed, os.urandom)
    assert rewrapped.key_id == new.current.id
    assert rewrapped.record[-len(CONTENT) - 28 :] == sealed.record[-len(CONTENT) - 28 :]
    assert Keyring([new.current]).open(NAME, rewrapped) == CONTENT


def test_a_master_key_shows_its_id_and_never_itself() -> None:
    one = key()
    assert repr(one) == f"MasterKey({one.id})"
    assert MasterKey(one.secret).id == one.id != key().id


def test_keys_are_read_from_lines_the_newest_first() -> None:
    keys = parse(f"# a comment\n\n{'A' * 43}=\n{'B' * 42}A=\n", "keys")
    assert keys.current.secret == bytes(32)


@pytest.mark.parametrize("line", ["x", "A" * 44, "A" * 42, "ä", "AAAA"])
def test_a_line_that_is_no_key_is_refused_by_its_number_and_not_shown(line: str) -> None:
    with pytest.raises(StoreError, match="keys: line 2 is not a master key") as refused:
        parse(f"{'A' * 43}=\n{line}\n", "keys")
    assert len(line) < 5 or line not in str(refused.value)


def test_a_place_without_any_key_is_refused() -> None:
    with pytest.raises(StoreError, match="there is no master key in it"):
        parse("# nothing\n", "keys")
