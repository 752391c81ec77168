"""How long something took, counted in fixed buckets: cheap to count, and looked at only when metrics are asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from msgspec import Struct

COMMIT_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PROVIDER_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
DELIVERY_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)


class Exemplar(Struct, frozen=True):
    """One observation, with the trace that shows it (OpenMetrics: Exemplars). `at_s` is Unix seconds."""

    seconds: float
    trace_id: str
    at_s: float


class Histogram:
    """`bounds_s` are the buckets' upper bounds in seconds, ascending; what is longer than the last is counted, too.

    One thread may count while another looks: what it sees may be some observations behind.
    """

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = tuple(bounds_s)
        self._counts = [0] * (len(self._bounds_s) + 1)
        self.sum_s = 0.0
        self.exemplars: dict[int, Exemplar] = {}
        """The latest of each bucket, by its place; few buckets have one."""

    @property
    def count(self) -> int:
        return sum(self._counts)

    def observe(self, seconds: Iterable[float]) -> None:
        bounds_s, counts = self._bounds_s, self._counts
        for one in seconds:
            counts[bisect_left(bounds_s, one)] += 1
            self.sum_s += one

    def exemplify(self, exemplar: Exemplar) -> None:
        """What was observed is what this trace shows."""
        self.exemplars[bisect_left(self._bounds_s, exemplar.seconds)] = exemplar

    def buckets(self) -> list[tuple[str, int]]:
        """Each bound as text, and how many were no longer than it; `+Inf` at the end stands for all."""
        names = [*map(str, self._bounds_s), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True))
