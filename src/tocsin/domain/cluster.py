"""What all nodes together are doing, from what each has published last: so any node answers for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from tocsin.domain.nodes import NodeStatus
from tocsin.domain.routes import LaneState, LaneStatus, PauseStatus

_WORST_LAST = (LaneState.RUNNING, LaneState.PAUSED, LaneState.OPEN)


def others(nodes: Iterable[NodeStatus], own: str, now_ms: int) -> list[NodeStatus]:
    """The living nodes but the one of this name. `now_ms` is the store's time."""
    return [node for node in nodes if node.node != own and not node.is_gone(now_ms)]


def lanes_of_all(own: Iterable[LaneStatus], others: Iterable[NodeStatus], now_ms: int) -> list[LaneStatus]:
    """Each lane once: what is on the wire and waits of all nodes together, and every pause of any of them."""
    found: dict[str, list[LaneStatus]] = {}
    for lane in own:
        found.setdefault(lane.name, []).append(lane)
    for node in others:
        for lane in node.lanes:
            found.setdefault(lane.name, []).append(_aged(lane, max(0.0, (now_ms - node.at_ms) / 1000)))
    return [lanes[0] if len(lanes) == 1 else _together(lanes) for lanes in found.values()]


def oldest_ms(own: int | None, others: Iterable[NodeStatus]) -> int | None:
    """When the oldest event that waits at any of them was accepted; None where nothing waits."""
    known = [own, *(node.oldest_ms for node in others)]
    return min((one for one in known if one is not None), default=None)


def unserved_since_ms(nodes: Iterable[NodeStatus], own: str, own_delivers: bool, now_ms: int) -> int | None:
    """Since when no node delivers: when the last one told last; 0 where that is not known, None where one does."""
    nodes = list(nodes)
    if own_delivers or any(node.delivers for node in others(nodes, own, now_ms)):
        return None
    return max((node.at_ms for node in nodes if node.delivers), default=0)


def _aged(lane: LaneStatus, age_s: float) -> LaneStatus:
    """As it is now, so long after it was published."""
    pauses = [
        replace(pause, for_s=pause.for_s + age_s, next_in_s=max(0.0, pause.next_in_s - age_s)) for pause in lane.pauses
    ]
    return replace(lane, pauses=pauses)


def _together(lanes: Sequence[LaneStatus]) -> LaneStatus:
    """One lane that several nodes have."""
    worst = max(lanes, key=lambda lane: _WORST_LAST.index(lane.state))
    topics: dict[str, str] = {}
    for lane in lanes:
        topics |= lane.misconfigured_topics
    return replace(
        worst,
        in_flight=sum(lane.in_flight for lane in lanes),
        waiting=sum(lane.waiting for lane in lanes),
        parked_due_ms=min((lane.parked_due_ms for lane in lanes if lane.parked_due_ms is not None), default=None),
        misconfigured_topics=topics,
        misconfigured_devices=sum(lane.misconfigured_devices for lane in lanes),
        fuse_blown=any(lane.fuse_blown for lane in lanes),
        pauses=_pauses(pause for lane in (worst, *lanes) for pause in lane.pauses),
    )


def _pauses(pauses: Iterable[PauseStatus]) -> list[PauseStatus]:
    """Each cause once, as it has been for the longest; those of the lane before those of its topics."""
    found: dict[tuple[str, str], PauseStatus] = {}
    for pause in pauses:
        known = found.get((pause.topic, pause.cause))
        if known is None or pause.for_s > known.for_s:
            found[pause.topic, pause.cause] = pause
    return sorted(found.values(), key=lambda pause: pause.topic != "")
