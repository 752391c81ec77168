"""What the model of a disk says may be there after a power cut, and the choices that are tried."""

from __future__ import annotations

from random import Random

from tests.power_loss.disk import Disk
from tests.power_loss.expected import Expected
from tests.power_loss.states import kept_of
from tests.power_loss.trace import (
    Create,
    FailedSync,
    Link,
    Marked,
    Mkdir,
    Operation,
    Rename,
    Sync,
    SyncDirectory,
    Truncate,
    Unlink,
    Write,
)


def disk_after(*operations: Operation) -> Disk:
    disk = Disk()
    for operation in operations:
        disk.do(operation)
    return disk


def test_a_synced_file_is_not_there_until_its_directory_is_synced() -> None:
    operations = (Create("a", 1), Write(1, 0, b"x"), Sync(1))
    assert disk_after(*operations).after([]) == {}
    assert disk_after(*operations, SyncDirectory(".")).after([]) == {"a": b"x"}


def test_a_file_is_not_there_without_the_directory_above_it() -> None:
    disk = disk_after(Mkdir("d"), Create("d/a", 1), SyncDirectory("d"))
    assert disk.after([]) == {}
    assert disk.after(disk.pending) == {"d": None, "d/a": b""}


def test_a_rename_is_in_both_places_or_in_neither() -> None:
    disk = disk_after(
        Create("a", 1), Create("b", 2), Write(1, 0, b"new"), Sync(1), SyncDirectory("."), Rename("a", "b")
    )
    assert disk.after([]) == {"a": b"new", "b": b""}
    assert disk.after(disk.pending) == {"b": b"new"}


def test_a_link_and_an_unlink_change_names_and_no_content() -> None:
    disk = disk_after(Create("a", 1), Write(1, 0, b"x"), Sync(1), SyncDirectory("."), Link("b", 1), Unlink("a"))
    link, unlink = disk.pending
    assert disk.after([link]) == {"a": b"x", "b": b"x"}
    assert disk.after([unlink]) == {}
    assert disk.after([link, unlink]) == {"b": b"x"}


def test_a_write_beyond_a_lost_one_leaves_zeros_and_a_truncation_may_be_lost() -> None:
    disk = disk_after(Create("a", 1), Write(1, 0, b"old"), Sync(1), SyncDirectory("."))
    for operation in (Truncate(1, 0), Write(1, 0, b"ab"), Write(1, 4, b"ef")):
        disk.do(operation)
    truncation, first, second = disk.pending
    assert disk.after([]) == {"a": b"old"}
    assert disk.after([truncation, second]) == {"a": b"\0\0\0\0ef"}
    assert disk.after([first]) == {"a": b"abd"}


def test_the_sync_of_one_file_makes_no_other_durable() -> None:
    disk = disk_after(Create("a", 1), Create("b", 2), SyncDirectory("."), Write(1, 0, b"x"), Write(2, 0, b"y"), Sync(2))
    assert disk.after([]) == {"a": b"", "b": b"y"}


def test_what_was_written_before_a_failed_sync_stays_in_doubt_until_it_is_written_again() -> None:
    disk = disk_after(Create("a", 1), Write(1, 0, b"old"), Sync(1), SyncDirectory("."))
    for operation in (Write(1, 0, b"abcdef"), FailedSync(1), Write(1, 2, b"XY"), Sync(1)):
        disk.do(operation)
    assert disk.after([]) == {"a": b"olXY"}
    assert disk.optional == [Write(1, 0, b"ab"), Write(1, 4, b"ef")]
    assert disk.after(disk.optional) == {"a": b"abXYef"}
    for operation in (Write(1, 0, b"ab"), Truncate(1, 4), Sync(1)):
        disk.do(operation)
    assert disk.optional == []
    assert disk.after([]) == {"a": b"abXY"}


def test_a_failed_sync_of_one_file_puts_no_other_in_doubt() -> None:
    disk = disk_after(
        Create("a", 1), Create("b", 2), SyncDirectory("."), Write(1, 0, b"x"), Write(2, 0, b"y"), FailedSync(2), Sync(1)
    )
    disk.do(Sync(2))
    assert disk.after([]) == {"a": b"x", "b": b""}
    assert disk.after(disk.optional) == {"a": b"x", "b": b"y"}


def test_every_prefix_each_one_missing_each_one_alone_and_torn_ones_are_tried() -> None:
    pending = [Write(1, at * 4096 + 24, bytes([at + 1]) * 4096) for at in range(3)]
    choices = {tuple(kept) for kept in kept_of(pending, Random(1), 0)}
    assert {tuple(pending[:end]) for end in range(4)} <= choices
    assert {tuple(pending[:at] + pending[at + 1 :]) for at in range(3)} <= choices
    assert {(one,) for one in pending} <= choices
    assert (Write(1, 24, b"\x01" * 488),) in choices
    assert (Write(1, 24, b"\x01" * 4072),) in choices
    assert (pending[0], Write(1, 4608, b"\x02" * 3608)) in choices


def test_an_open_action_may_be_there_or_not_and_never_a_part_of_it() -> None:
    expected = Expected()
    expected.hear(Marked(kind="begins", facts={"a": "old"}))
    expected.hear(Marked(kind="starts", number=1, facts={"a": "new", "b": "new"}))
    assert expected.wrong_in({"a": "old"}) == []
    assert expected.wrong_in({"a": "new", "b": "new"}) == []
    assert expected.wrong_in({"a": "new"}) == ["of one action 1 of 2 parts are there: a is one"]
    assert expected.wrong_in({"b": "other"}) == [
        "a is None, and was to be 'new' or 'old'",
        "b is 'other', and was to be 'new' or None",
    ]


def test_what_was_answered_has_to_be_there_and_what_was_refused_must_not() -> None:
    expected = Expected()
    for number in (1, 2):
        expected.hear(Marked(kind="starts", number=number, facts={f"e{number}": "accepted"}))
    expected.hear(Marked(kind="answers", number=1))
    expected.hear(Marked(kind="refuses", number=2))
    assert expected.wrong_in({"e1": "accepted"}) == []
    assert expected.wrong_in({}) == ["e1 is None, and was to be 'accepted'"]
    assert expected.wrong_in({"e1": "accepted", "e2": "accepted"}) == ["e2 is 'accepted', and was to be None"]
