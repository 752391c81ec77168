"""Requests that wait for a stream: whose turn it is, and how many streams one group may have."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tocsin.http2.messages import Request
from tocsin.http2.waiting import Waiting


def requests(group: str, count: int, *, urgent: bool = False) -> list[Request]:
    made = [Request((), b"", urgent, group) for _ in range(count)]
    return made


def groups(taken: list[Request]) -> dict[str, int]:
    return dict(Counter(request.group for request in taken))


def test_a_group_leaves_as_many_streams_free_as_it_has() -> None:
    waiting: Waiting[Request] = Waiting()
    waiting.add(requests("silent", 4000))
    assert waiting.ready(8000) == 4000
    assert waiting.ready(1000) == 500
    assert len(waiting.take(1000, 1000)) == 500
    assert (waiting.ready(500), len(waiting)) == (0, 3500)
    assert waiting.take(100, 500) == []


def test_a_group_that_comes_when_others_hold_all_they_may_gets_streams() -> None:
    waiting: Waiting[Request] = Waiting()
    free = 8000
    for number in range(6):
        waiting.add(requests(f"silent {number}", 4000))
        while taken := waiting.take(64, free):
            free -= len(taken)
    waiting.add(requests("good", 20))
    assert len(waiting.take(64, free)) == 20


def test_a_group_without_a_stream_gets_one_whatever_is_free() -> None:
    waiting: Waiting[Request] = Waiting()
    waiting.add(requests("a", 5))
    assert waiting.ready(0) == 1
    assert len(waiting.take(5, 0)) == 1
    assert waiting.ready(0) == 0


def test_streams_that_come_back_may_be_used_again() -> None:
    waiting: Waiting[Request] = Waiting()
    waiting.add(requests("a", 10))
    taken = waiting.take(10, 10)
    assert len(taken) == 5
    waiting.returned(taken)
    assert waiting.ready(10) == 5


def test_groups_get_streams_in_turn_however_many_wait_before() -> None:
    waiting: Waiting[Request] = Waiting()
    waiting.add(requests("many", 1000))
    waiting.add(requests("few", 10))
    assert groups(waiting.take(8, 8000)) == {"many": 4, "few": 4}
    assert [groups(waiting.take(1, 8000)) for _ in range(4)] in (
        [{"many": 1}, {"few": 1}] * 2,
        [{"few": 1}, {"many": 1}] * 2,
    )
    assert groups(waiting.take(64, 8000)) == {"many": 60, "few": 4}


def test_urgent_requests_of_every_group_come_first() -> None:
    waiting: Waiting[Request] = Waiting()
    waiting.add(requests("a", 10) + requests("a", 2, urgent=True) + requests("b", 3, urgent=True))
    taken = waiting.take(6, 8000)
    assert [request.urgent for request in taken] == [True] * 5 + [False]


def test_what_belongs_to_no_group_may_have_every_stream() -> None:
    waiting: Waiting[Request] = Waiting()
    waiting.add(requests("", 100))
    assert waiting.ready(100) == 100
    assert len(waiting.take(100, 100)) == 100


def test_within_a_group_the_order_is_kept_and_what_is_put_back_comes_first() -> None:
    waiting: Waiting[Request] = Waiting()
    made = requests("a", 6)
    waiting.add(made)
    taken = waiting.take(3, 8000)
    assert taken == made[:3]
    waiting.returned(taken)
    waiting.put_back(taken)
    assert waiting.take(6, 8000) == made


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(1, 30), st.booleans()), max_size=8),
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 60)), max_size=30),
)
def test_nothing_is_lost_given_twice_or_left_although_it_was_ready(
    added: list[tuple[str, int, bool]], takes: list[tuple[int, int]]
) -> None:
    waiting: Waiting[Request] = Waiting()
    made = [request for group, count, urgent in added for request in requests(group, count, urgent=urgent)]
    waiting.add(made)
    out: list[Request] = []
    for most, free in takes:
        ready = waiting.ready(free)
        taken = waiting.take(most, free)
        assert len(taken) <= most
        assert bool(taken) == bool(ready)
        out += taken
    assert len(set(map(id, out))) == len(out)
    assert len(waiting) == len(made) - len(out)
    rest = waiting.take_all()
    assert {id(request) for request in out + rest} == {id(request) for request in made}
    assert not waiting
