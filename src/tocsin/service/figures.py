"""How the service is doing, in figures: rates of the last seconds, latency, and a history for a chart.

Counted where it is counted anyway (`telemetry.Metrics`); once a second the totals are looked at. Each node publishes
its own figures with its status, and adds to them what the other nodes have published: any node answers for all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from typing import Final

from msgspec import Struct

from tocsin.api.control import Figures, Latency, Moment
from tocsin.domain.nodes import NodeFigures, NodeStatus

WINDOW_S: Final = 10
LATENCY_WINDOW_S: Final = 60
HISTORY_S: Final = 300
_MOST_SAMPLES: Final = 10_000
_RATIO: Final = 1.2
_BOUNDS_MS: Final = tuple(_RATIO**n for n in range(120))
"""Upper bounds of the buckets in which a node publishes how long deliveries took; the last is beyond any event's life.
A percentile over several nodes is the middle of its bucket, so it is right within a tenth."""

Triple = tuple[float, float, float]


class _Other(Struct, frozen=True):
    """Another node, as it has told last."""

    status: NodeStatus
    figures: NodeFigures
    lately_per_s: Triple
    """The rates between what it has told last and what it had told before; at first, those that it tells itself."""


class FigureBook:
    """`node` is what this process is called, `now_ms` the store's time; `totals` are those of accepted events, and of
    attempts that the provider took and that it did not, since the start."""

    def __init__(self, node: str, now_ms: Callable[[], int], totals: Callable[[], tuple[int, int, int]]) -> None:
        self._node = node
        self._now_ms = now_ms
        self._totals = totals
        self._seconds: deque[tuple[int, tuple[int, int, int]]] = deque(maxlen=WINDOW_S + 1)
        self._samples: deque[tuple[int, Sequence[int]]] = deque()
        """When, and how many milliseconds each of some deliveries took: the newest `_MOST_SAMPLES`, or a few more."""
        self._sampled = 0
        self._others: dict[str, _Other] = {}
        self.history: deque[Moment] = deque(maxlen=HISTORY_S)

    def took(self, milliseconds: Sequence[int]) -> None:
        """See `delivery.metrics`."""
        if not milliseconds:
            return
        self._samples.append((self._now_ms(), milliseconds))
        self._sampled += len(milliseconds)
        while self._sampled - len(self._samples[0][1]) >= _MOST_SAMPLES:
            self._sampled -= len(self._samples.popleft()[1])

    def look(self, backlog: int, nodes: Iterable[NodeStatus] = ()) -> None:
        """Called once a second, with what waits and what each node has published last."""
        now = now_ms, _ = self._now_ms(), self._totals()
        self._look_at_others(nodes)
        own = _per_s(self._seconds[-1] if self._seconds else now, now, least_s=0.001)
        accepted, sent, failed = _sum([own, *(one.lately_per_s for one in self._living())])
        p99 = self._latency(WINDOW_S).p99
        self.history.append(Moment(now_ms, round(accepted, 1), round(sent, 1), round(failed, 1), backlog, p99))
        self._seconds.append(now)

    def _look_at_others(self, nodes: Iterable[NodeStatus]) -> None:
        before, self._others = self._others, {}
        for status in nodes:
            if status.figures is None or status.node == self._node:
                continue
            known = before.get(status.node)
            if known is None:
                rates = status.figures.per_s
            elif known.status.at_ms == status.at_ms:
                rates = known.lately_per_s  # it has published nothing since
            else:
                then, now = (known.status.at_ms, known.figures.totals), (status.at_ms, status.figures.totals)
                rates = _per_s(then, now)
            self._others[status.node] = _Other(status, status.figures, rates)

    def own(self) -> NodeFigures:
        """Those of this process, to be published."""
        took, lately = (_counts(self._took(window_s)) for window_s in (LATENCY_WINDOW_S, WINDOW_S))
        return NodeFigures(self._totals(), _rounded(self._own_per_s()), took, lately)

    def figures(self) -> Figures:
        """Those of all living nodes that tell theirs, as they are now."""
        others = self._living()
        totals = [self._totals(), *(one.figures.totals for one in others)]
        accepted, sent, failed = (sum(column) for column in zip(*totals, strict=True))
        per_s = _rounded(_sum([self._own_per_s(), *(one.figures.per_s for one in others)]))
        nodes = sorted([self._node, *(one.status.node for one in others)])
        return Figures(accepted, sent, failed, *per_s, WINDOW_S, self._latency(LATENCY_WINDOW_S), nodes)

    def _living(self) -> list[_Other]:
        """The figures of a node that is gone stand for nothing any more."""
        return [one for one in self._others.values() if not one.status.is_gone(self._now_ms())]

    def _own_per_s(self) -> Triple:
        now = self._now_ms(), self._totals()
        return _per_s(self._seconds[0] if self._seconds else now, now)

    def _took(self, window_s: int) -> list[int]:
        since_ms = self._now_ms() - window_s * 1000
        return sorted(chain.from_iterable([took for at_ms, took in self._samples if at_ms >= since_ms]))

    def _latency(self, window_s: int) -> Latency:
        took = self._took(window_s)
        of_others = Counter[int]()
        for one in self._living():
            for bucket, count in one.figures.took if window_s == LATENCY_WINDOW_S else one.figures.took_lately:
                of_others[bucket] += count
        if not of_others:
            return _percentiles(len(took), lambda place: float(took[place]), window_s)
        for bucket, count in _counts(took):
            of_others[bucket] += count
        buckets = sorted(of_others)
        up_to = list(accumulate(of_others[bucket] for bucket in buckets))
        return _percentiles(up_to[-1], lambda place: _middle_ms(buckets[bisect_left(up_to, place + 1)]), window_s)


def _percentiles(count: int, at: Callable[[int], float], window_s: int) -> Latency:
    """`at` gives what the sample at a place has, of all samples in ascending order."""
    if not count:
        return Latency(None, None, None, 0, window_s)
    p50, p90, p99 = (at(min(count - 1, int(count * share))) for share in (0.5, 0.9, 0.99))
    return Latency(p50, p90, p99, count, window_s)


def _counts(took: Sequence[int]) -> list[tuple[int, int]]:
    """Of samples in ascending order: each bucket that has any, and how many."""
    found, before = [], 0
    while before < len(took):
        bucket = min(bisect_left(_BOUNDS_MS, took[before]), len(_BOUNDS_MS) - 1)
        up_to = len(took) if bucket == len(_BOUNDS_MS) - 1 else bisect_left(took, int(_BOUNDS_MS[bucket]) + 1)
        found.append((bucket, up_to - before))
        before = up_to
    return found


def _middle_ms(bucket: int) -> float:
    # A newer version may have more buckets.
    return float(round(_BOUNDS_MS[min(bucket, len(_BOUNDS_MS) - 1)] / _RATIO**0.5))


def _per_s(then: tuple[int, tuple[int, int, int]], now: tuple[int, tuple[int, int, int]], least_s: float = 0) -> Triple:
    seconds = max(least_s, (now[0] - then[0]) / 1000)
    if seconds <= 0:
        return (0.0, 0.0, 0.0)
    accepted, sent, failed = ((after - before) / seconds for after, before in zip(now[1], then[1], strict=True))
    return (accepted, sent, failed)


def _sum(triples: Sequence[Triple]) -> Triple:
    accepted, sent, failed = (sum(column) for column in zip(*triples, strict=True))
    return (accepted, sent, failed)


def _rounded(triple: Triple) -> Triple:
    accepted, sent, failed = triple
    return (round(accepted, 2), round(sent, 2), round(failed, 2))
