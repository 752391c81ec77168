"""The plan for 100 million devices and a million events a second, worked out: `python -m benchmarks.plan` prints it.

docs/scale.md has the two tables, and a test compares them with what this prints. Each value is a demand, a measurement
with its source, a choice, or follows from those by the formula that stands beside it.
"""

from __future__ import annotations

from math import ceil
from typing import Final

DAY_S: Final = 86_400

# -- the demand --------------------------------------------------------------------------------------------------------
DEVICES: Final = 100_000_000
PEAK_EVENTS_PER_S: Final = 1_000_000
DEVICES_PER_OWNER: Final = 2
"""One of them Apple's, one Google's."""
MEAN_OF_PEAK: Final = 0.25
"""The mean of a day, as a part of its peak."""
ANSWER_S: Final = 0.1
"""How long a provider takes to answer a push. To be measured on your own way to them."""
RETENTION_DAYS: Final = 1

# -- measured ----------------------------------------------------------------------------------------------------------
DELIVERY_US: Final = 36.8
"""CPU of tocsin per delivery, in a slow hour of the machine: docs/performance.md (`cpu_us_per_delivery`)."""
POSTS_PER_S: Final = 8_691
"""Requests of one event on two cores, which PostgreSQL shares (docs/performance.md, `postgres_single_post_per_s`)."""
EVENTS_PER_S: Final = 21_865
"""From ingest to receipt, on two cores that PostgreSQL shares with everything else (`postgres_per_s`). What one on a
machine of its own can do was not measured, so no cell is given more."""
POSTGRES_US: Final = 25
"""CPU of PostgreSQL per event with one delivery, the search's index included (docs/performance.md, On PostgreSQL)."""
EVENT_BYTES: Final = 495 + 122 + 351
"""On disk, indexes included, for a content of 242 bytes and one delivery: event, id, settlement (20,000 events)."""
DELIVERY_BYTES: Final = 150
"""What a further delivery of the same event adds to its settlement: its receipt, as text."""
WAL_BYTES: Final = 749 + 423
"""In the write-ahead log per event, append and settlement."""
DEVICE_BYTES: Final = 479
"""On disk, indexes included."""

# -- chosen ------------------------------------------------------------------------------------------------------------
PART_OF_CORE: Final = 0.6
"""How busy a process is at the peak: one of them may be gone, and the others take its share."""
STREAMS_APPLE: Final = 1_000
STREAMS_GOOGLE: Final = 100
"""Pushes at once on one connection, as the providers announce it."""
GOOGLE_PER_S: Final = 600_000 / 60
"""Google's quota of a project by default ("FCM throttling and quotas")."""
CORES_DATABASE: Final = 8
DATABASES: Final = 3
"""A primary with two standbys, one of which is waited for."""
CORES_NODE: Final = 2
DOLLARS_CORE_HOUR: Final = 0.04
DOLLARS_GB_MONTH: Final = 0.10
"""Prices of a common cloud, rounded; put your own in."""

# -- what follows ------------------------------------------------------------------------------------------------------
CELLS: Final = ceil(PEAK_EVENTS_PER_S / EVENTS_PER_S)
EVENTS: Final = PEAK_EVENTS_PER_S / CELLS
PUSHES: Final = EVENTS * DEVICES_PER_OWNER
MEAN_EVENTS: Final = EVENTS * MEAN_OF_PEAK
DELIVERY_CORES: Final = PUSHES * DELIVERY_US / 1e6
DELIVERY_NODES: Final = ceil(DELIVERY_CORES / PART_OF_CORE) + 1
API_NODES: Final = ceil(EVENTS / (POSTS_PER_S * PART_OF_CORE)) + 1
POSTGRES_CORES: Final = EVENTS * POSTGRES_US / 1e6
GB_DAY: Final = MEAN_EVENTS * DAY_S * (EVENT_BYTES + (DEVICES_PER_OWNER - 1) * DELIVERY_BYTES) / 1e9
GB_DISK: Final = GB_DAY * (RETENTION_DAYS + 2) + DEVICES / CELLS * DEVICE_BYTES / 1e9
GB_WAL_DAY: Final = MEAN_EVENTS * DAY_S * WAL_BYTES / 1e9
TO_EACH: Final = PUSHES / 2
AT_ONCE: Final = TO_EACH * ANSWER_S
CORES: Final = DATABASES * CORES_DATABASE + (API_NODES + DELIVERY_NODES) * CORES_NODE
DOLLARS_HOUR: Final = CORES * DOLLARS_CORE_HOUR + DATABASES * GB_DISK * DOLLARS_GB_MONTH / 730
MILLION_PUSHES_HOUR: Final = MEAN_EVENTS * DEVICES_PER_OWNER * 3600 / 1e6


def tables() -> str:
    cell = [
        ("cells", f"{CELLS}", f"1,000,000 events/s ÷ {EVENTS_PER_S:,}"),
        ("events at the peak", f"{EVENTS:,.0f}/s", f"1,000,000 ÷ {CELLS}"),
        ("pushes at the peak", f"{PUSHES:,.0f}/s", "two devices for each event"),
        ("devices", f"{DEVICES / CELLS / 1e6:.1f} million", f"100 million ÷ {CELLS}"),
        (
            "PostgreSQL: CPU",
            f"{POSTGRES_CORES:.2f} cores",
            f"{EVENTS:,.0f} × {POSTGRES_US} µs; given {CORES_DATABASE}",
        ),
        ("delivery: CPU", f"{DELIVERY_CORES:.2f} cores", f"{PUSHES:,.0f} × {DELIVERY_US:.1f} µs"),
        ("delivery nodes", f"{DELIVERY_NODES}", f"{DELIVERY_CORES:.2f} ÷ 0.6, and one to spare"),
        (
            "API nodes",
            f"{API_NODES}",
            f"{EVENTS:,.0f} ÷ ({POSTS_PER_S:,} × 0.6), each event a request, and one to spare",
        ),
        (
            "written a day",
            f"{GB_DAY:,.0f} GB",
            f"{MEAN_EVENTS:,.0f}/s × 86,400 s × ({EVENT_BYTES} + {DELIVERY_BYTES}) bytes",
        ),
        (
            "disk",
            f"{GB_DISK / 1000:.1f} TB",
            "three days (one of retention, the one that ends, today), and the devices",
        ),
        (
            "write-ahead log a day",
            f"{GB_WAL_DAY:,.0f} GB",
            f"{MEAN_EVENTS:,.0f}/s × 86,400 s × {WAL_BYTES:,} bytes, to each standby too",
        ),
        ("write-ahead log at the peak", f"{EVENTS * WAL_BYTES / 1e6:.0f} MB/s", f"{EVENTS:,.0f} × {WAL_BYTES:,} bytes"),
        (
            "connections to Apple",
            f"{max(DELIVERY_NODES, ceil(AT_ONCE / STREAMS_APPLE))}",
            f"{AT_ONCE:,.0f} at once ÷ 1,000, at least one a node",
        ),
        (
            "connections to Google",
            f"{max(DELIVERY_NODES, ceil(AT_ONCE / STREAMS_GOOGLE))}",
            f"{AT_ONCE:,.0f} at once ÷ 100",
        ),
        (
            "cores",
            f"{CORES}",
            f"{DATABASES} × {CORES_DATABASE} for the database,"
            f" {CORES_NODE} for each of {API_NODES + DELIVERY_NODES} nodes",
        ),
        (
            "dollars per million pushes",
            f"{DOLLARS_HOUR / MILLION_PUSHES_HOUR:.3f}",
            f"{DOLLARS_HOUR:.2f} an hour ÷ {MILLION_PUSHES_HOUR:.0f} million at the mean rate",
        ),
    ]
    whole = [
        ("cores", f"{CELLS * CORES:,}", f"{CELLS} × {CORES}"),
        ("written a day", f"{CELLS * GB_DAY / 1000:.0f} TB", f"{CELLS} × {GB_DAY:,.0f} GB"),
        (
            "pushes a day",
            f"{CELLS * MILLION_PUSHES_HOUR * 24 / 1e3:.0f} thousand million",
            f"{CELLS} × {MILLION_PUSHES_HOUR:.0f} million × 24",
        ),
        (
            "quota at Google",
            f"{CELLS * TO_EACH / GOOGLE_PER_S:.0f} × the default",
            f"{CELLS * TO_EACH:,.0f}/s ÷ {GOOGLE_PER_S:,.0f}/s of one project",
        ),
        ("a cell that is down", f"{1 / CELLS:.1%} of the users", f"1 ÷ {CELLS}"),
    ]
    return f"{_table('one cell', cell)}\n{_table('all cells', whole)}"


def _table(of: str, rows: list[tuple[str, str, str]]) -> str:
    lines = [f"| {of} | | how |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
