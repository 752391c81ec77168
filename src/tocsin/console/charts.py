"""The geometry of the charts. Templates draw it as SVG; what the lines look like is the style sheet's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

WIDTH: Final = 600
HEIGHT: Final = 160
_MOST_POINTS: Final = 150


class Series(Struct, frozen=True):
    """Values over time, oldest first; None where there is none. `kind` is its class in the style sheet."""

    name: str
    kind: str
    values: Sequence[float | None]


class Line(Struct, frozen=True):
    """One series as drawn: the line, and the area below it."""

    name: str
    kind: str
    path: str
    area: str
    last: float | None
    largest: float


class Chart(Struct, frozen=True):
    """Lines in a box of `WIDTH` by `HEIGHT`, from 0 to `top`."""

    lines: list[Line]
    top: float
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def middle(self) -> float:
        return self.top / 2

    @property
    def empty(self) -> bool:
        """Whether there is nothing but zero to be seen."""
        return all(line.largest == 0 for line in self.lines)


def chart(series: Iterable[Series], *, least_top: float = 1.0, span: int | None = None) -> Chart:
    """Lines on one scale. `span`: how many values the whole width stands for; those that are missing are the oldest."""
    listed = list(series)
    largest = max((value for one in listed for value in one.values if value is not None), default=0.0)
    top = nice_top(max(largest, least_top))
    return Chart([_line(one, top, span or len(one.values)) for one in listed], top)


def nice_top(value: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, 50, … that is not below the value."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def _line(series: Series, top: float, span: int) -> Line:
    known = [value for value in series.values if value is not None]
    points, runs = _points(series.values, top, span), []
    run: list[str] = []
    for point in points:
        if point is None:
            if run:
                runs.append(run)
            run = []
        else:
            run.append(f"{point[0]:.1f},{point[1]:.1f}")
    if run:
        runs.append(run)
    path = "".join("M" + "L".join(run if len(run) > 1 else run * 2) for run in runs)
    area = "".join(
        f"M{run[0].split(',')[0]},{HEIGHT}L" + "L".join(run) + f"L{run[-1].split(',')[0]},{HEIGHT}Z" for run in runs
    )
    last = series.values[-1] if series.values else None
    return Line(series.name, series.kind, path, area, last, max(known, default=0.0))


def _points(values: Sequence[float | None], top: float, span: int) -> list[tuple[float, float] | None]:
    """At most 150 points; several values become their largest, so that no peak is lost."""
    width = max(span, len(values), 2) - 1
    step = max(1, math.ceil(max(span, len(values)) / _MOST_POINTS))
    points: list[tuple[float, float] | None] = []
    end = len(values)
    # Counted from the newest: the same seconds share a point as time goes on, as long as `step` divides it.
    first = end % step
    slices = ([values[:first]] if first else []) + [values[at : at + step] for at in range(first, end, step)]
    at = 0
    for part in slices:
        at += len(part)
        known = [value for value in part if value is not None]
        x = WIDTH * (1 - (end - at) / width)
        points.append((x, HEIGHT * (1 - min(max(known), top) / top)) if known else None)
    return points
