"""The benchmark of key comparison: its statistics, and that it finds a comparison that leaks."""

from __future__ import annotations

from random import Random

import pytest
from benchmarks.key_timing import BOUND, largest_t, leaky, times_of, welch_t

RIGHT = "tocsin_admin_" + "k" * 43


def test_welchs_t_is_that_of_the_textbook() -> None:
    # Means 3 and 6, variances 2.5 and 10, five values each: (3 - 6) / sqrt(2.5 / 5 + 10 / 5).
    assert welch_t([1, 2, 3, 4, 5], [2, 4, 6, 8, 10]) == pytest.approx(-1.8973665961)
    assert welch_t([1, 1], [1, 1]) == 0
    assert welch_t([1, 1], [2, 2]) < -BOUND
    assert welch_t([1, 2, 3], []) > BOUND


def test_times_of_one_distribution_do_not_differ_and_shifted_ones_do() -> None:
    random = Random(1)
    one, other = ([int(random.gauss(1000, 50)) for _ in range(20_000)] for _ in range(2))
    assert largest_t(one, other) < BOUND
    assert largest_t(one, [time + 5 for time in other]) > BOUND


async def test_a_comparison_that_stops_at_the_first_wrong_character_is_found() -> None:
    times = await times_of(leaky(RIGHT), RIGHT, lambda: "tocsin_admin_" + "x" * 43, 2000)
    assert largest_t(*times) > BOUND
