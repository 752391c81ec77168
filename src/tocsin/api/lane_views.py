"""Lanes and nodes as the operator sees them: why, since when, and what happens next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from tocsin.api.control import DeliveryControl
from tocsin.api.timestamps import rfc3339
from tocsin.domain.cluster import lanes_of_all, others
from tocsin.domain.explanations import Code, Explanation, of_answer
from tocsin.domain.nodes import NodeStatus
from tocsin.domain.routes import LaneStatus, PauseStatus
from tocsin.providers.rules import RuleBook

_BREAKER: Final = Explanation(
    Code.PROVIDER_DOWN,
    "The provider or the link to it failed too often, so nothing is sent for a while.",
    "Check the network and the provider's status page; tocsin tries again by itself.",
)
_STATUS_OF: Final = {"rate": 429, "credential": 403, "topic": 400}
"""A status that a provider's sentence about such a cause would go with, where only the reason is known."""


class PauseView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Why a lane, or one `topic` of it, is paused. At `next_at` one delivery is sent to see whether it must be."""

    cause: str
    reason: str
    since: str
    next_at: str
    probing: bool
    explanation: Explanation
    topic: str | UnsetType = UNSET


class LaneView(Struct, frozen=True, kw_only=True):
    """One lane at one moment. `waiting` counts what is in memory. What a lane cannot take is parked in the store: the
    first of that is due at `parked_due_at`, null where nothing is parked."""

    name: str
    state: str
    reason: str
    in_flight: int
    waiting: int
    misconfigured_topics: dict[str, str]
    fuse_blown: bool
    provider: str
    environment: str
    account: str
    misconfigured_devices: int
    pauses: list[PauseView]
    parked_due_at: str | None


class NodeView(Struct, frozen=True, kw_only=True):
    """One process of tocsin, as it told last. `gone`: it has not told for 15 seconds, so it delivers nothing."""

    node: str
    version: str
    at: str
    age_s: float
    gone: bool
    problems: list[str]
    lanes: list[LaneView]
    delivers: bool = True
    backlog_events: int = 0
    """What waits in the logs from which it delivers."""
    oldest_at: str | None = None
    """When the oldest of that was accepted."""


def lanes_everywhere(delivery: DeliveryControl, nodes: Sequence[NodeStatus], now_ms: int) -> list[LaneStatus]:
    """Those of all living nodes: of this process as they are, of the others as each has told last."""
    return lanes_of_all(delivery.lanes(), others(nodes, delivery.node, now_ms), now_ms)


def lane_view(lane: LaneStatus, rules: RuleBook, at_ms: int) -> LaneView:
    """`at_ms`: when the status was asked for."""
    return LaneView(
        name=lane.name,
        state=lane.state.value,
        reason=lane.reason,
        in_flight=lane.in_flight,
        waiting=lane.waiting,
        misconfigured_topics=lane.misconfigured_topics,
        fuse_blown=lane.fuse_blown,
        provider=lane.provider,
        environment=lane.environment,
        account=lane.account,
        misconfigured_devices=lane.misconfigured_devices,
        pauses=[_pause(pause, lane, rules, at_ms) for pause in lane.pauses],
        parked_due_at=None if lane.parked_due_ms is None else rfc3339(lane.parked_due_ms),
    )


def node_view(node: NodeStatus, rules: RuleBook, now_ms: int) -> NodeView:
    age_s = max(0.0, (now_ms - node.at_ms) / 1000)
    return NodeView(
        node=node.node,
        version=node.version,
        at=rfc3339(node.at_ms),
        age_s=round(age_s, 1),
        gone=node.is_gone(now_ms),
        problems=node.problems,
        lanes=[lane_view(lane, rules, node.at_ms) for lane in node.lanes],
        delivers=node.delivers,
        backlog_events=node.backlog_events,
        oldest_at=None if node.oldest_ms is None else rfc3339(node.oldest_ms),
    )


def meaning(pause: PauseStatus, provider: str, rules: RuleBook) -> Explanation | None:
    """What the provider means by the reason of a pause."""
    if pause.cause == "provider":
        return _BREAKER
    status = _STATUS_OF.get(pause.cause, 0)
    own = rules.get(provider)
    return (own.said(status, pause.reason) if own is not None else None) or of_answer(
        status, pause.reason, "misconfigured" if pause.cause in ("credential", "topic") else "retry"
    )


def _pause(pause: PauseStatus, lane: LaneStatus, rules: RuleBook, at_ms: int) -> PauseView:
    said = meaning(pause, lane.provider, rules)
    assert said is not None
    return PauseView(
        cause=pause.cause,
        reason=pause.reason,
        since=rfc3339(at_ms - int(pause.for_s * 1000)),
        next_at=rfc3339(at_ms + int(pause.next_in_s * 1000)),
        probing=pause.probing,
        explanation=said,
        topic=pause.topic or UNSET,
    )
