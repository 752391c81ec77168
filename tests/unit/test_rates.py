"""How much of its rate a party may use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.api.rates import Buckets
from tocsin.store.records import Rate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_party_has_its_whole_rate_at_once_and_then_waits_for_the_next_token() -> None:
    clock = Clock()
    buckets, rate = Buckets(clock), Rate(60, 60)
    assert [buckets.take("a", rate) for _ in range(60)] == [0.0] * 60
    assert 0.9 < buckets.take("a", rate) <= 1.0
    assert buckets.take("b", rate) == 0.0
    clock.now += 1.001
    assert buckets.take("a", rate) == 0.0
    assert buckets.take("a", rate) > 0.0


@pytest.mark.parametrize("count", range(1, 100))
def test_the_whole_rate_is_exactly_that(count: int) -> None:
    buckets, rate = Buckets(Clock()), Rate(count, 1)
    assert sum(buckets.take("a", rate) == 0.0 for _ in range(2 * count)) == count


def test_who_takes_more_than_there_is_waits_until_it_is_paid_for() -> None:
    clock = Clock()
    buckets, rate = Buckets(clock), Rate(10, 1)
    assert buckets.take("a", rate, 110) == 0.0
    assert 10.0 < buckets.take("a", rate) < 10.2
    clock.now += 10.15
    assert buckets.take("a", rate) == 0.0


def test_what_is_given_back_can_be_taken_again_and_no_more() -> None:
    buckets, rate = Buckets(Clock()), Rate(10, 1)
    buckets.take("a", rate, 10)
    buckets.charge("a", rate, -10)
    buckets.charge("a", rate, -10)
    assert sum(buckets.take("a", rate) == 0.0 for _ in range(20)) == 10


def test_looking_takes_nothing() -> None:
    buckets, rate = Buckets(Clock()), Rate(1, 60)
    assert [buckets.wait_s("a", rate) for _ in range(5)] == [0.0] * 5
    buckets.charge("a", rate)
    assert 59.0 < buckets.wait_s("a", rate) <= 60.0


def test_the_memory_is_bounded_and_who_used_its_rate_last_is_remembered_best() -> None:
    clock = Clock()
    buckets, rate = Buckets(clock, most=100), Rate(1, 60)
    for number in range(1000):
        buckets.charge(number, rate)
        assert len(buckets._full_at) <= 100
    assert buckets.wait_s(999, rate) > 0
    clock.now += 61
    buckets.charge("new", rate)
    for number in range(100):
        buckets.charge(number, rate)
    assert len(buckets._full_at) <= 100


@given(
    rate=st.builds(Rate, st.integers(1, 1000), st.sampled_from([1, 60, 3600])),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_no_party_gets_more_than_its_rate_and_one_bucket(rate: Rate, pauses: list[float]) -> None:
    clock = Clock()
    buckets = Buckets(clock)
    taken = 0
    for pause in pauses:
        clock.now += pause
        taken += buckets.take("a", rate) == 0.0
    assert taken <= rate.count + sum(pauses) * rate.count / rate.per_s + 0.01
