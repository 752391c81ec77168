"""The tail in memory: whichever comes first, the read or the answer of the commit, each event is taken once."""

from __future__ import annotations

import pytest
from tests.contract.support import make_event
from tests.support.clocks import Clocks

from tocsin.domain.events import Event
from tocsin.store.sqlite import fresh
from tocsin.store.sqlite.fresh import Fresh


def numbered(*seqs: int) -> list[tuple[int, Event]]:
    return [(seq, make_event(Clocks())) for seq in seqs]


def started() -> Fresh:
    stream = Fresh(0)
    stream.start(0)
    return stream


def taken(stream: Fresh, limit: int = 100) -> list[int]:
    return [seq for seq, _ in stream.take(limit)]


def test_what_is_committed_after_everything_was_read_is_taken_from_memory() -> None:
    stream = started()
    stream.read([], more=False)
    stream.committed(numbered(1, 2, 3))
    assert taken(stream, 2) == [1, 2]
    assert taken(stream) == [3]
    assert not stream.may_have_more


def test_what_was_committed_while_the_table_was_read_is_read_next() -> None:
    stream = started()
    stream.committed(numbered(1))
    stream.read([], more=False)
    assert stream.may_have_more
    assert taken(stream) == []
    stream.read(numbered(1), more=False)
    assert not stream.may_have_more


def test_what_was_read_before_its_commit_was_answered_is_not_taken_again() -> None:
    stream = started()
    stream.read(numbered(1, 2), more=False)
    stream.committed(numbered(1, 2, 3))
    assert taken(stream) == [3]


def test_a_full_window_means_that_there_may_be_more() -> None:
    stream = started()
    stream.read(numbered(1, 2), more=True)
    stream.committed(numbered(3))
    assert taken(stream) == []
    assert stream.may_have_more


def test_after_a_gap_the_table_is_read_and_the_tail_before_it_is_kept() -> None:
    stream = started()
    stream.read([], more=False)
    stream.committed(numbered(1))
    stream.look_again()
    stream.committed(numbered(3))
    assert taken(stream) == [1]
    assert (stream.cursor, stream.may_have_more) == (1, True)


@pytest.mark.parametrize("bound", ["_TAIL_EVENTS", "_TAIL_BYTES"])
def test_the_tail_is_bounded_and_what_does_not_fit_is_read(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, bound, 1)
    stream = started()
    stream.read([], more=False)
    stream.committed(numbered(1))
    stream.committed(numbered(2))
    assert taken(stream) == [1]
    assert stream.may_have_more
    stream.read(numbered(2), more=False)
    stream.committed(numbered(3))
    assert taken(stream) == [3]
