"""Clean-ups that delete living tokens are the field's most repeated disaster."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.support.line import APPLICATION, OWNER, PROJECT, apns_device, fcm_device, make_event, running_line

from tocsin.domain.routes import LaneState
from tocsin.emulator.faults import Match, Rule
from tocsin.providers.apns.address import parse
from tocsin.providers.fcm.credentials import stored
from tocsin.store.ports import Store
from tocsin.store.records import Result
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions

LANE = f"apns:production:{APPLICATION}"


async def test_a_token_registered_again_after_the_410_timestamp_survives_and_is_delivered_to(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        device = apns_device()
        dead_since_ms = device.registered_us // 1000 - 60_000
        rule = Rule(
            match=Match(token=device.token), status=410, reason="Unregistered", timestamp=dead_since_ms, times=1
        )
        line.script(rule)
        await line.register(device)
        event = make_event()
        await line.append(event)
        [record] = await line.finished(event)
        assert [attempt.result for attempt in record.attempts] == [Result.RETRY, Result.DELIVERED]
        assert len(await line.store.registry.find(device.token)) == 1


async def test_a_dead_token_is_removed_for_every_owner_and_can_be_restored(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        device = apns_device()
        other = msgspec.structs.replace(device, owner="11111111-1111-4111-8111-111111111111")
        line.script(Rule(status=410, reason="Unregistered", timestamp=int(time.time() * 1000) + 1000))
        await line.register(device, other)
        event = make_event()
        await line.append(event)
        await line.finished(event)
        assert await line.store.registry.find(device.token) == []
        history = await line.store.registry.history(token=device.token)
        assert {removal.device.owner for removal in history} == {device.owner, other.owner}
        assert all(removal.reason == "410 Unregistered" for removal in history)
        assert await line.store.registry.restore("apns", device.token, 100) == 2
        assert len(await line.store.registry.find(device.token)) == 2


async def test_a_topic_that_is_not_allowed_is_paused_and_never_removes_a_token(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        wrong, right = apns_device(topic="de.cospace.other"), apns_device()
        line.script(Rule(match=Match(topic="de.cospace.other"), status=400, reason="TopicDisallowed"))
        await line.register(wrong, right)
        event = make_event()
        await line.append(event)
        record = await line.attempted(event, 2)
        assert {attempt.device: attempt.result for attempt in record.attempts} == {
            wrong.key: Result.MISCONFIGURED,
            right.key: Result.DELIVERED,
        }
        assert len(await line.store.registry.find(wrong.token)) == 1
        status = line.lane(LANE)
        assert status.state is LaneState.RUNNING
        assert status.misconfigured_topics == {"de.cospace.other": "TopicDisallowed"}
        # The next one for that topic is not even tried, and the right one is.
        second = make_event()
        await line.append(second)
        record = await line.attempted(second)
        assert [attempt.device for attempt in record.attempts] == [right.key]
        assert [parked.targets for parked in record.waiting] == [(wrong.key,)]


async def test_the_fuse_quarantines_when_too_many_tokens_die_at_once_and_one_command_releases_them(
    tmp_path: Path,
) -> None:
    async with running_line(tmp_path) as line:
        devices = [apns_device(owner=f"00000000-0000-4000-8000-{number:012d}") for number in range(400)]
        await line.register(*devices)
        line.script(Rule(status=410, reason="Unregistered", timestamp=int(time.time() * 1000) + 60_000))
        # In two waves, so that the second meets a fuse that the first has blown.
        for wave in (devices[:250], devices[250:]):
            events = [make_event(device.owner) for device in wave]
            await line.append(*events)
            await line.finished(*events)
        assert line.lane(LANE).fuse_blown
        histories = [await line.store.registry.history(token=device.token) for device in devices[250:]]  # type: ignore[arg-type]
        assert all(history[0].quarantined for history in histories)
        released = await line.store.registry.release_quarantine(APPLICATION, 100)
        assert released >= 150
        line.dispatcher.lanes.quarantined({})
        assert not line.lane(LANE).fuse_blown
        line.script()
        event = make_event(devices[-1].owner)
        await line.append(event)
        [record] = await line.finished(event)
        assert record.attempts[-1].result == Result.DELIVERED


@pytest.mark.parametrize("project", ["phones", "example.com:phones", "apns:production:phones"])
async def test_a_fuse_is_its_accounts_whatever_the_account_is_called(tmp_path: Path, project: str) -> None:
    async with running_line(tmp_path) as line:
        account = line.emulator.files.service_account.read_bytes()
        await line.store.credentials.remove("fcm", PROJECT)
        await line.store.credentials.put(stored(project, account, default=True, changed_ms=0))
        await line.configure()
        devices = [fcm_device(owner=f"00000000-0000-4000-8000-{number:012d}") for number in range(500)]
        await line.register(*devices)
        line.script(Rule(status=404, reason="UNREGISTERED"))
        registry = line.store.registry
        for wave in (devices[:250], devices[250:400], devices[400:]):
            events = [make_event(device.owner) for device in wave]
            await line.append(*events)
            await line.finished(*events)
            # As the service does when the quarantine has changed: what is held holds the fuse.
            held = {(one.provider, one.account): one for one in await registry.quarantine()}
            line.dispatcher.lanes.quarantined(held)
        assert line.lane(f"fcm:{project}").fuse_blown
        histories = [await registry.history(token=device.token) for device in devices[250:]]
        assert all(history[0].quarantined for history in histories), "nothing is lost after the fuse has blown"
        assert {history[0].account for history in histories} == {project}
        assert await registry.release_quarantine(project, 100) >= 250


async def test_the_environment_is_learned_from_bad_device_token_and_remembered(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        device = apns_device(sandbox=False)
        match = Match(token=device.token, environment="production")
        line.script(Rule(match=match, status=400, reason="BadDeviceToken"))
        await line.register(device)
        first = make_event()
        await line.append(first)
        [record] = await line.finished(first)
        assert [attempt.result for attempt in record.attempts] == [Result.RETRY, Result.DELIVERED]
        assert record.attempts[1].lane == f"apns:sandbox:{APPLICATION}"
        [known] = await line.store.registry.find(device.token)
        address = parse(known.address)
        assert (address.sandbox, address.learned_sandbox) == (False, True)
        second = make_event()
        await line.append(second)
        [record] = await line.finished(second)
        assert [attempt.result for attempt in record.attempts] == [Result.DELIVERED]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "InvalidProviderToken"),
        (403, "BadEnvironmentKeyInToken"),
        (400, "DeviceTokenNotForTopic"),
        (400, "TopicDisallowed"),
        (429, "TooManyRequests"),
        (503, "ServiceUnavailable"),
    ],
)
async def test_a_token_stays_when_the_other_environment_gives_no_verdict(
    tmp_path: Path, status: int, reason: str
) -> None:
    async with running_line(tmp_path) as line:
        device = apns_device()
        line.script(
            Rule(match=Match(environment="production"), status=400, reason="BadDeviceToken"),
            Rule(match=Match(environment="sandbox"), status=status, reason=reason),
        )
        await line.register(device)
        event = make_event()
        await line.append(event)
        record = await line.attempted(event, 2)
        said = [(attempt.result, attempt.reason) for attempt in record.attempts[:2]]
        assert said[0] == (Result.RETRY, "BadDeviceToken")
        assert said[1][0] in (Result.RETRY, Result.MISCONFIGURED)
        assert said[1][1] == reason
        assert len(await line.store.registry.find(device.token)) == 1
        assert await line.store.registry.history(token=device.token) == []


async def test_the_field_of_an_fcm_token_is_learned_and_remembered(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        device = fcm_device("cAAAAAAAAAAAAAAAAAAAAA")
        line.script(
            Rule(match=Match(token=device.token), status=400, reason="INVALID_ARGUMENT", field="message.fid", times=1)
        )
        await line.register(device)
        first, second = make_event(), make_event()
        await line.append(first)
        [record] = await line.finished(first)
        assert [attempt.result for attempt in record.attempts] == [Result.RETRY, Result.DELIVERED]
        await line.append(second)
        await line.finished(second)
        bodies = [entry["body"]["message"] for entry in line.emulator.inbox.find(provider="fcm")]
        assert ["token" in body for body in bodies] == [True, True]


async def test_another_project_is_tried_on_sender_id_mismatch_and_remembered(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        account = json.loads(line.emulator.files.service_account.read_text()) | {"project_id": "another-id"}
        credential = stored("another", json.dumps(account).encode(), default=True, changed_ms=0)
        await line.store.credentials.put(credential)
        await line.configure()
        line.script(
            Rule(match=Match(project="another-id"), status=403, reason="SENDER_ID_MISMATCH"),
        )
        device = fcm_device()
        await line.register(device)
        first, second = make_event(), make_event()
        await line.append(first)
        [record] = await line.finished(first)
        assert [attempt.lane for attempt in record.attempts] == ["fcm:another", f"fcm:{PROJECT}"]
        await line.append(second)
        [record] = await line.finished(second)
        assert [attempt.lane for attempt in record.attempts] == [f"fcm:{PROJECT}"]


async def test_a_token_stays_when_another_project_gives_no_verdict(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        account = json.loads(line.emulator.files.service_account.read_text()) | {"project_id": "another-id"}
        await line.store.credentials.put(stored("another", json.dumps(account).encode(), default=False, changed_ms=0))
        await line.configure()
        line.script(
            Rule(match=Match(project=PROJECT), status=403, reason="SENDER_ID_MISMATCH"),
            Rule(match=Match(project="another-id"), status=403, reason="PERMISSION_DENIED"),
        )
        device = fcm_device()
        await line.register(device)
        event = make_event()
        await line.append(event)
        record = await line.attempted(event, 2)
        assert [attempt.result for attempt in record.attempts] == [Result.RETRY, Result.MISCONFIGURED]
        assert len(await line.store.registry.find(device.token)) == 1


async def test_deleting_a_token_stops_what_is_already_queued_for_it(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        device = apns_device()
        line.script(Rule(status=503, reason="ServiceUnavailable", headers={"retry-after": "1"}, times=1))
        await line.register(device)
        event = make_event()
        await line.append(event)
        await line.attempted(event)
        await line.store.registry.delete(device.owner, "apns", device.token)  # type: ignore[arg-type]
        [record] = await line.finished(event)
        assert [attempt.result for attempt in record.attempts] == [Result.RETRY, Result.CANCELLED]
        assert line.emulator.inbox.find() == []


@asynccontextmanager
async def a_command_beside(directory: Path) -> AsyncIterator[Store]:
    """The store as a command opens it, beside the server."""
    options = SqliteOptions(max_events=10**6, max_bytes=10**9, lease_s=120.0)
    store = await open_store(directory / "tocsin.db", options, server=False)
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.slow
@pytest.mark.parametrize("removed_by", ["server", "command"])
@pytest.mark.parametrize("back_by", ["restore by the server", "restore by a command", "registration"])
async def test_what_waits_for_a_removed_token_is_delivered_once_the_token_is_back(
    tmp_path: Path, removed_by: str, back_by: str
) -> None:
    async with running_line(tmp_path) as line, a_command_beside(tmp_path) as command:
        device = apns_device()
        line.script(Rule(status=503, reason="ServiceUnavailable", headers={"retry-after": "3"}, times=1))
        await line.register(device)
        event = make_event()
        await line.append(event)
        await line.attempted(event)
        remover = line.store if removed_by == "server" else command
        await remover.registry.delete(device.owner, "apns", device.token, by_operator=True)
        # At once: the server has not yet noticed what the command has done.
        if back_by == "registration":
            await line.register(device)
        else:
            restorer = command if back_by == "restore by a command" else line.store
            assert await restorer.registry.restore("apns", device.token, 100) == 1
        [record] = await line.finished(event)
        assert [attempt.result for attempt in record.attempts] == [Result.RETRY, Result.DELIVERED]


async def test_an_event_whose_lifetime_is_over_is_not_sent(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        device = apns_device()
        await line.register(device)
        late = make_event(lifetime_s=-1)
        await line.append(late)
        [record] = await line.finished(late)
        assert [attempt.result for attempt in record.attempts] == [Result.EXPIRED]
        assert line.emulator.inbox.find() == []


async def test_a_parked_delivery_expires_even_while_its_lane_is_paused(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        line.providers["apns"].configure([])
        device = apns_device()
        await line.register(device)
        event = make_event(lifetime_s=1.0)
        await line.append(event)
        [record] = await line.finished(event)
        assert [attempt.result for attempt in record.attempts] == [Result.MISCONFIGURED, Result.EXPIRED]
        assert record.event.owner == OWNER
