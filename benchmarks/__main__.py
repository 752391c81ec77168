"""`python -m benchmarks --quick|--full`: every figure, a table, a JSON file, and the pictures of the docs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    console,
    engine,
    moving_in,
    partitions,
    pictures,
    postgres,
    report,
    search,
    search_postgres,
    service,
    throughput,
)
from benchmarks.report import Figures
from benchmarks.sizes import FULL, QUICK, Sizes

_ROOT = Path(__file__).parents[1]
_FULL_ONLY = "in the full run only"


def _engine(sizes: Sizes) -> Figures:
    figures = Figures()
    try:
        for share in engine.against_h2load(sizes.events, sizes.rounds):
            figures.add("engine_vs_h2load", share)
    except engine.Absent as absent:
        figures.absent("engine_vs_h2load", str(absent))
    return figures


Measure = Callable[[Sizes], Figures]

SHORT: dict[str, Measure] = {
    "shapes": throughput.shapes,
    "single events": service.single_posts,
    "latency": service.latency,
    "a provider with 40 ms": throughput.stream_limited,
    "engine": _engine,
}
LONG: dict[str, Measure] = {
    "isolation": throughput.isolation,
    "growth of users": throughput.growth_users,
    "backlog": service.backlog,
    "parked backlog": service.parked,
    "memory": service.memory,
    "searches": search.searches,
    "console": console.pages,
    "CPU of the console": console.cpu,
    "moving in": moving_in.moving_in,
    "PostgreSQL": postgres.against_embedded,
    "latency on PostgreSQL": postgres.latency,
    "growth on PostgreSQL": postgres.growth,
    "two nodes": postgres.nodes,
    "searches on PostgreSQL": search_postgres.searches,
    "console on PostgreSQL": console.pages_on_postgres,
    "partitions": partitions.coming_and_going,
}
FIGURES_OF_LONG = (
    "isolation",
    "growth_users",
    "growth_backlog",
    "claim_growth",
    "backlog_start_s",
    "backlog_first_s",
    "parked_start_s",
    "parked_first_s",
    "memory_flat",
    "memory_flat_mib",
    "search_ms",
    "search_ms_max",
    "search_index_us",
    "console_ms",
    "console_ms_max",
    "console_cpu",
    "import_s",
    "import_us_per_device",
    *(name for name in report.GOALS if name.startswith(("postgres_", "embedded_", "partitions_"))),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--quick", action="store_true", help="under a minute")
    choice.add_argument("--full", action="store_true", help="about twenty minutes; draws the pictures of the docs")
    parser.add_argument("--only", metavar="NAME", help="one part: end to end, or one of " + ", ".join([*SHORT, *LONG]))
    arguments = parser.parse_args()
    full, sizes = arguments.full, FULL if arguments.full else QUICK
    for key, value in report.machine().items():
        print(f"{key + ':':15}{value}")
    peers = ("aioapns", "node_apn", "gorush") if full else ("aioapns", "node_apn")
    parts: dict[str, Measure] = {"end to end": lambda sizes: throughput.end_to_end(sizes, peers), **SHORT}
    if full:
        parts |= LONG
    figures = Figures()
    if not full:
        for name in FIGURES_OF_LONG:
            figures.absent(name, _FULL_ONLY)
    for name, measure in parts.items():
        if arguments.only in (None, name):
            started = time.perf_counter()
            print(f"{name} … ", end="", flush=True)
            figures.take(measure(sizes))
            print(f"{time.perf_counter() - started:.0f} s", flush=True)
    print(f"\n{report.table(figures)}")
    if arguments.only is None:
        out = _ROOT / "benchmarks" / "out" / f"{'full' if full else 'quick'}.json"
        report.write(figures, out)
        print(f"\nwritten to {out.relative_to(_ROOT)}")
        if full:
            pictures.draw(figures, _ROOT / "docs" / "images")


if __name__ == "__main__":
    main()
