"""What all nodes together are doing, put together from what each has published."""

from __future__ import annotations

from tocsin.domain.cluster import lanes_of_all, oldest_ms, others, unserved_since_ms
from tocsin.domain.nodes import NodeStatus
from tocsin.domain.routes import LaneState, LaneStatus, PauseStatus

NOW_MS = 1_000_000


def lane(
    state: LaneState = LaneState.RUNNING, *pauses: PauseStatus, in_flight: int = 1, waiting: int = 2
) -> LaneStatus:
    reason = pauses[0].reason if pauses else ""
    return LaneStatus("apns:production:T.app", state, reason, in_flight, waiting, pauses=list(pauses))


def node(name: str, *lanes: LaneStatus, age_s: float = 0.5, delivers: bool = True) -> NodeStatus:
    return NodeStatus(name, "1", NOW_MS - int(age_s * 1000), [], list(lanes), delivers=delivers)


def test_a_lane_of_several_nodes_is_shown_once_with_what_all_of_them_have_in_it() -> None:
    (found,) = lanes_of_all([lane(in_flight=3)], [node("b", lane()), node("c", lane())], NOW_MS)
    assert (found.in_flight, found.waiting, found.state) == (5, 6, LaneState.RUNNING)


def test_a_lane_that_is_paused_at_one_node_is_shown_as_paused_for_as_long_as_the_longest() -> None:
    short = PauseStatus("credential", "403 wrong", 3.0, 20.0, probing=False)
    long = PauseStatus("credential", "403 wrong", 30.0, 5.0, probing=True)
    topic = PauseStatus("topic", "400 topic", 1.0, 1.0, probing=False, topic="T.app")
    nodes = [node("b", lane(LaneState.PAUSED, short)), node("c", lane(LaneState.PAUSED, topic, long), age_s=2)]
    (found,) = lanes_of_all([lane()], nodes, NOW_MS)
    assert (found.state, found.reason) == (LaneState.PAUSED, "403 wrong")
    assert [(pause.topic, pause.for_s, pause.next_in_s) for pause in found.pauses] == [
        ("", 32.0, 3.0),
        ("T.app", 3.0, 0),
    ]


def test_a_node_that_is_gone_is_none_of_the_others_and_neither_is_this_one() -> None:
    nodes = [node("own"), node("b"), node("gone", age_s=15.1)]
    assert [one.node for one in others(nodes, "own", NOW_MS)] == ["b"]


def test_the_oldest_event_is_that_of_whichever_node_has_it() -> None:
    told = NodeStatus("b", "1", NOW_MS, [], [], oldest_ms=7)
    assert oldest_ms(None, [told, node("older version")]) == 7
    assert oldest_ms(3, [told]) == 3
    assert oldest_ms(None, [node("b")]) is None


def test_nobody_delivers_where_the_last_node_that_did_is_gone_or_has_left() -> None:
    api = node("api", delivers=False)

    def since(*nodes: NodeStatus, delivers: bool = False) -> int | None:
        return unserved_since_ms(nodes, "api", delivers, NOW_MS)

    assert since(api, node("b")) is None
    assert since(api, node("b", age_s=20), node("c", age_s=40)) == NOW_MS - 20_000
    assert since(api, node("other api", delivers=False)) == 0
    assert since(api, delivers=True) is None
