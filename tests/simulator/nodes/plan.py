"""From a seed to a plan for several nodes."""

from __future__ import annotations

from random import Random
from typing import Final

from tests.simulator.network import Latency
from tests.simulator.plan import Plan

TROUBLES: Final = (
    *("suspends", "crashes", "cuts", "drops", "swallowed", "away", "ended", "rolling", "clocks"),
    *("deaths", "operator", "letters"),
)
_MOST_SKEW_S: Final = 45.0


class NodesPlan(Plan, frozen=True, kw_only=True):
    nodes: int
    way_s: float
    """How long something takes between a node and the database, on average."""
    narrow: bool
    """So little is sent at once that deliveries wait in memory."""
    skews_s: tuple[float, ...]
    """By how much each node's own clock is ahead of the database's and the providers'."""


def make_plan(seed: int, *, troubles: frozenset[str] | None = None) -> NodesPlan:
    """The seed's plan; where `troubles` are given, with these in place of those that the seed draws."""
    random = Random(f"{seed}:nodes")
    nodes = random.choice((2, 2, 3))
    drawn = _troubles(random)
    narrow = random.random() < 0.4
    return NodesPlan(
        seed=seed,
        troubles=drawn if troubles is None else troubles,
        bad_provider=random.choice(("apns", "fcm")),
        fault_s=random.uniform(30, 70),
        owners=random.choice((random.randint(1, 3), random.randint(4, 24))),
        most_phones=random.randint(1, 3),
        rich_owners=0,
        rich_phones=0,
        churn=random.random() < 0.8,
        wrong_environments=False,
        event_every_s=4.0 if narrow else random.choice((0.5, 1.5, 4.0)),
        most_events_at_once=20 if narrow else random.choice((1, 1, 5)),
        body_bytes=20,
        lifetime_s=28 * 24 * 3600.0,
        repeats=random.random() < 0.4,
        trouble_every_s=random.choice((3.0, 6.0, 12.0)),
        latency=Latency(random.choice((0.001, 0.01)), random.choice((0.002, 0.02))),
        provider_latency_ms=(200.0, 600.0) if narrow else random.choice(((2.0, 10.0), (30.0, 150.0), (100.0, 600.0))),
        commit_s=random.choice((0.001, 0.005, 0.02, 0.1)),
        max_streams=random.choice((100, 1000)),
        start_with_one_stream=False,
        token_update_interval_s=0.0,
        lane_in_flight=2 if narrow else 1000,
        lane_waiting=4000,
        request_timeout_s=10.0,
        lease_s=random.choice((30.0, 60.0)),
        nodes=nodes,
        narrow=narrow,
        way_s=random.choice((0.0003, 0.001, 0.005)),
        skews_s=tuple([random.uniform(-_MOST_SKEW_S, _MOST_SKEW_S) for _ in range(nodes)]),
    )


def _troubles(random: Random) -> frozenset[str]:
    share = random.random()
    if share < 0.1:
        return frozenset()
    if share < 0.6:
        return frozenset(random.sample(TROUBLES, random.randint(1, 2)))
    return frozenset([name for name in TROUBLES if random.random() < 0.5])
