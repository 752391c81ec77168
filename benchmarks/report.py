"""What was measured and what it must reach: as a table for people, as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
from pathlib import Path
from typing import Any, Final

from msgspec import Struct


class Goal(Struct, frozen=True):
    unit: str
    must: float | None = None
    aim: float | None = None
    less_is_better: bool = False

    def missed(self, value: float) -> bool:
        return self.must is not None and (value > self.must if self.less_is_better else value < self.must)


GOALS: Final[dict[str, Goal]] = {
    "end_to_end_per_s": Goal("deliveries/s", 30_000, 50_000),
    "end_to_end_vs_aioapns": Goal("x", 7, 12),
    "end_to_end_vs_node_apn": Goal("x", 1, 2),
    "end_to_end_vs_gorush": Goal("x", 1, 2),
    "cpu_us_per_delivery": Goal("us", 30, 20, less_is_better=True),
    "cpu_vs_aioapns": Goal("of its CPU per push", less_is_better=True),
    "cpu_vs_node_apn": Goal("of its CPU per push", less_is_better=True),
    "cpu_vs_gorush": Goal("of its CPU per push", less_is_better=True),
    "engine_vs_h2load": Goal("x", 0.4, 0.6),
    "single_post_per_s": Goal("requests/s", 8_000, 15_000),
    "latency_ms_p50": Goal("ms", 5, 2, less_is_better=True),
    "latency_ms_p99": Goal("ms", 25, 10, less_is_better=True),
    "latency_limited_share": Goal("of 25,000/s", 0.90, 0.97),
    "growth_users": Goal("1 M users / 1 k", 0.8, 0.9),
    "growth_devices": Goal("10 devices / 1", 0.8, 0.9),
    "growth_backlog": Goal("1 M waiting / 1 k", 0.8, 0.9),
    "memory_mib": Goal("MiB", 300, 150, less_is_better=True),
    "fcm_share": Goal("of APNs", 0.8, 0.9),
    "get_push_per_s": Goal("requests/s", 8_000, 15_000),
    "isolation": Goal("beside failing lanes / alone", 0.9),
    "backlog_start_s": Goal("s", 5, less_is_better=True),
    "backlog_first_s": Goal("s", 1, less_is_better=True),
    "parked_start_s": Goal("s", 5, less_is_better=True),
    "parked_first_s": Goal("s", 1, less_is_better=True),
    "claim_growth": Goal("claim, 1 M waiting / 1 k", 1.2, less_is_better=True),
    "memory_flat": Goal("last minute / second", 1.1, less_is_better=True),
    "memory_flat_mib": Goal("MiB", 300, less_is_better=True),
    "search_ms": Goal("ms", less_is_better=True),
    "search_ms_max": Goal("ms, 10 M attempts", 300, less_is_better=True),
    "search_index_us": Goal("us CPU per event", less_is_better=True),
    "console_ms": Goal("ms", less_is_better=True),
    "console_ms_max": Goal("ms, 10 M attempts", 300, less_is_better=True),
    "console_cpu": Goal("CPU per delivery, with search and console / without", 1.1, less_is_better=True),
    "import_s": Goal("s, 1 M devices", 120, 60, less_is_better=True),
    "import_us_per_device": Goal("us CPU per device", less_is_better=True),
    "postgres_share": Goal("of the embedded store's rate", 0.7, 1.0),
    "postgres_cpu": Goal("of tocsin's CPU with the embedded store", 1.0, less_is_better=True),
    "postgres_per_s": Goal("deliveries/s"),
    "postgres_single_post_per_s": Goal("requests/s"),
    "postgres_single_post_share": Goal("of the embedded store's rate"),
    "embedded_latency_ms_p50": Goal("ms, by turns with PostgreSQL", less_is_better=True),
    "embedded_latency_ms_p99": Goal("ms, by turns with PostgreSQL", less_is_better=True),
    "postgres_latency_ms_p50": Goal("ms", less_is_better=True),
    "postgres_latency_ms_p99": Goal("ms", less_is_better=True),
    "postgres_growth_users": Goal("1 M users / 1 k", 0.8, 0.9),
    "postgres_backlog_start_s": Goal("s, 1 M waiting", 5, less_is_better=True),
    "postgres_backlog_first_s": Goal("s, 1 M waiting", 1, less_is_better=True),
    "postgres_parked_start_s": Goal("s, 1 M parked", 5, less_is_better=True),
    "postgres_parked_first_s": Goal("s, 1 M parked", 1, less_is_better=True),
    "postgres_two_nodes_cpu": Goal("two nodes / one, CPU per delivery", less_is_better=True),
    "postgres_search_ms": Goal("ms", less_is_better=True),
    "postgres_search_ms_max": Goal("ms, 10 M attempts", 300, less_is_better=True),
    "postgres_search_index_us": Goal("us CPU per event", less_is_better=True),
    "partitions_share": Goal("while partitions are attached, and a snapshot is held / before and after", 0.9),
    "partitions_answer_ms_max": Goal("ms, the longest answer meanwhile", 1000, less_is_better=True),
    "partitions_drop_share": Goal("while old days are dropped / before and after", 0.9),
    "partitions_drop_answer_ms_max": Goal("ms, the longest answer meanwhile", 1000, less_is_better=True),
    "postgres_console_ms": Goal("ms", less_is_better=True),
    "postgres_console_ms_max": Goal("ms, 10 M attempts", 300, less_is_better=True),
    "generator_alone_per_s": Goal("events/s"),
    "emulator_alone_per_s": Goal("pushes/s"),
    "emulator_cpu_us": Goal("us"),
    "aioapns_per_s": Goal("pushes/s"),
    "node_apn_per_s": Goal("pushes/s"),
    "gorush_per_s": Goal("pushes/s"),
}


class Figures:
    """Values of several rounds, by figure, and why a figure has none."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.reasons: dict[str, str] = {}
        self.samples: dict[str, list[float]] = {}
        """What the pictures are drawn from."""

    def add(self, name: str, value: float) -> None:
        assert name in GOALS, name
        self.values.setdefault(name, []).append(value)

    def absent(self, name: str, why: str) -> None:
        self.reasons[name] = why

    def take(self, other: Figures) -> None:
        self.values |= other.values
        self.reasons |= other.reasons
        self.samples |= other.samples

    def median(self, name: str) -> float | None:
        return statistics.median(self.values[name]) if name in self.values else None


def machine() -> dict[str, Any]:
    model = "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), model
        )
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()}",
        "payload": "fax_new, about 190 bytes of JSON",
        "durability": "SQLite WAL, synchronous=FULL",
        "latency_model": "none, but where a figure says 40 ms",
        "shared_with": "server, emulator and load generator run on this one machine",
    }


def table(figures: Figures) -> str:
    lines = [f"{'figure':24}{'median':>11}{'min':>11}{'max':>11}{'must':>9}{'aim':>9}  unit"]
    for name, goal in GOALS.items():
        must, aim = ("" if bound is None else f"{bound:,g}" for bound in (goal.must, goal.aim))
        values = figures.values.get(name)
        if not values:
            why = figures.reasons.get(name, "not measured")
            lines.append(f"{name:24}{'-':>11}{'':22}{must:>9}{aim:>9}  {why}")
            continue
        median = statistics.median(values)
        shown = "".join(
            f"{value:11,.2f}" if value < 1000 else f"{value:11,.0f}" for value in (median, min(values), max(values))
        )
        lines.append(f"{name:24}{shown}{must:>9}{aim:>9}  {goal.unit}{'   MISSED' if goal.missed(median) else ''}")
    return "\n".join(lines)


def write(figures: Figures, path: Path) -> None:
    """`end_to_end_per_s` as median, min and max, every other figure as its median, null with a reason where absent."""
    document: dict[str, Any] = {}
    for name in GOALS:
        values = figures.values.get(name)
        if not values:
            document[name] = None
        elif name == "end_to_end_per_s":
            document[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        else:
            document[name] = round(statistics.median(values), 4)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"machine": machine(), "figures": document, "rounds": figures.values, "reasons": figures.reasons}
    path.write_text(json.dumps(whole, indent=2) + "\n")
