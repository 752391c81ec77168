"""What the database has on record, as whoever may write the file could change it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec

from tocsin.domain.devices import Address
from tocsin.providers.apns.address import ApnsRules
from tocsin.providers.fcm.address import FcmRules
from tocsin.store.audit_chain import START, ChainCheck, Ends, Link, Recorded, shown
from tocsin.store.cursors import number_of
from tocsin.store.master_keys import parse
from tocsin.store.ports import StoreError, UnknownCursor
from tocsin.store.records import Cursor
from tocsin.store.sealing import Keyring, MasterKey, Sealed, SealError
from tocsin.store.sqlite import event_log

_IDENTITY = "credential apns 39JSDKGJ38.de.cospace.app"


def records() -> Callable[[bytes], None]:
    """Sealed records, receipts, addresses, audit entries, master keys and cursors; the first byte says which."""
    keyring = Keyring([MasterKey(bytes(32))])
    readers: tuple[Callable[[bytes], None], ...] = (
        lambda data: _sealed(keyring, data),
        _attempts,
        _address,
        _entry,
        _master_keys,
        _cursor,
    )

    def run(data: bytes) -> None:
        if data:
            readers[data[0] % len(readers)](data[1:])

    return run


def _sealed(keyring: Keyring, data: bytes) -> None:
    try:
        keyring.open(_IDENTITY, Sealed(keyring.current.id, data))
    except SealError as error:
        assert len(str(error)) < 300
    else:
        raise AssertionError("opened what nobody has sealed")


def _attempts(data: bytes) -> None:
    with suppress(msgspec.MsgspecError, RecursionError):
        event_log._attempts(data.decode("utf-8", "replace"))


def _address(data: bytes) -> None:
    address = Address(data.decode("utf-8", "replace"))
    for rules in (ApnsRules(), FcmRules()):
        msgspec.json.encode(rules.describe(address))
        rules.summary(address)


def _entry(data: bytes) -> None:
    entry = Recorded(1, data, bytes(32))
    shown(entry)
    check = ChainCheck(Ends("main", START, Link(1, bytes(32))))
    check.add(entry)
    check.end()
    assert check.broken, "holds for what nobody has written"


def _master_keys(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        parse(text, "a file")
    except StoreError as error:
        assert len(str(error)) < 300


def _cursor(data: bytes) -> None:
    with suppress(UnknownCursor):
        assert number_of(Cursor(data.decode("utf-8", "replace"))) >= 0
