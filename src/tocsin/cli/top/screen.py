"""What `tocsin top` shows: figures as text and tables that fit the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tocsin.api.admin.figures import FiguresView
from tocsin.api.lane_views import LaneView
from tocsin.cli.output import cut_middle, utc_of
from tocsin.domain.routes import LaneState

_BARS: Final = " ▁▂▃▄▅▆▇█"
_NARROW: Final = 45
"""In fewer columns than these a lane's line does not say how much is on the wire."""
_LEAST_NAME: Final = 9
_STATE_STYLE: Final[dict[str, str]] = {LaneState.RUNNING: "green", LaneState.OPEN: "red", LaneState.PAUSED: "yellow"}


class Screen:
    """The figures of one moment. `trouble` says why there are no newer ones."""

    def __init__(self, figures: FiguresView, url: str, trouble: str = "") -> None:
        self._figures = figures
        self._url = url
        self._trouble = trouble

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Group(*self._parts(options.max_width))

    def _parts(self, width: int) -> list[RenderableType]:
        figures = self._figures
        head = f"tocsin {figures.version}  {self._url}  {utc_of(figures.at)}"
        parts: list[RenderableType] = [Text(head, style="bold", no_wrap=True, overflow="ellipsis")]
        if self._trouble:
            parts.append(Text(f"no newer figures: {self._trouble}", style="bold red"))
        parts += [Text(f"not ready: {one}", style="red") for one in figures.problems]
        parts += [Text(), _facts(figures), Text()]
        if figures.history:
            parts += [_chart("sent per second", [one.sent for one in figures.history], width), Text()]
        parts += _lanes(figures.lanes, width)
        if len(figures.nodes) > 1:
            parts += [Text(), _nodes(figures)]
        return parts


def _facts(figures: FiguresView) -> Table:
    rates, totals = figures.per_second, figures.totals
    latency, backlog = figures.latency_ms, figures.backlog
    oldest = "" if backlog.oldest_s is None else f", the oldest {_seconds(backlog.oldest_s)} old"
    facts = {"of": _whose(figures)} if len(figures.nodes) > 1 else {}
    facts |= {
        "per second": f"{rates.accepted:,.1f} accepted, {rates.sent:,.1f} sent, {rates.failed:,.1f} failed",
        "since start": f"{totals.accepted:,} accepted, {totals.sent:,} sent, {totals.failed:,} failed",
        "latency": f"p50 {_ms(latency.p50)}, p90 {_ms(latency.p90)}, p99 {_ms(latency.p99)}",
        "backlog": f"{backlog.events:,} events, {_size(backlog.size_bytes)}{oldest}",
        "dead letters": f"{figures.dead_letters:,}",
    }
    if figures.quarantined:
        facts["quarantine"] = ", ".join(figures.quarantined)
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in facts.items():
        table.add_row(Text(name, style="dim", no_wrap=True), Text(value))
    return table


def _whose(figures: FiguresView) -> str:
    """Whose rates, totals and latency these are."""
    living = [one.node for one in figures.nodes if not one.gone]
    untold = [name for name in living if name not in figures.of_nodes]
    if untold:
        return f"{len(figures.of_nodes)} of {len(living)} nodes together, without {', '.join(untold)}"
    return f"{len(figures.of_nodes)} nodes together"


def _chart(name: str, values: Sequence[float], width: int) -> Text:
    """The newest values as bars, one character each."""
    shown = values[-max(1, width - 30) :]
    most = max(shown)
    top = len(_BARS) - 1
    # What is more than nothing is to be seen.
    bars = "".join(_BARS[max(1 if one else 0, round(one / most * top))] if most else _BARS[0] for one in shown)
    label = f"{name:<16}"
    return Text.assemble((label, "dim"), (bars, "cyan"), (f" ≤ {most:,.0f}", "dim"), no_wrap=True, overflow="ellipsis")


def _lanes(lanes: Sequence[LaneView], width: int) -> list[Text]:
    """A line for each lane, those that do not run first; the reasons follow, each whole."""
    if not lanes:
        return [Text("no lanes yet: nothing was sent since the start", style="dim")]
    ordered = sorted(lanes, key=lambda one: (one.state == LaneState.RUNNING, one.name))
    rows = [("state", "wire", "memory"), *((one.state, f"{one.in_flight:,}", f"{one.waiting:,}") for one in ordered)]
    if width < _NARROW:
        rows = [(state, "", waiting) for state, _, waiting in rows]
    widths = [max(len(cell) for cell in cells) for cells in zip(*rows, strict=True)]
    most = max(_LEAST_NAME, width - sum(widths) - 2 * sum(one > 0 for one in widths))
    names = [cut_middle(name, most) for name in ("lane", *(one.name for one in ordered))]
    longest = max(len(name) for name in names)
    lines: list[Text] = []
    for name, (state, wire, waiting) in zip(names, rows, strict=True):
        style = _STATE_STYLE.get(state, "")
        counts = [f"  {cell:>{wide}}" for cell, wide in ((wire, widths[1]), (waiting, widths[2])) if wide]
        line = Text(style="" if lines else "bold", no_wrap=True, overflow="ellipsis")
        line.append(f"{name:<{longest}}  ").append(f"{state:<{widths[0]}}", style=style).append("".join(counts))
        lines.append(line)
    lines += [Text(f"{one.name}: {one.reason}", style="yellow") for one in ordered if one.reason]
    for one in ordered:
        # Of a lane that runs, what is parked waits for its next attempt alone.
        if one.parked_due_at is not None and one.state != LaneState.RUNNING:
            lines.append(Text(f"{one.name}: more waits in the store, the first due at {one.parked_due_at[11:19]} UTC"))
    return lines


def _nodes(figures: FiguresView) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for name in ("node", "version", "told"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for node in figures.nodes:
        told = f"{_seconds(node.age_s)} ago"
        table.add_row(
            Text(node.node), node.version, Text(f"{told}: gone" if node.gone else told, "red" if node.gone else "")
        )
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} ms"


def _seconds(value: float) -> str:
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if value >= 2 * seconds:
            return f"{value / seconds:.0f} {unit}"
    return f"{value:.0f} s"


def _size(count: int) -> str:
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
