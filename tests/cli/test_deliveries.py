"""`tocsin deliveries search` and what `tocsin event show` says about why, on a real store with a server's index."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import APPLICATION, OWNER, Run
from tests.contract.support import done

from tocsin.cli.output import print_fitting
from tocsin.domain.devices import Address, DeviceToken, Registration
from tocsin.domain.events import Event, EventId, UserId
from tocsin.providers.apns.address import ApnsAddress
from tocsin.settings import load
from tocsin.store.opening import open_store
from tocsin.store.records import Attempt, DeadToken, Item, Parked, Settlement

LANE = f"apns:production:{APPLICATION}"
TOKEN = "ab" * 32
KEY = f"apns:{TOKEN}"


def event_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


@pytest.fixture
def served(store: Path) -> Any:
    return serving()


def serving() -> Any:
    """Lets a server settle events, each by a function of its item, and fill the index; then it ends."""

    async def serve(*settle: Any, remove: bool = False) -> None:
        async with open_store(load(), server=True, say=lambda _: None) as opened:
            await opened.start()
            address = Address(ApnsAddress(APPLICATION).text())
            await opened.registry.add(Registration(UserId(OWNER), "apns", DeviceToken(TOKEN), address), 100)
            now_ms = opened.now_ms()
            events = [
                Event(EventId(event_id(number)), UserId(OWNER), "fax_new", now_ms, now_ms + 10**8, b'{"phone":"1"}')
                for number in range(len(settle))
            ]
            await opened.queue.append(events)
            items = {item.event.id: item for item in await opened.queue.claim(100)}
            for event, function in zip(events, settle, strict=True):
                if function is not None:
                    await opened.queue.settle([function(items[event.id])])
            if remove:
                (device,) = (await opened.registry.devices_of([UserId(OWNER)]))[UserId(OWNER)]
                await opened.registry.remove_dead([DeadToken(device, APPLICATION, "Unregistered")])
            while await opened.search.fill(1):
                pass

    return lambda *settle, **more: asyncio.run(serve(*settle, **more))


def refused(item: Item) -> Settlement:
    return Settlement(item, [Attempt(1, KEY, LANE, "refused", 413, "PayloadTooLarge")], [])


def delivered(item: Item) -> Settlement:
    return done(item, device=KEY)


def waits(item: Item) -> Settlement:
    due_ms = item.event.accepted_ms + 60_000
    attempt = Attempt(1, KEY, LANE, "misconfigured", 403, "InvalidProviderToken", "", due_ms)
    return Settlement(item, [attempt], [Parked(LANE, due_ms, 1, (KEY,))])


def waits_untried(item: Item) -> Settlement:
    return Settlement(item, [], [Parked(LANE, item.event.accepted_ms + 60_000, 0, (KEY,))])


def test_deliveries_are_found_newest_first(run: Run, served: Any) -> None:
    served(delivered, refused, waits)
    shown = run("deliveries", "search", "--owner", OWNER)
    assert shown.status == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0].split() == ["ACCEPTED", "EVENT", "MESSAGE", "OUTCOME", "ANSWER", "LANE", "DEVICE", "OWNER"]
    assert [line.split()[2] for line in lines[1:]] == [event_id(2), event_id(1), event_id(0)]
    assert "413 PayloadTooLarge" in lines[2]
    assert KEY in lines[2], "what is no terminal gets everything"


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["--outcome", "refused"], [1]),
        (["--outcome", "refused", "--outcome", "waiting"], [2, 1]),
        (["--token-file", "token.txt"], [2, 1, 0]),
        (["--event", event_id(0)], [0]),
        (["--account", APPLICATION, "--system", "apns"], [2, 1, 0]),
        (["--account", "39JSDKGJ38.de.other"], []),
        (["--reason", "InvalidProviderToken"], [2]),
        (["--message", "fax_new", "--from", "2020-01-01", "--until", "2999-01-01T00:00:00+01:00"], [2, 1, 0]),
        (["--until", "2020-01-01"], []),
    ],
)
def test_each_option_narrows_the_search(run: Run, served: Any, arguments: list[str], numbers: list[int]) -> None:
    served(delivered, refused, waits)
    Path("token.txt").write_text(TOKEN.upper() + "\n")
    found = run("deliveries", "search", "--json", *arguments)
    assert found.status == 0, found.err
    assert [row["event_id"] for row in found.json["deliveries"]] == [event_id(number) for number in numbers]


def test_more_is_a_page_away(run: Run, served: Any) -> None:
    served(delivered, delivered, delivered)
    first = run("deliveries", "search", "--limit", "2")
    assert "There are more: add --start" in first.err
    start = first.err.split("--start ")[1].split()[0]
    assert event_id(0) in run("deliveries", "search", "--limit", "2", "--start", start).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--owner", "me"], "--owner me: not a UUID"),
        (["--event", "1"], "--event 1: not a UUID"),
        (["--outcome", "lost"], "--outcome:"),
        (["--system", "apsn"], "--system apsn: must be apns or fcm"),
        (["--message", "fax"], "--message fax: none of fax_new,"),
        (["--from", "yesterday"], "--from yesterday: must be a day"),
        (["--until", "2026-11-26T08:00:00"], "must be a day (2026-11-26) or a time with its zone"),
        (["--start", "x"], "--start x: not valid: use the value that `tocsin "),
        (["--token-file", "missing.txt"], "--token-file missing.txt: No such file"),
    ],
)
def test_a_search_that_breaks_a_rule_names_the_option(run: Run, served: Any, arguments: list[str], said: str) -> None:
    served(delivered)
    ran = run("deliveries", "search", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err


@pytest.mark.usefixtures("store")
def test_a_store_that_no_server_has_run_on_has_no_index(run: Run) -> None:
    ran = run("deliveries", "search")
    assert (ran.status, ran.out) == (1, "")
    assert "the server makes it" in ran.err


def test_columns_fit_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("fax_new", "apns:" + "a" * 64, "9aed5e94-3803-11e3-8475-0024e8f90cc0"), ("x", "b", "c")]
    print_fitting(("message", "device", "owner"), rows, cut=("device", "owner"), width=50, empty="")
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) == 50
    assert lines[1].startswith("fax_new  apns:aa")
    assert lines[1].count("…") == 2
    print_fitting(("message", "device", "owner"), rows, cut=("device", "owner"), width=None, empty="")
    assert "a" * 64 in capsys.readouterr().out


# -- event show --------------------------------------------------------------------------------------------------------


def test_an_event_that_was_refused_says_why_and_what_to_do(run: Run, served: Any) -> None:
    served(refused)
    shown = run("event", "show", event_id(0))
    assert "why: Apple refuses the payload: it is too large (413 PayloadTooLarge)." in shown.out
    assert "what to do: " in shown.out


def test_an_event_that_was_delivered_needs_no_explanation(run: Run, served: Any) -> None:
    served(delivered)
    assert "why:" not in run("event", "show", event_id(0)).out


def test_what_waits_while_no_server_runs_says_so(run: Run, served: Any) -> None:
    served(waits)
    shown = run("event", "show", event_id(0))
    assert "why: No process of tocsin delivers, so the event waits." in shown.out
    assert "tocsin serve" in shown.out


def test_what_waits_beside_a_server_says_what_its_lane_waits_for(
    run: Run, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(waits, waits_untried)
    monkeypatch.setattr("tocsin.store.maintenance.is_served", lambda settings: True)
    own = run("event", "show", event_id(0))
    assert "why: Apple does not accept the key (403 InvalidProviderToken)" in own.out
    other = run("event", "show", event_id(1))
    assert f"why: Lane {LANE} is paused: InvalidProviderToken. Apple does not accept the key" in other.out
    assert "tocsin app add" in other.out
    (device,) = run("event", "show", event_id(1), "--json").json["devices"]
    assert (device["explanation"]["code"], device["next"]["what"]) == ("lane_paused", "paused")


def test_a_user_without_devices_is_named_as_the_cause(run: Run, served: Any) -> None:
    served(lambda item: Settlement(item, [], []), remove=True)
    shown = run("event", "show", event_id(0))
    assert "why: The user had no registered device" in shown.out
    assert "removed: Unregistered" in shown.out


def test_since_when_a_device_was_registered_is_shown_also_when_it_is_gone(run: Run, served: Any) -> None:
    served(refused)
    shown = run("event", "show", event_id(0)).out
    assert re.search(rf"^{KEY}: registered \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", shown, re.MULTILINE)


def test_whether_a_server_runs_is_seen_by_its_lock(store: Path) -> None:
    from tocsin.store import maintenance

    async def beside_a_server() -> bool | None:
        async with open_store(load(), server=True):
            return maintenance.is_served(load())

    assert maintenance.is_served(load()) is False
    assert asyncio.run(beside_a_server()) is True


def test_on_postgresql_deliveries_are_searched_and_users_erased_as_on_sqlite(on_postgres: Run) -> None:
    serving()(refused, delivered, None)
    found = on_postgres("deliveries", "search", "--owner", OWNER, "--json")
    assert [(row["event_id"], row["outcome"]) for row in found.json["deliveries"]] == [
        (event_id(2), "accepted"),
        (event_id(1), "delivered"),
        (event_id(0), "refused"),
    ]
    by_token = on_postgres("deliveries", "search", "--reason", "PayloadTooLarge", "--json")
    assert [row["event_id"] for row in by_token.json["deliveries"]] == [event_id(0)]
    erased = on_postgres("user", "erase", OWNER, "--yes")
    assert erased.status == 0, erased.err
    assert "Nothing is left of the user there" in erased.err
    assert on_postgres("deliveries", "search", "--json").json["deliveries"] == []
