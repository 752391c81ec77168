"""What is counted now and then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tocsin.store.counted import Counted


@pytest.mark.parametrize(("takes_s", "again_after_s"), [(0.01, 5.0), (3.0, 33.0)])
async def test_it_is_counted_again_after_some_seconds_and_later_where_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, takes_s: float, again_after_s: float
) -> None:
    now_s, counts = 100.0, 0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s, raising=False)

    async def count() -> int:
        nonlocal now_s, counts
        now_s += takes_s
        counts += 1
        return counts

    counted: Any = Counted(count)
    assert (await counted.get(), await counted.get()) == (1, 1)
    now_s = 100.0 + again_after_s - 0.001
    assert await counted.get() == 1
    now_s = 100.0 + again_after_s + 0.001
    assert await counted.get() == 2


async def test_a_count_that_fails_is_tried_again() -> None:
    answers = [ValueError("not now"), 7]

    async def count() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    counted = Counted(count)
    with pytest.raises(ValueError, match="not now"):
        await counted.get()
    assert await counted.get() == 7
