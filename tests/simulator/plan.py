"""From a seed to a plan: how large the world is, which kinds of trouble it has, and for how long.

Each seed leaves most kinds out (swarm testing: Groce et al., 2012): a fault shows better without the others around it.
"""

from __future__ import annotations

from enum import StrEnum
from random import Random
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tests.simulator.network import Latency

TROUBLES: Final = (
    *("devices", "deaths", "topics", "applications", "provider", "network"),
    *("disk", "clock", "crashes", "restarts", "operator"),
)
_MORE: Final = ("suspends", "hours", "io", "fuse", "letters", "floods", "crowds", "quotas")
"""Kinds that are drawn apart, on top of those of `TROUBLES`, where there are any."""
PRODUCERS: Final = 2
_MOST_DELIVERIES_A_SECOND: Final = 40.0
"""On average: a simulated delivery costs about half a millisecond of real time."""
_MOST_SKEW_S: Final = 50.0
"""Apple and Google allow a minute."""
_DELIVERIES_A_SECOND_TO_COUNT: Final = 6.0
_DELIVERIES_A_SECOND_BESIDE_A_FLOOD: Final = 3.0
_FLOOD_DELIVERIES_A_SECOND: Final = 30.0
_MOST_POOR, _MOST_RICH = 25, 3
MOST_OWNERS: Final = _MOST_POOR + _MOST_RICH
DAY_S: Final = 24 * 3600.0
_MOST_QUIET_OF_RICH_S: Final = DAY_S
"""What waits is tried again every hour, to every phone."""
_SHORT_S: Final = (8.0, 30.0)
_MOST_OWNERS_OF_SHORT: Final = 8
_MOST_PHONES_OF_SHORT: Final = 30
_TROUBLES_OF_SHORT: Final = 4
"""At least so many may begin in one, on average."""
_LONG_ENOUGH_S: Final = 60.0
_SOME_MINUTES_S: Final = 150.0
_MILD: Final = ("devices", "deaths", "topics", "applications", "provider", "network", "operator")


class Size(StrEnum):
    """How large a seed is, and how long it takes. Most are short, so that there are many."""

    SHORT = "short"
    LARGE = "large"
    """More users, and minutes of faults."""
    DAYS = "days"
    """Short ones, and after each of them a quiet time."""
    WEEKS = "weeks"


_SHARES: Final = {Size.SHORT: 0.77, Size.LARGE: 0.09, Size.DAYS: 0.12, Size.WEEKS: 0.02}


class Plan(Struct, frozen=True, kw_only=True):
    seed: int
    troubles: frozenset[str]
    """What goes wrong, of `TROUBLES`; empty is a run without faults."""
    bad_provider: str
    """The provider whose troubles may be as broad as the provider; the other has none that are."""
    fault_s: float
    """For how long things go wrong."""
    owners: int
    most_phones: int
    rich_owners: int
    """Owners with `rich_phones` phones each."""
    rich_phones: int
    churn: bool
    """Users register and delete while the run goes on."""
    wrong_environments: bool
    event_every_s: float
    most_events_at_once: int
    body_bytes: int
    """The text of a chat message has up to so many."""
    lifetime_s: float
    """Of events that are not urgent."""
    repeats: bool
    """Producers repeat what was accepted."""
    trouble_every_s: float
    latency: Latency
    provider_latency_ms: tuple[float, float]
    """Mean and 99th percentile."""
    commit_s: float
    max_streams: int
    start_with_one_stream: bool
    token_update_interval_s: float
    lane_in_flight: int
    lane_waiting: int
    request_timeout_s: float
    lease_s: float
    two_projects: bool = False
    """Whether Google's phones are of two projects."""
    bursts: int = 1
    """How many times things go wrong for a while and are mended."""
    quiet_s: float = 0.0
    """For how long hardly anything happens after each of them, on average."""
    retention_s: float = 7 * DAY_S
    """For how long what has ended is kept."""
    letters_s: float = 30 * DAY_S
    """The same of dead letters."""
    skew_s: float = 0.0
    """By so much tocsin's clock is ahead of the providers'."""
    flood_events_a_second: int = 0
    rows: tuple[str, ...] = ()
    """Of the rows of the providers' tables only these are drawn, by name; all where there are none."""
    complaints: bool = False
    """What lasts through quiet times is that a provider complains of a device, and nothing else."""


def make_plan(
    seed: int, *, troubles: frozenset[str] | None = None, skew_s: float = 0.0, size: Size | None = None
) -> Plan:
    """The seed's plan; where `troubles` or a `size` are given, with these in place of those that the seed draws."""
    random = Random(f"{seed}:plan")
    drawn = _troubles(random)
    rich = random.random() < 0.25
    owners, most_phones = random.randint(3, _MOST_POOR), random.randint(1, 5)
    rich_owners, rich_phones = random.randint(1, _MOST_RICH) if rich else 0, random.randint(20, 100)
    at_once = random.choice((1, 5, 20))
    phones_each = (owners * (most_phones + 1) / 2 + rich_owners * rich_phones) / (owners + rich_owners)
    least_every_s = (at_once + 1) / 2 * phones_each * PRODUCERS / _MOST_DELIVERIES_A_SECOND
    timeout_s = random.choice((10.0, 30.0))
    plan = Plan(
        seed=seed,
        troubles=drawn,
        bad_provider=random.choice(("apns", "fcm")),
        fault_s=random.uniform(40, 150),
        owners=owners,
        most_phones=most_phones,
        rich_owners=rich_owners,
        rich_phones=rich_phones,
        churn=random.random() < 0.6,
        wrong_environments=random.random() < 0.3,
        event_every_s=max(least_every_s, random.choice((0.2, 0.5, 1.0, 3.0))),
        most_events_at_once=at_once,
        body_bytes=random.choice((20, 20, 200, 3000, 14_000)),
        lifetime_s=random.choice((28 * 24 * 3600.0, 28 * 24 * 3600.0, 120.0)),
        repeats=random.random() < 0.4,
        trouble_every_s=random.choice((3.0, 8.0, 20.0)),
        latency=Latency(random.choice((0.001, 0.01, 0.05)), random.choice((0.002, 0.02))),
        provider_latency_ms=random.choice(((2.0, 10.0), (30.0, 150.0), (100.0, 600.0))),
        commit_s=random.choice((0.001, 0.005, 0.03)),
        max_streams=random.choice((1000, 1000, 100)),
        start_with_one_stream=random.random() < 0.3,
        token_update_interval_s=1200.0 if random.random() < 0.3 else 0.0,
        lane_in_flight=random.choice((4000, 500)),
        lane_waiting=random.choice((8000, 1000)),
        request_timeout_s=timeout_s,
        lease_s=random.choice((120.0, 2 * timeout_s + 10)),
    )
    if troubles is not None:
        plan = replace(plan, troubles=troubles, skew_s=skew_s)
    elif drawn:
        plan = _with_more(plan, Random(f"{seed}:more"))
    plan = replace(plan, two_projects=Random(f"{seed}:projects").random() < 0.3)
    random = Random(f"{seed}:size")
    (drawn_size,) = random.choices([*_SHARES], [*_SHARES.values()])
    return fitted(_sized(plan, size or drawn_size, random))


def _sized(plan: Plan, size: Size, random: Random) -> Plan:
    if size is Size.LARGE:
        return plan
    short_s = random.uniform(*_SHORT_S)
    plan = replace(
        plan,
        fault_s=short_s,
        owners=min(plan.owners, random.randint(2, _MOST_OWNERS_OF_SHORT)),
        trouble_every_s=min(plan.trouble_every_s, short_s / _TROUBLES_OF_SHORT),
        rich_phones=min(plan.rich_phones, _MOST_PHONES_OF_SHORT),
    )
    if size is Size.SHORT:
        return plan
    days = random.choice((0.5, 2.0, 8.0)) if size is Size.DAYS else random.uniform(14, 30)
    return replace(
        plan,
        rich_owners=0,  # what waits for days is tried again every hour, to every phone
        bursts=random.randint(2, 3),
        quiet_s=DAY_S * days,
        lifetime_s=random.choice((plan.lifetime_s, DAY_S / 4, 2 * DAY_S)),
        retention_s=DAY_S * random.choice((1, 7)),
        letters_s=DAY_S * random.choice((2, 30)),
    )


def _with_more(plan: Plan, random: Random) -> Plan:
    more = random.sample(_MORE, random.randint(1, 2)) if random.random() < 0.3 else ()
    skew_s = random.uniform(-_MOST_SKEW_S, _MOST_SKEW_S) if random.random() < 0.3 else 0.0
    return replace(plan, troubles=plan.troubles | frozenset(more), skew_s=skew_s)


def fitted(plan: Plan) -> Plan:
    """The plan, as large as its troubles need it, and no larger than they allow."""
    if "fuse" in plan.troubles:
        # It takes 200 attempts within a minute at one account, and tokens that are left when it has blown.
        plan = replace(plan, rich_owners=_MOST_RICH, rich_phones=100, body_bytes=20, event_every_s=1.5)
        plan = replace(plan, most_events_at_once=1, fault_s=max(plan.fault_s, _LONG_ENOUGH_S))
        plan = replace(plan, quiet_s=min(plan.quiet_s, _MOST_QUIET_OF_RICH_S))
    if "quotas" in plan.troubles:
        every_s = (plan.most_phones + 1) / 2 * PRODUCERS / _DELIVERIES_A_SECOND_TO_COUNT
        plan = replace(plan, fault_s=max(plan.fault_s, _SOME_MINUTES_S), rich_owners=0, most_events_at_once=1)
        plan = replace(plan, event_every_s=every_s)
    if "crowds" in plan.troubles:
        # It takes the devices of twenty owners within a minute.
        plan = replace(plan, owners=MOST_OWNERS, most_phones=2, rich_owners=0, wrong_environments=False)
        plan = replace(plan, event_every_s=0.5, most_events_at_once=5, fault_s=max(plan.fault_s, _LONG_ENOUGH_S))
    if "floods" in plan.troubles:
        # Narrow lanes, so that few events are a flood, and otherwise little to do.
        phones_each = (plan.most_phones + 1) / 2
        plan = replace(
            plan,
            rich_owners=0,
            fault_s=max(plan.fault_s, _LONG_ENOUGH_S),
            most_events_at_once=1,
            body_bytes=20,
            event_every_s=max(plan.event_every_s, phones_each * PRODUCERS / _DELIVERIES_A_SECOND_BESIDE_A_FLOOD),
            lane_in_flight=2,
            lane_waiting=60,
            provider_latency_ms=(200.0, 600.0),
            flood_events_a_second=max(1, round(_FLOOD_DELIVERIES_A_SECOND / phones_each)),
        )
    return plan


def _troubles(random: Random) -> frozenset[str]:
    share = random.random()
    if share < 0.1:
        return frozenset()
    if share < 0.55:
        return frozenset(random.sample(_MILD, random.randint(1, 3)))
    return frozenset([name for name in TROUBLES if random.random() < 0.4])
