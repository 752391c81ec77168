"""When again: within bounds for all inputs."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.delivery.retry import delay_s, retry_at_ms
from tocsin.domain.outcomes import Answer, Backoff, RetryLater
from tocsin.http2.messages import Request
from tocsin.providers.answers import retry_after_s

seconds = st.floats(0.1, 1000)
numbers = st.floats(0, 1, exclude_max=True)


@given(first=seconds, cap=seconds, floor=st.floats(0, 60), tries=st.integers(0, 10_000), random=numbers)
def test_a_jittered_delay_lies_between_the_floor_and_the_doubled_bound(
    first: float, cap: float, floor: float, tries: int, random: float
) -> None:
    bound = min(cap, first * 2.0 ** min(tries, 30))
    delay = delay_s(Backoff(first, cap, floor), tries, random)
    assert floor <= delay <= max(floor, bound)


@given(first=seconds, cap=seconds, tries=st.integers(0, 100))
def test_without_jitter_the_delay_only_grows_up_to_the_cap(first: float, cap: float, tries: int) -> None:
    backoff = Backoff(first, cap, jitter=False)
    assert delay_s(backoff, tries, 0.5) <= delay_s(backoff, tries + 1, 0.5) <= cap


@given(random=numbers)
def test_at_once_means_at_once_the_first_time_only(random: float) -> None:
    backoff = Backoff(0.0, 300.0)
    assert delay_s(backoff, 0, random) == 0
    assert delay_s(backoff, 1, 1.0) == 2.0
    assert delay_s(backoff, 2, 1.0) == 4.0


@given(after=st.floats(0, 10_000), tries=st.integers(0, 50), random=numbers)
def test_the_provider_may_ask_for_more_than_the_back_off_and_never_for_less(
    after: float, tries: int, random: float
) -> None:
    backoff = Backoff(2.0, 300.0)
    outcome = RetryLater(Answer(503, "x"), backoff, after_s=after)
    wait_s = max(after, delay_s(backoff, tries, random))
    assert retry_at_ms(outcome, tries, 1_000_000, random) == 1_000_000 + int(wait_s * 1000)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", None),
        ("-5", None),
        ("soon", None),
        ("9" * 400, 3600.0),
        (format_datetime(datetime.fromtimestamp(1_800_000_000 + 90, UTC), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(1_800_000_000 + 10**6, UTC), usegmt=True), 3600.0),
        (format_datetime(datetime.fromtimestamp(1_800_000_000, UTC), usegmt=True), None),
        (format_datetime(datetime.fromtimestamp(1_800_000_000 - 90, UTC), usegmt=True), None),
    ],
)
def test_a_retry_after_that_asks_for_nothing_counts_as_absent_and_one_of_more_than_an_hour_as_an_hour(
    value: str, seconds: float | None
) -> None:
    request = Request([], b"")
    request.response_headers = ((b"retry-after", value.encode()),)
    assert retry_after_s(request, 1_800_000_000.0) == seconds
