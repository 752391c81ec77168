"""The pictures of the docs, as SVG: bars for rates, curves for latencies and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Figures

_WIDTH, _BAR, _LEFT = 720, 34, 230


def _svg(height: int, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif"'
        f' font-size="14"><rect width="100%" height="100%" fill="white"/>{body}</svg>\n'
    )


def bars(title: str, rows: Sequence[tuple[str, float]]) -> str:
    """One bar a row, with its number."""
    largest = max(value for _, value in rows)
    parts = [f'<text x="10" y="24" font-weight="bold">{title}</text>']
    for index, (label, value) in enumerate(rows):
        y = 42 + index * _BAR
        width = max(2.0, value / largest * (_WIDTH - _LEFT - 110))
        parts.append(f'<text x="10" y="{y + 19}">{label}</text>')
        parts.append(f'<rect x="{_LEFT}" y="{y + 3}" width="{width:.0f}" height="{_BAR - 10}" fill="#b5483a"/>')
        parts.append(f'<text x="{_LEFT + width + 8:.0f}" y="{y + 19}">{value:,.0f}</text>')
    return _svg(52 + len(rows) * _BAR, "".join(parts))


def distribution(title: str, values: Sequence[float]) -> str:
    """How many percent were done within so many milliseconds."""
    ordered = sorted(values)
    most = ordered[int(len(ordered) * 0.999)] or 1.0
    points = []
    for percent in range(1000):
        value = ordered[int(len(ordered) * percent / 1000)]
        points.append(f"{60 + value / most * (_WIDTH - 90):.1f},{250 - percent / 1000 * 200:.1f}")
    marks = "".join(
        f'<text x="{60 + most * part / 4 / most * (_WIDTH - 90):.0f}" y="272" text-anchor="middle">'
        f"{most * part / 4:.1f} ms</text>"
        for part in range(5)
    )
    body = (
        f'<text x="10" y="24" font-weight="bold">{title}</text><text x="10" y="55">100 %</text>'
        f'<text x="10" y="253">0 %</text>{marks}'
        f'<polyline fill="none" stroke="#b5483a" stroke-width="2" points="{" ".join(points)}"/>'
    )
    return _svg(285, body)


def curve(title: str, samples: Sequence[tuple[float, float]], unit: str) -> str:
    """A quantity over time (seconds), from zero."""
    ends, most = samples[-1][0], max(value for _, value in samples) * 1.1
    points = " ".join(f"{60 + at / ends * (_WIDTH - 90):.1f},{250 - value / most * 200:.1f}" for at, value in samples)
    marks = "".join(
        f'<text x="{60 + part / 4 * (_WIDTH - 90):.0f}" y="272" text-anchor="middle">{ends * part / 4:.0f} s</text>'
        for part in range(5)
    )
    body = (
        f'<text x="10" y="24" font-weight="bold">{title}</text><text x="10" y="55">{most:.0f} {unit}</text>'
        f'<text x="10" y="253">0</text>{marks}'
        f'<polyline fill="none" stroke="#b5483a" stroke-width="2" points="{points}"/>'
    )
    return _svg(285, body)


def draw(figures: Figures, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    own = figures.median("end_to_end_per_s")
    if own is None:
        return
    rows = [("tocsin, durable, end to end", own)]
    for name, label in (("gorush", "gorush"), ("node_apn", "@parse/node-apn"), ("aioapns", "aioapns")):
        if (rate := figures.median(f"{name}_per_s")) is not None:
            rows.append((f"{label}, from memory", rate))
    (directory / "throughput.svg").write_text(bars("Deliveries a second, two cores shared with the emulator", rows))
    growth = [("1 device each", own)]
    for name, label in (
        ("growth_devices", "10 devices each"),
        ("growth_users", "1,000,000 users for 1,000"),
        ("growth_backlog", "1,000,000 events waiting"),
    ):
        if (ratio := figures.median(name)) is not None:
            growth.append((label, own * ratio))
    (directory / "growth.svg").write_text(bars("Deliveries a second as it grows (ratios of one run)", growth))
    if waits := figures.samples.get("latency_ms"):
        title = "From the start of the POST to the provider, 2,000 events a second"
        (directory / "latency.svg").write_text(distribution(title, waits))
    if memory := figures.samples.get("memory"):
        pairs = list(zip(memory[::2], memory[1::2], strict=True))
        title = "Resident memory under a producer ten times faster than the provider"
        (directory / "memory.svg").write_text(curve(title, pairs, "MiB"))
