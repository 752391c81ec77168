"""What every figure must reach, and what it aims at: the tables of the issues."""

from __future__ import annotations

from typing import NamedTuple


class Goal(NamedTuple):
    unit: str
    must: float | None = None
    aim: float | None = None
    less_is_better: bool = False

    def missed_by(self, value: float) -> bool:
        if self.must is None:
            return False
        return value > self.must if self.less_is_better else value < self.must


FIGURES = {
    "end_to_end_per_s": Goal("deliveries/s", 30_000, 50_000),
    "end_to_end_vs_aioapns": Goal("x", 7, 12),
    "end_to_end_vs_node_apn": Goal("x", 1, 2),
    "end_to_end_vs_gorush": Goal("x", 1, 2),
    "cpu_us_per_delivery": Goal("us", 30, 20, True),
    "engine_vs_h2load": Goal("x", 0.4, 0.6),
    "single_post_per_s": Goal("requests/s", 8_000, 15_000),
    "latency_ms_p50": Goal("ms", 5, 2, True),
    "latency_ms_p99": Goal("ms", 25, 10, True),
    "latency_limited_share": Goal("of 25,000/s", 0.90, 0.97),
    "growth_users": Goal("1 M / 1 k users", 0.8, 0.9),
    "memory_mib": Goal("MiB", 300, 150, True),
    "fcm_share": Goal("of APNs", 0.8, 0.9),
    "get_push_per_s": Goal("requests/s", 8_000, 15_000),
}
"""What `figures` of the JSON file has, no more and no less."""

MORE = {
    "growth_devices": Goal("10 / 1 devices", 0.8, 0.9),
    "growth_backlog": Goal("1 M / 1 backlog", 0.8, 0.9),
    "isolation": Goal("beside sick lanes / alone", 0.9),
    "backlog_start_s": Goal("s, 1 M waiting", 5, None, True),
    "backlog_first_s": Goal("s after the start", 1, None, True),
    "backlog_claim": Goal("1 M / 1 k, time of a claim", 1.5, 1, True),
    "memory_flat": Goal("end / first quarter", 1.1, None, True),
    "aioapns_per_s": Goal("deliveries/s, from memory"),
    "node_apn_per_s": Goal("deliveries/s, from memory"),
    "gorush_per_s": Goal("deliveries/s, from memory"),
    "fcm_per_s": Goal("deliveries/s"),
    "emulator_alone_per_s": Goal("deliveries/s, offered by h2load"),
    "generator_batch_alone_per_s": Goal("events/s, to a sink"),
    "generator_single_alone_per_s": Goal("requests/s, to a sink"),
    "generator_late_ms_p99": Goal("ms behind schedule, p99"),
    "engine_per_s": Goal("requests/s"),
    "h2load_per_s": Goal("requests/s"),
}
"""What other issues ask for, and what explains the figures."""
