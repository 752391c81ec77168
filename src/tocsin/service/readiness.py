"""Why the service is not ready, in sentences."""

from __future__ import annotations

from collections.abc import Iterable

from tocsin.domain.routes import LaneState, LaneStatus


def problems(*, stopping: bool, storage: Iterable[str], lanes: Iterable[LaneStatus]) -> list[str]:
    """A sentence for each cause; none when the service accepts and delivers."""
    found = ["tocsin is stopping"] if stopping else []
    found += storage
    blown: dict[tuple[str, str], None] = {}
    for lane in lanes:
        if lane.state is LaneState.PAUSED:
            found.append(f"lane {lane.name} is paused: {lane.reason}")
        for topic, reason in lane.misconfigured_topics.items():
            found.append(f"lane {lane.name}: topic {topic} is paused: {reason}")
        if lane.fuse_blown:
            blown[lane.provider, lane.account] = None
    # An account has one fuse, however many lanes it has.
    found += [
        f"{provider} {account}: too many dead tokens; removals are quarantined until the operator decides"
        for provider, account in blown
    ]
    return found
