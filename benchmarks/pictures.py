"""The pictures of the docs, as SVG: bars for rates, a curve for latencies."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

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


def draw(values: dict[str, list[float]], waits: Sequence[float], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    own = statistics.median(values.get("end_to_end_per_s", [0]))
    rows = [("tocsin, durable, end to end", own)]
    for name, label in (("node_apn", "@parse/node-apn, from memory"), ("aioapns", "aioapns, from memory")):
        if ratio := values.get(f"end_to_end_vs_{name}"):
            rows.append((label, own / statistics.median(ratio)))
    if own:
        (directory / "throughput.svg").write_text(bars("Deliveries a second, one process, two cores", rows))
    if waits:
        title = "From the start of the POST to the provider, 2,000 events a second"
        (directory / "latency.svg").write_text(distribution(title, waits))
    growth = [("1 device, 100,000 users", own)]
    for name, label in (("growth_devices", "10 devices each"), ("growth_users", "1,000,000 users")):
        if ratio := values.get(name):
            growth.append((label, own * statistics.median(ratio)))
    if own and len(growth) > 1:
        (directory / "growth.svg").write_text(bars("Deliveries a second as it grows", growth))
