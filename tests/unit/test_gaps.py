"""Which ids were not read is known by few numbers, whatever order they come in."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tocsin.store.postgres.gaps import Gaps


def awaited(gaps: Gaps, ids: range) -> set[int]:
    return {id for id in ids for above, below in zip(*gaps.bounds(), strict=True) if above < id < below}


@given(
    st.integers(0, 10),
    st.lists(
        st.one_of(st.tuples(st.just("take"), st.integers(1, 40)), st.tuples(st.just("close"), st.integers(0, 40)))
    ),
)
def test_what_is_awaited_is_what_was_neither_read_nor_given_up(above: int, steps: list[tuple[str, int]]) -> None:
    gaps, open = Gaps(above), set(range(above + 1, 60))
    for kind, id in steps:
        if kind == "take":
            assert gaps.take(id) == (id in open)
            open.discard(id)
        else:
            gaps.close(id)
            open -= set(range(id + 1))
        assert awaited(gaps, range(60)) == open
        # Each gap has something in it, and ends before the next begins.
        bounds = list(zip(*gaps.bounds(), strict=True))
        assert all(below - above > 1 for above, below in bounds)
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(bounds))


def test_a_hundred_thousand_ids_that_follow_each_other_leave_one_gap() -> None:
    gaps = Gaps(0)
    for id in range(1, 100_001):
        if id != 500:
            gaps.take(id)
    assert gaps.bounds()[0] == [499, 100_000]
    gaps.close(99_000)
    assert gaps.bounds()[0] == [100_000]
