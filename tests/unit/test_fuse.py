"""The fuse of an account: what this node has counted, and what the others have told."""

from __future__ import annotations

from tests.support.clocks import Clocks

from tocsin.delivery.fuse import Counted, Fuse


def test_dead_tokens_of_all_nodes_count_together() -> None:
    fuse = Fuse(Clocks().monotonic)
    assert not fuse.count(100, 60)
    assert fuse.count_elsewhere([Counted(5.0, 60, 10), Counted(59.0, 60, 10)])
    assert fuse.blown


def test_tokens_that_die_on_one_node_among_many_that_live_on_another_do_not_blow_the_fuse() -> None:
    fuse = Fuse(Clocks().monotonic)
    assert not fuse.count(100, 60)
    assert not fuse.count_elsewhere([Counted(5.0, 500, 0)])
    assert not fuse.blown


def test_a_node_that_has_been_told_of_many_deaths_blows_with_its_own_first_ones() -> None:
    fuse = Fuse(Clocks().monotonic)
    assert not fuse.count_elsewhere([Counted(5.0, 199, 199)]), "nothing has died here: there is nothing to hold back"
    assert fuse.count(1, 1)


def test_what_another_node_counted_more_than_a_minute_ago_does_not_count() -> None:
    clocks = Clocks()
    fuse = Fuse(clocks.monotonic)
    assert not fuse.count(100, 60)
    assert not fuse.count_elsewhere([Counted(61.0, 500, 500)])
    clocks.pass_time(61)
    assert fuse.counted is None, "nor is it told of this one"
    assert not fuse.count_elsewhere([Counted(5.0, 500, 500)])


def test_what_other_nodes_counted_before_the_operator_decided_does_not_blow_the_fuse_again() -> None:
    clocks = Clocks()
    fuse = Fuse(clocks.monotonic)
    assert fuse.count(300, 300)
    fuse.hold()
    clocks.pass_time(5)
    fuse.reset()
    clocks.pass_time(2)
    assert not fuse.count(10, 5)
    assert not fuse.count_elsewhere([Counted(20.0, 300, 300)])
    assert fuse.count_elsewhere([Counted(1.0, 300, 300)]), "what they have counted since does"


def test_what_was_told_more_than_a_minute_ago_is_forgotten_though_nobody_has_told_anything_since() -> None:
    clocks = Clocks()
    fuse = Fuse(clocks.monotonic)
    assert not fuse.count(1, 1)
    assert not fuse.count_elsewhere([Counted(5.0, 250, 45)])
    clocks.pass_time(61)
    assert not fuse.count(15, 15), "of these 15 alone"
