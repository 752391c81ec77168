"""How this process is doing, in figures: rates of the last seconds, latency, and a history for a chart.

Counted where it is counted anyway (`telemetry.Metrics`); once a second the totals are looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from tocsin.api.control import Figures, Latency, Moment

WINDOW_S: Final = 10
LATENCY_WINDOW_S: Final = 60
HISTORY_S: Final = 300
_MOST_SAMPLES: Final = 10_000


class FigureBook:
    """`now_ms` is the store's time; `totals` are those of accepted events, and of attempts that the provider took and
    that it did not, since the start."""

    def __init__(self, now_ms: Callable[[], int], totals: Callable[[], tuple[int, int, int]]) -> None:
        self._now_ms = now_ms
        self._totals = totals
        self._seconds: deque[tuple[int, tuple[int, int, int]]] = deque(maxlen=WINDOW_S + 1)
        self._samples: deque[tuple[int, int]] = deque(maxlen=_MOST_SAMPLES)
        """When, and how many milliseconds it took."""
        self.history: deque[Moment] = deque(maxlen=HISTORY_S)

    def took(self, milliseconds: Sequence[int]) -> None:
        """See `delivery.metrics`."""
        now_ms = self._now_ms()
        self._samples.extend([(now_ms, one) for one in milliseconds])

    def look(self, backlog: int) -> None:
        """Called once a second."""
        now_ms, totals = self._now_ms(), self._totals()
        if self._seconds:
            before_ms, before = self._seconds[-1]
            seconds = max(0.001, (now_ms - before_ms) / 1000)
            accepted, sent, failed = (
                round((now - then) / seconds, 1) for now, then in zip(totals, before, strict=True)
            )
            self.history.append(Moment(now_ms, accepted, sent, failed, backlog, self._latency(WINDOW_S).p99))
        self._seconds.append((now_ms, totals))

    def figures(self) -> Figures:
        """As they are now."""
        now_ms, totals = self._now_ms(), self._totals()
        then_ms, then = self._seconds[0] if self._seconds else (now_ms, totals)
        seconds = (now_ms - then_ms) / 1000
        accepted, sent, failed = (
            round((now - before) / seconds, 2) if seconds > 0 else 0.0 for now, before in zip(totals, then, strict=True)
        )
        return Figures(*totals, accepted, sent, failed, WINDOW_S, self._latency(LATENCY_WINDOW_S))

    def _latency(self, window_s: int) -> Latency:
        since_ms = self._now_ms() - window_s * 1000
        took = sorted(ms for at_ms, ms in self._samples if at_ms >= since_ms)
        if not took:
            return Latency(None, None, None, 0, window_s)
        p50, p90, p99 = (float(took[min(len(took) - 1, int(len(took) * share))]) for share in (0.5, 0.9, 0.99))
        return Latency(p50, p90, p99, len(took), window_s)
