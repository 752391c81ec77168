"""The figures of one node, and of several together."""

from __future__ import annotations

import msgspec
import pytest

from tocsin.domain.nodes import NodeStatus
from tocsin.service.figures import FigureBook


class Node:
    """A node that counts, and what it publishes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.now_ms = 1_000_000
        self.totals = (0, 0, 0)
        self.book = FigureBook(name, lambda: self.now_ms, lambda: self.totals)

    def second(self, accepted: int, sent: int, failed: int, *others: NodeStatus) -> None:
        self.now_ms += 1000
        before = self.totals
        self.totals = (before[0] + accepted, before[1] + sent, before[2] + failed)
        self.book.look(7, others)

    def status(self) -> NodeStatus:
        """As it is read from the store by another node."""
        status = NodeStatus(self.name, "1", self.now_ms, [], [], figures=self.book.own())
        return msgspec.json.decode(msgspec.json.encode(status), type=NodeStatus)


def test_the_figures_of_several_nodes_are_added_up_on_each_of_them() -> None:
    api, first, second = Node("api"), Node("first"), Node("second")
    for _ in range(12):
        first.second(0, 30, 2)
        second.second(0, 10, 0)
        api.second(50, 0, 0, api.status(), first.status(), second.status())
    found = api.book.figures()
    assert (found.accepted_per_s, found.sent_per_s, found.failed_per_s) == (50, 40, 2)
    assert (found.accepted, found.sent, found.failed) == (600, 480, 24)
    assert found.nodes == ["api", "first", "second"]
    latest = api.book.history[-1]
    assert (latest.accepted, latest.sent, latest.failed, latest.backlog) == (50, 40, 2, 7)


def test_what_a_node_has_sent_between_two_looks_is_in_the_history_though_it_has_published_more_often() -> None:
    """It published what the last second had: a second that nobody looked at was missing."""
    api, node = Node("api"), Node("node")
    node.second(0, 0, 0)
    api.second(0, 0, 0, node.status())
    node.second(0, 30, 0)
    node.second(0, 0, 0)
    published = node.status()
    api.second(0, 0, 0, published)
    assert api.book.history[-1].sent == 15
    api.second(0, 0, 0, published)
    assert api.book.history[-1].sent == 15, "nothing was published since"
    node.second(0, 0, 0)
    api.second(0, 0, 0, node.status())
    assert api.book.history[-1].sent == 0


def test_a_node_that_has_just_started_shows_what_others_have_sent_just_before() -> None:
    """What was sent before its first look was in no history that it told, though nothing was sent after it."""
    api, node = Node("api"), Node("node")
    node.second(0, 0, 0)
    node.second(0, 30, 0)
    api.second(0, 0, 0, node.status())
    node.second(0, 0, 0)
    api.second(0, 0, 0, node.status())
    assert [moment.sent for moment in api.book.history] == [30, 0]


def test_latency_over_several_nodes_is_right_within_a_tenth() -> None:
    api, node, other = Node("api"), Node("node"), Node("other")
    node.book.took(range(1, 1001))
    other.book.took(range(1001, 2001))
    api.book.took([500] * 2)
    api.second(0, 0, 0, node.status(), other.status())
    api.second(0, 0, 0, node.status(), other.status())
    found = api.book.figures().latency
    assert found.samples == 2002
    assert (found.p50, found.p90, found.p99) == (
        pytest.approx(1000, rel=0.1),
        pytest.approx(1800, rel=0.1),
        pytest.approx(1980, rel=0.1),
    )
    assert api.book.history[-1].p99_ms == found.p99


@pytest.mark.parametrize("took", [[0], [1], [1, 1, 2], [10**12], [0, 10**12], list(range(0, 5000, 7))])
def test_every_sample_is_in_one_bucket(took: list[int]) -> None:
    node = Node("node")
    node.book.took(took)
    assert sum(count for _, count in node.book.own().took) == len(took)


def test_one_node_alone_has_its_latency_to_the_millisecond() -> None:
    node = Node("node")
    node.book.took([3, 17, 23])
    node.second(1, 1, 0, node.status())
    found = node.book.figures()
    assert (found.latency.p50, found.latency.p99, found.nodes) == (17, 23, ["node"])


def test_a_node_that_is_gone_adds_nothing_and_one_of_an_older_version_is_not_named() -> None:
    api, node = Node("api"), Node("node")
    for _ in range(3):
        node.second(0, 10, 0)
    older = NodeStatus("older", "0", node.now_ms, [], [])
    api.second(0, 0, 0, node.status(), older)
    assert (api.book.figures().sent_per_s, api.book.figures().nodes) == (10, ["api", "node"])
    api.now_ms += 20_000  # No look succeeds meanwhile: the store cannot be read.
    assert (api.book.figures().sent_per_s, api.book.figures().nodes) == (0, ["api"])


def test_what_a_node_publishes_stays_small_however_long_deliveries_take() -> None:
    node = Node("node")
    node.book.took([1000 + 37 * n for n in range(10_000)])
    assert len(msgspec.json.encode(node.book.own())) < 1000


def test_an_older_version_reads_the_status_of_a_newer_one_and_the_other_way_round() -> None:
    older = {"node": "a:1", "version": "1", "at_ms": 5, "problems": [], "lanes": []}
    assert msgspec.json.decode(msgspec.json.encode(older), type=NodeStatus).figures is None
    newer = msgspec.to_builtins(Node("a:1").status()) | {"what": "is not known yet"}
    assert msgspec.json.decode(msgspec.json.encode(newer), type=NodeStatus).node == "a:1"
