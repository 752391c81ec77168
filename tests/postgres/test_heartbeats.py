"""Which nodes have stopped sending heartbeats: by the clock of who watches, and only where it has watched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tocsin.store.postgres.heartbeats import STALLED_AFTER_S, Heartbeats

BEAT = datetime(2026, 11, 27, tzinfo=UTC)


class Watch:
    def __init__(self) -> None:
        self.now_s = 100.0
        self._heartbeats = Heartbeats(lambda: self.now_s)

    def each_second(self, seconds: int, **beats: datetime) -> set[int]:
        """Looks once a second; returns the nodes that were stalled at the last look."""
        stalled: set[int] = set()
        for _ in range(seconds):
            self.now_s += 1
            stalled = set(self._heartbeats.stalled({int(name[1:]): beat for name, beat in beats.items()}))
        return stalled


def test_a_node_is_stalled_when_its_heartbeat_has_not_changed_for_six_seconds() -> None:
    watch = Watch()
    assert watch.each_second(int(STALLED_AFTER_S) + 1, _1=BEAT) == set()
    assert watch.each_second(1, _1=BEAT) == {1}
    assert watch.each_second(1, _1=BEAT + timedelta(seconds=9)) == set()


def test_only_that_it_changes_counts_not_what_it_says() -> None:
    watch = Watch()
    for hours in (1, -1, 5, 0):
        assert watch.each_second(5, _1=BEAT + timedelta(hours=hours)) == set()


def test_each_node_is_watched_for_itself() -> None:
    watch = Watch()
    for second in range(10):
        stalled = watch.each_second(1, _1=BEAT, _2=BEAT + timedelta(seconds=second))
    assert stalled == {1}


def test_who_was_stopped_itself_begins_anew() -> None:
    """The others may have been stopped with it, or the database have been away."""
    watch = Watch()
    watch.each_second(3, _1=BEAT)
    watch.now_s += 60
    assert watch.each_second(int(STALLED_AFTER_S) + 1, _1=BEAT) == set()
    assert watch.each_second(1, _1=BEAT) == {1}
