"""The chain of audit entries: whatever is changed in it shows, and where."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest

from tocsin.domain.actors import Actor, ActorKind
from tocsin.domain.devices import DeviceToken
from tocsin.store.audit_chain import START, Action, ChainCheck, Change, Ends, Link, Recorded, read, record, shortened

WHO = Actor(ActorKind.KEY, "key_0123456789ab", "192.0.2.7")


def chain_of(length: int) -> tuple[list[Recorded], Ends]:
    head, entries = START, []
    for number in range(length):
        entry, head = record(head, "main", number, WHO, Change(Action.KEY_REVOKE, f"key_{number}", {"b": 1, "a": "x"}))
        entries.append(entry)
    return entries, Ends("main", START, head)


def checked(entries: list[Recorded], ends: Ends) -> str:
    check = ChainCheck(ends)
    for entry in entries:
        check.add(entry)
    check.end()
    return check.broken


def test_a_chain_that_nobody_has_touched_holds() -> None:
    assert checked(*chain_of(10)) == ""
    assert checked(*chain_of(0)) == ""


def test_the_hash_is_what_the_documentation_says() -> None:
    entries, _ = chain_of(2)
    assert entries[0].hash == sha256(bytes(32) + entries[0].text).digest()
    assert entries[1].hash == sha256(entries[0].hash + entries[1].text).digest()


def test_an_entry_is_one_json_text_whatever_the_order_of_its_details() -> None:
    one, _ = record(START, "main", 1, WHO, Change(Action.KEY_CREATE, "k", {"a": 1, "b": 2}))
    other, _ = record(START, "main", 1, WHO, Change(Action.KEY_CREATE, "k", {"b": 2, "a": 1}))
    assert one == other
    assert msgspec.json.decode(one.text)["actor"] == {"id": WHO.id, "kind": "key", "source": "192.0.2.7"}


@pytest.mark.parametrize("at", range(6))
def test_a_changed_entry_is_found(at: int) -> None:
    entries, ends = chain_of(6)
    entries[at] = Recorded(at + 1, entries[at].text.replace(b"192.0.2.7", b"192.0.2.8"), entries[at].hash)
    assert checked(entries, ends).startswith(f"main: the chain breaks at entry {at + 1}: ")


@pytest.mark.parametrize("at", range(5))
def test_a_changed_entry_whose_hash_was_made_anew_is_found_at_the_one_after_it(at: int) -> None:
    entries, ends = chain_of(6)
    text = entries[at].text.replace(b"192.0.2.7", b"192.0.2.8")
    entries[at] = Recorded(at + 1, text, sha256((entries[at - 1].hash if at else bytes(32)) + text).digest())
    assert checked(entries, ends).startswith(f"main: the chain breaks at entry {at + 2}: ")


@pytest.mark.parametrize("at", range(6))
def test_a_missing_entry_is_found(at: int) -> None:
    entries, ends = chain_of(6)
    del entries[at]
    assert checked(entries, ends).startswith(f"main: the chain breaks at entry {at + 1}: it is missing")


def test_two_entries_that_have_changed_places_are_found() -> None:
    entries, ends = chain_of(6)
    entries[2], entries[3] = entries[3], entries[2]
    assert "breaks at entry 3" in checked(entries, ends)


def test_a_text_that_is_no_entry_is_found() -> None:
    entries, ends = chain_of(3)
    entries[1] = Recorded(2, b"{", entries[1].hash)
    assert checked(entries, ends) == "main: the chain breaks at entry 2: it cannot be read"


def test_an_entry_of_another_chain_is_found() -> None:
    entries, _ = chain_of(3)
    text = entries[2].text.replace(b'"main"', b'"else"')
    entries[2] = Recorded(3, text, sha256(entries[1].hash + text).digest())
    assert "breaks at entry 3" in checked(entries, Ends("main", START, Link(3, entries[2].hash)))


def test_a_removed_tail_with_a_head_that_was_moved_back_is_shown_by_a_hash_that_somebody_has_kept() -> None:
    entries, ends = chain_of(6)
    check = ChainCheck(Ends("main", START, Link(4, entries[3].hash)))
    for entry in entries[:4]:
        check.add(entry)
    check.end()
    assert check.broken == ""
    assert entries[3].hash in check.found
    assert ends.head.hash not in check.found


def test_a_chain_whose_front_was_pruned_holds_from_its_anchor_on() -> None:
    entries, ends = chain_of(6)
    assert checked(entries[2:], Ends("main", Link(2, entries[1].hash), ends.head)) == ""
    assert checked(entries[6:], Ends("main", Link(6, entries[5].hash), ends.head)) == ""
    assert "breaks at entry 3" in checked(entries[2:], Ends("main", Link(2, bytes(32)), ends.head))


def test_what_is_long_or_no_text_is_cut_and_still_verifies() -> None:
    change = Change(Action.KEY_CREATE, "x" * 1000, {"name": "\ud800" + "y" * 1000, "events": ["z" * 999]})
    entry, head = record(START, "main", 1, WHO, change)
    assert len(entry.text) < 1000
    assert checked([entry], Ends("main", START, head)) == ""
    assert read(entry).subject.endswith("x…")


@pytest.mark.parametrize("token", ["", "a", "ab", "abcdefgh", "a" * 16, "a" * 17, "a" * 4096])
def test_no_token_is_named_by_more_than_half_of_it(token: str) -> None:
    shown = shortened(DeviceToken(token)).removesuffix("…")
    assert token.startswith(shown)
    assert len(shown) <= 8
    assert 2 * len(shown) <= len(token)
