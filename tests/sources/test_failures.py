"""Servers that restart, stand still or die, consumers that are deleted, a store that takes nothing: every message that
the stream has acknowledged becomes its events, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import pytest
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError
from tests.sources.bus import Bus, bus_on, encoded, eventually, fax, nats_settings, taking
from tests.support.nats import NatsServer, nats_cluster

from tocsin.domain.events import Event
from tocsin.ingest.batch import Batch, Ingest, Origin
from tocsin.sources.pulling import Ask, Pull
from tocsin.store.ports import WriteFailure
from tocsin.store.records import Attempt, Settlement

pytestmark = pytest.mark.slow

_AT_ONCE = 100


async def publish_all(bus: Bus, count: int) -> None:
    """So many events, a message each. One whose acknowledgement was lost is published again, under the same id."""
    numbers = iter(range(1, count + 1))

    async def publish_some() -> None:
        for number in numbers:
            await bus.publish(encoded(fax(number)), headers={"Nats-Msg-Id": f"fax-{number}"}, within_s=60)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_AT_ONCE):
            tasks.create_task(publish_some())


@pytest.mark.parametrize("end", [NatsServer.stop, NatsServer.kill], ids=["in order", "killed"])
async def test_a_server_that_restarts_in_the_middle_of_ten_thousand_messages_loses_and_repeats_none(
    bus: Bus, server: NatsServer, tmp_path: Path, end: Callable[[NatsServer], None]
) -> None:
    async with taking(tmp_path, nats_settings(server)) as taken:
        publishing = asyncio.create_task(publish_all(bus, 10_000))
        for at in (1_000, 5_000):
            await eventually(lambda at=at: _has(taken.count, at))
            await asyncio.to_thread(end, server)
            await asyncio.sleep(1.0)
            await server.start()
        await publishing
        await taken.has(10_000, within_s=100)
        await eventually(bus.is_done)
        assert taken.source.problems() == []


async def _has(count: Callable[[], object], least: int) -> bool:
    return int(await count()) >= least  # type: ignore[misc, no-any-return]


async def test_a_server_that_stands_still_is_asked_again_when_it_goes_on(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    async with taking(tmp_path, nats_settings(server)) as taken:
        await bus.publish(encoded(fax(1)))
        await taken.has(1)
        server.send(signal.SIGSTOP)
        try:
            await eventually(lambda: taken.source.problems())
        finally:
            server.send(signal.SIGCONT)
        await bus.publish(encoded(fax(2)))
        await taken.has(2)
        await eventually(lambda: not taken.source.problems())


async def test_a_consumer_deleted_under_it_is_made_again_and_nothing_comes_twice(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    async with taking(tmp_path, nats_settings(server)) as taken:
        publishing = asyncio.create_task(publish_all(bus, 2_000))
        for at in (500, 1_000):
            await eventually(lambda at=at: _has(taken.count, at))
            await eventually(lambda: _deleted(bus))
        await publishing
        await taken.has(2_000)
        await eventually(bus.is_done)


async def _deleted(bus: Bus) -> bool:
    """Whether there was a consumer to delete: the one before may not be made again yet."""
    try:
        return await bus.js.delete_consumer("EVENTS", "tocsin")
    except NotFoundError:
        return False


async def test_a_consumer_that_is_made_again_begins_where_the_one_before_was_acknowledged(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    """What is older may have been forgotten here: its events would be new ones."""
    async with taking(tmp_path, nats_settings(server)) as taken:
        for number in range(1, 11):
            await bus.publish(encoded(fax(number)))
        await taken.has(10)
        await eventually(bus.is_done)
        await eventually(lambda: taken.source._acknowledged["tocsin"] == 10)
        await bus.js.delete_consumer("EVENTS", "tocsin")
        await bus.publish(encoded(fax(11)))
        await taken.has(11)
        info = await bus.js.consumer_info("EVENTS", "tocsin")
        assert info.config.opt_start_seq == 11


async def test_a_consumer_that_was_deleted_while_nobody_took_begins_where_it_was_acknowledged(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    async with taking(tmp_path, nats_settings(server)) as taken:
        for number in range(1, 11):
            await bus.publish(encoded(fax(number)))
        await taken.has(10)
        await eventually(bus.is_done)
    await bus.js.delete_consumer("EVENTS", "tocsin")
    await bus.publish(encoded(fax(11)))
    async with taking(tmp_path, nats_settings(server)) as taken:
        await taken.has(11)
        assert (await bus.js.consumer_info("EVENTS", "tocsin")).config.opt_start_seq == 11


async def test_of_a_stream_that_ends_before_what_was_taken_of_it_everything_is_taken(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    """An older state of it was restored: what has come since has numbers that were taken before."""
    async with taking(tmp_path, nats_settings(server)) as taken:
        await bus.publish(encoded(fax(1)))
        await taken.has(1)
        await eventually(bus.is_done)
    with contextlib.closing(sqlite3.connect(tmp_path / "tocsin.db")) as driver, driver:
        assert driver.execute("UPDATE housekeeping SET number = 100 WHERE name LIKE 'position nats EVENTS%'").rowcount
    await bus.js.delete_consumer("EVENTS", "tocsin")
    await bus.publish(encoded(fax(2)))
    async with taking(tmp_path, nats_settings(server)) as taken:
        await taken.has(2)


async def test_a_stream_that_is_made_anew_has_other_events_under_the_same_numbers(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    async with taking(tmp_path, nats_settings(server)) as taken:
        await bus.publish(encoded(fax(1)))
        await taken.has(1)
        await eventually(bus.is_done)
        await bus.js.delete_stream("EVENTS")
        await eventually(lambda: taken.source.problems())
        await bus.js.add_stream(name="EVENTS", subjects=["events.>"])
        assert await bus.publish(encoded(fax(2))) == 1
        await taken.has(2)
        await eventually(lambda: not taken.source.problems())


async def test_with_a_full_backlog_events_wait_in_the_stream_and_what_is_in_hand_stays_there(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    nats = nats_settings(server, batch=20)
    async with taking(tmp_path, nats, max_events=50) as taken:
        for number in range(1, 201):
            await bus.publish(encoded(fax(number)))
        await eventually(lambda: any("the backlog is full" in one for one in taken.source.problems()))
        # For longer than the server waits for an acknowledgement.
        await asyncio.sleep(nats.ack_wait_s + 2)
        assert await taken.count() <= 50
        info = await bus.js.consumer_info("EVENTS", "tocsin")
        async with Pull(bus.client, "EVENTS", "tocsin", Ask(20, None, 2.0)) as another_process:
            got = await another_process.take()
        assert {message.metadata.num_delivered for message in got} == {1}, "what is in hand went to somebody else"
        for message in got:
            await message.nak()
        assert (info.num_pending or 0) + (info.num_ack_pending or 0) >= 150
        while await taken.count() < 200:
            items = await taken.store.queue.claim(100)
            done = Attempt(1, "apns:t", "lane", "delivered", 200)
            await taken.store.queue.settle([Settlement(item, [done], []) for item in items])
            await asyncio.sleep(0.05)
        await eventually(bus.is_done)
        await eventually(lambda: not taken.source.problems())
        pages = [json.loads(record.event.body or b"{}").get("page_count", 0) for record in await taken.records()]
        assert len(pages) == 200


async def test_a_message_larger_than_the_whole_backlog_is_refused(bus: Bus, server: NatsServer, tmp_path: Path) -> None:
    async with taking(tmp_path, nats_settings(server), max_events=5) as taken:
        await bus.publish(encoded(*[fax(number) for number in range(6)]))
        await bus.publish(encoded(fax(7)))
        (refusal,) = await bus.refusals(1)
        await taken.has(1)
    problem = json.loads((refusal.headers or {})["Tocsin-Problem"])
    assert (problem["status"], "max_backlog_events" in problem["detail"]) == (413, True)


async def test_a_message_that_fails_unexpectedly_holds_up_no_other_and_is_kept(
    bus: Bus, server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 31):
        await bus.publish(encoded(fax(number)))
    async with taking(tmp_path, nats_settings(server)) as taken:
        append, one = taken.store.queue.append, Ingest.one

        async def fail_at_seven(events: Sequence[Event]) -> None:
            if any(b'"page_count":7}' in event.body for event in events):
                raise RuntimeError("a value that nobody has thought of")
            await append(events)

        def fail_at_eight(self: Ingest, body: bytes, now_ms: int, origin: Origin | None = None) -> Batch:
            if b'"page_count": 8}' in body:
                raise RuntimeError("an event that nobody has thought of")
            return one(self, body, now_ms, origin)

        monkeypatch.setattr(taken.store.queue, "append", fail_at_seven)
        monkeypatch.setattr(Ingest, "one", fail_at_eight)
        await taken.has(28)
        await eventually(lambda: _has_left(bus, 2))


async def _has_left(bus: Bus, count: int) -> bool:
    return await bus.unacknowledged() == count


async def test_while_the_database_takes_nothing_events_wait_in_the_stream(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    async with taking(tmp_path, nats_settings(server)) as taken:
        await bus.publish(encoded(fax(1)))
        await taken.has(1)
        other = sqlite3.connect(tmp_path / "tocsin.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for number in range(2, 12):
            await bus.publish(encoded(fax(number)))
        await eventually(lambda: any("the store cannot be used" in one for one in taken.source.problems()))
        assert await bus.unacknowledged() == 10
        other.execute("ROLLBACK")
        other.close()
        await taken.has(11)
        await eventually(bus.is_done)
        await eventually(lambda: not taken.source.problems())


async def test_a_commit_whose_answer_is_lost_is_repeated_and_counts_once(
    bus: Bus, server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with taking(tmp_path, nats_settings(server)) as taken:
        append = taken.store.queue.append
        lost = 2

        async def lose_the_answer(events: object) -> None:
            nonlocal lost
            await append(events)  # type: ignore[arg-type]
            if lost:
                lost -= 1
                raise WriteFailure

        monkeypatch.setattr(taken.store.queue, "append", lose_the_answer)
        await bus.publish(encoded(fax(1), fax(2)))
        await eventually(lambda: lost == 0)
        await eventually(bus.is_done)
        await taken.has(2)


async def test_the_leader_of_a_cluster_of_three_is_killed_and_no_message_is_lost_or_repeated(tmp_path: Path) -> None:
    async with (
        nats_cluster(tmp_path / "cluster") as servers,
        bus_on(*servers) as bus,
        taking(tmp_path, nats_settings(*servers)) as taken,
    ):
        publishing = asyncio.create_task(publish_all(bus, 3_000))
        await eventually(lambda: _has(taken.count, 500))
        info = await bus.js.stream_info("EVENTS")
        assert info.cluster is not None
        leader = next(server for number, server in enumerate(servers) if info.cluster.leader == f"n{number}")
        await asyncio.to_thread(leader.kill)
        await eventually(lambda: _has(taken.count, 2_000), within_s=60)
        await leader.start()
        await publishing
        await taken.has(3_000, within_s=100)
        await eventually(bus.is_done)
        await eventually(lambda: not taken.source.problems())


async def test_a_server_that_answers_nothing_any_more_does_not_delay_a_stop(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    async with taking(tmp_path, nats_settings(server)) as taken:
        await bus.publish(encoded(fax(1)))
        await taken.has(1)
        server.send(signal.SIGSTOP)
        try:
            started = time.monotonic()
            taken.source.stop()
            await eventually(lambda: taken.running.done())
            # Waiting for the figures of both consumers would take ten seconds.
            assert time.monotonic() - started < 8
        finally:
            server.send(signal.SIGCONT)


# -- what somebody else has set up -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"filter_subject": "events.other"}, "filters events.other, the settings events.normal"),
        ({"filter_subject": "events.normal", "max_deliver": 3}, "set max_deliver to -1"),
        ({"filter_subject": "events.normal", "ack_policy": "none"}, "needs ack_policy explicit"),
        ({"filter_subject": "events.normal", "deliver_subject": "push"}, "pushes to a subject"),
    ],
)
async def test_a_consumer_that_cannot_be_used_is_named_with_the_remedy(
    bus: Bus, server: NatsServer, tmp_path: Path, config: dict[str, object], told: str
) -> None:
    given = {"ack_policy": "explicit"} | config
    await bus.js.add_consumer("EVENTS", ConsumerConfig(durable_name="tocsin", **given))  # type: ignore[arg-type]
    async with taking(tmp_path, nats_settings(server)) as taken:
        await eventually(lambda: any(told in one for one in taken.source.problems()))
        await bus.js.delete_consumer("EVENTS", "tocsin")
        await bus.publish(encoded(fax(1)))
        await taken.has(1)


async def test_a_consumer_that_an_operator_has_made_is_used_as_it_is(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    await bus.publish(encoded(fax(1)))
    await bus.js.add_consumer(
        "EVENTS",
        ConsumerConfig(
            durable_name="tocsin", filter_subject="events.normal", opt_start_seq=2, deliver_policy="by_start_sequence"
        ),  # type: ignore[arg-type]
    )
    await bus.publish(encoded(fax(2, id=str(UUID(int=2)))))
    async with taking(tmp_path, nats_settings(server)) as taken:
        await taken.has(1)
        assert await taken.ids() == [str(UUID(int=2))]


async def test_a_work_queue_is_emptied_also_by_a_consumer_that_is_made_again(
    server: NatsServer, tmp_path: Path
) -> None:
    async with bus_on(server, retention="workqueue") as bus, taking(tmp_path, nats_settings(server)) as taken:
        for number in range(1, 11):
            await bus.publish(encoded(fax(number)))
        await taken.has(10)
        await eventually(bus.is_done)
        assert (await bus.js.stream_info("EVENTS")).state.messages == 0
        await bus.js.delete_consumer("EVENTS", "tocsin")
        await bus.publish(encoded(fax(11)))
        await taken.has(11)
