"""`tocsin deadletter`: events that could not be delivered to some device."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.inputs import duration_ms
from tocsin.cli.opening import in_counted_steps, in_store, settings_of
from tocsin.cli.output import iso, print_json, print_table, remark, utc
from tocsin.cli.pages import Limit, Start, cursor_of, page_of, say_where_to_go_on
from tocsin.domain.events import EventId
from tocsin.store.ports import Store
from tocsin.store.records import DeadLetter, DeadLetterPage

app = group("Dead letters: events that a provider refused, or whose lifetime ended first.")

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Which events; or --all.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@command(app, "list", example="tocsin deadletter list")
def list_(
    limit: Limit = 100,
    start: Start = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show them with the last attempt for each device; `tocsin event show ID` shows every attempt."""
    with page_of("deadletter list", start):
        page = in_store(settings_of(config), lambda store: store.log.dead_letters(limit, start=cursor_of(start)))
    if as_json:
        print_json([_described(letter) for letter in page.letters])
    else:
        _print_table(page)
    say_where_to_go_on("deadletter list", page.next)


@command(app, "replay", example="tocsin deadletter replay --all --lifetime 12h")
def replay(
    ids: Ids = None,
    all_: All = False,
    lifetime: Annotated[
        str, typer.Option("--lifetime", metavar="TIME", help="For how long they are tried again: 30m, 12h, 7d.")
    ] = "1d",
    config: Config = None,
) -> None:
    """Deliver again, now, to exactly the devices that were refused or expired."""
    chosen = _chosen(ids, all_)
    lifetime_ms = duration_ms(lifetime, "--lifetime")
    if lifetime_ms is None:
        raise InputError("--lifetime never: an event does not live for ever; name a time, like 12h")
    count = in_counted_steps(
        settings_of(config),
        "replaying dead letters",
        partial(_how_many, chosen=chosen),
        lambda store, each: store.log.replay(chosen, lifetime_ms, each),
    )
    _report(count or 0, "are delivered again", chosen)


@command(app, "discard", example="tocsin deadletter discard 0199f2ab-6d3c-7a51-9c1e-5d0f8a3b2c4d")
def discard(ids: Ids = None, all_: All = False, config: Config = None) -> None:
    """Give them up: their content is deleted, their receipts stay."""
    chosen = _chosen(ids, all_)
    count = in_counted_steps(
        settings_of(config),
        "discarding dead letters",
        partial(_how_many, chosen=chosen),
        lambda store, each: store.log.discard(chosen, each),
    )
    _report(count or 0, "are discarded", chosen)


def _chosen(ids: list[str] | None, all_: bool) -> list[EventId] | None:
    """The ids given, or None for all."""
    if bool(ids) == all_:
        raise InputError("name events by their id, or --all")
    return None if all_ else [EventId(id.lower()) for id in ids or ()]


async def _how_many(store: Store, chosen: list[EventId] | None) -> int:
    return await store.log.count_dead_letters() if chosen is None else len(chosen)


def _report(count: int, what: str, chosen: list[EventId] | None) -> None:
    if not count and chosen:
        raise CommandError("none of these is a dead letter; see: tocsin deadletter list")
    remark(f"{count} dead letters {what}")


def _print_table(page: DeadLetterPage) -> None:
    rows = [
        (
            letter.event.id,
            letter.event.message,
            utc(one.at_ms),
            one.result,
            f"{one.status or ''} {one.reason}",
            one.device,
        )
        for letter in page.letters
        for one in letter.devices
    ]
    print_table(("event", "message", "at", "outcome", "answer", "device"), rows, empty="There are no dead letters.")


def _described(letter: DeadLetter) -> dict[str, object]:
    """A dead letter as JSON shows it."""
    event = letter.event
    devices = [
        {"device": one.device, "outcome": one.result, "status": one.status, "reason": one.reason, "at": iso(one.at_ms)}
        for one in letter.devices
    ]
    return {
        "id": event.id,
        "owner": event.owner,
        "message": event.message,
        "accepted_at": iso(event.accepted_ms),
        "devices": devices,
    }
