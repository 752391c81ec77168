"""`python -m benchmarks --quick|--full`: every figure, a table, a JSON file, and the pictures of the docs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import figures, peers, pictures

_ROOT = Path(__file__).parents[1]

# figure: (unit, must, aim, whether less is better)
GOALS: dict[str, tuple[str, float | None, float | None, bool]] = {
    "end_to_end_per_s": ("deliveries/s", 30_000, 50_000, False),
    "end_to_end_vs_aioapns": ("x", 7, 12, False),
    "end_to_end_vs_node_apn": ("x", 1, 2, False),
    "end_to_end_vs_gorush": ("x", 1, 2, False),
    "cpu_us_per_delivery": ("us", 30, 20, True),
    "engine_vs_h2load": ("x", 0.4, 0.6, False),
    "single_post_per_s": ("requests/s", 8_000, 15_000, False),
    "latency_ms_p50": ("ms", 5, 2, True),
    "latency_ms_p99": ("ms", 25, 10, True),
    "latency_limited_share": ("of 25,000/s", 0.90, 0.97, False),
    "growth_users": ("1 M / 1 k users", 0.8, 0.9, False),
    "growth_devices": ("10 / 1 devices", 0.8, 0.9, False),
    "memory_mib": ("MiB", 300, 150, True),
    "fcm_share": ("of APNs", 0.8, 0.9, False),
    "get_push_per_s": ("requests/s", 8_000, 15_000, False),
    "isolation": ("beside sick lanes / alone", 0.9, None, False),
    "backlog_start_s": ("s", 5, None, True),
    "backlog_first_s": ("s", 1, None, True),
    "memory_flat": ("end / quarter", 1.1, None, True),
}


class Run:
    """Gathers values and reasons, and tells what is going on."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.reasons: dict[str, str] = {}

    def measure(self, what: str, figure: Callable[[], dict[str, list[float]]]) -> None:
        started = time.perf_counter()
        print(f"{what} … ", end="", flush=True)
        try:
            self.values |= figure()
            print(f"{time.perf_counter() - started:.0f} s")
        except Exception as error:
            self.reasons[what] = f"{type(error).__name__}: {error}"
            print(self.reasons[what])

    def median(self, name: str) -> float | None:
        return statistics.median(self.values[name]) if self.values.get(name) else None

    def ratio(self, name: str, peer: peers.Measured) -> None:
        rate, reason = peer
        if rate is None:
            self.reasons[name] = reason
        elif (own := self.values.get("end_to_end_per_s")) is not None:
            self.values[name] = [value / rate for value in own]


def _measure(sizes: figures.Sizes, full: bool) -> tuple[Run, list[float]]:
    run, waits = Run(), []
    run.measure("end to end", lambda: figures.end_to_end(sizes))
    apns = run.median("end_to_end_per_s") or 1.0
    count = 20_000 if full else 4_000
    for name, peer in (("aioapns", peers.aioapns), ("node_apn", peers.node_apn), ("gorush", peers.gorush)):
        print(f"{name} … ", end="", flush=True)
        try:
            found = peer(count)
        except Exception as error:
            found = (None, f"{type(error).__name__}: {error}")
        run.ratio(f"end_to_end_vs_{name}", found)
        print(f"{found[0]:,.0f}/s" if found[0] else found[1])
    run.measure("FCM", lambda: figures.fcm(sizes, apns))
    run.measure("single events", lambda: figures.single_posts(sizes))

    def latency() -> dict[str, list[float]]:
        values, measured = figures.latency(sizes)
        waits.extend(measured)
        return values

    run.measure("latency", latency)
    run.measure("provider with 40 ms", lambda: figures.latency_limited(sizes))
    shares, reason = peers.engine(100_000 if full else 20_000)
    if shares is None:
        run.reasons["engine_vs_h2load"] = reason
    else:
        run.values["engine_vs_h2load"] = shares
    if full:
        run.measure("ten devices each", lambda: figures.ten_devices(sizes, apns))
        run.measure("isolation", lambda: figures.isolation(sizes))
        run.measure("growth of users", lambda: figures.growth_users(sizes))
        run.measure("backlog", lambda: figures.backlog(sizes))
        run.measure("flat memory", lambda: figures.memory_flat(sizes))
    else:
        for name in (
            "growth_users",
            "growth_devices",
            "isolation",
            "backlog_start_s",
            "backlog_first_s",
            "memory_flat",
        ):
            run.reasons[name] = "in the full run only"
    return run, waits


def _machine() -> dict[str, Any]:
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


def _table(run: Run) -> None:
    print(f"\n{'figure':26}{'median':>12}{'min':>12}{'max':>12}{'must':>10}{'aim':>10}  unit")
    for name, (unit, must, aim, less) in GOALS.items():
        values = run.values.get(name)
        if not values:
            print(f"{name:26}{'-':>12}{'':24}{must or '':>10}{aim or '':>10}  {run.reasons.get(name, 'not measured')}")
            continue
        median = statistics.median(values)
        missed = must is not None and (median > must if less else median < must)
        shown = "".join(
            f"{value:12,.2f}" if value < 1000 else f"{value:12,.0f}" for value in (median, min(values), max(values))
        )
        print(f"{name:26}{shown}{must or '':>10}{aim or '':>10}  {unit}{'   MISSED' if missed else ''}")


def _write(run: Run, path: Path) -> None:
    document: dict[str, Any] = {}
    for name in GOALS:
        values = run.values.get(name)
        if not values:
            document[name] = None
        elif name == "end_to_end_per_s":
            document[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        else:
            document[name] = round(statistics.median(values), 4)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": _machine(), "figures": document, "reasons": run.reasons}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--quick", action="store_true", help="about a minute")
    choice.add_argument("--full", action="store_true", help="some ten minutes; draws the pictures of the docs")
    full = parser.parse_args().full
    for key, value in _machine().items():
        print(f"{key + ':':15}{value}")
    run, waits = _measure(figures.FULL if full else figures.QUICK, full)
    _table(run)
    out = _ROOT / "benchmarks" / "out" / f"{'full' if full else 'quick'}.json"
    _write(run, out)
    if full:
        pictures.draw(run.values, waits, _ROOT / "docs" / "images")
    print(f"\nwritten to {out.relative_to(_ROOT)}")


if __name__ == "__main__":
    main()
