"""`tocsin event`: what became of an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer
from msgspec import UnsetType

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError
from tocsin.cli.opening import in_store, require_store, settings_of
from tocsin.cli.outcomes import in_words
from tocsin.cli.output import print_json, print_table, utc, utc_of
from tocsin.domain.cluster import lanes_of_all, others
from tocsin.domain.events import EventId
from tocsin.providers.rules import RULES
from tocsin.store import maintenance
from tocsin.store.ports import Store
from tocsin.store.records import Attempt, EventRecord, State

if TYPE_CHECKING:
    from tocsin.api.timeline import DeviceTimeline

app = group("Events: what became of each.")

_MEANING: Final = {
    State.ACCEPTED: "accepted: no device was tried yet",
    State.DELIVERING: "delivering: some devices wait for an attempt",
    State.DONE: "done: every device has its final outcome",
    State.DEAD: "dead: some device was refused or the event expired",
}


@command(app, "show", example="tocsin event show 0199f2ab-6d3c-7a51-9c1e-5d0f8a3b2c4d")
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The event's id, as `send` or the API gave it.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show an event's state and every attempt to deliver it: when, to which device, what the provider said, and what to
    do about it."""
    from tocsin.api.timeline import Around, Timeline, timeline

    settings = settings_of(config)
    require_store(settings)
    unserved_since = None if maintenance.is_served(settings) else ""

    async def read(store: Store) -> tuple[EventRecord, Timeline] | None:
        record = await store.log.record(EventId(id.lower()))
        if record is None:
            return None
        nodes, now_ms = await store.nodes(), store.now_ms()
        lanes = {lane.name: lane for lane in lanes_of_all((), others(nodes, "", now_ms), now_ms)}
        around = Around(rules=RULES, now_ms=now_ms, lanes=lanes, unserved_since=unserved_since)
        return record, await timeline(store, record, around)

    found = in_store(settings, read)
    if found is None:
        raise CommandError(f"event {id}: not known here; it was never accepted, or is older than `store.retention`")
    record, told = found
    if as_json:
        print_json(told)
        return
    event = record.event
    typer.echo(f"{event.message} for {event.owner}")
    typer.echo(f"accepted {utc(event.accepted_ms)}, expires {utc(event.expires_ms)}")
    typer.echo(f"{_MEANING[record.state]}\n")
    rows = [(utc(one.at_ms), in_words(one.result), _answer(one), one.lane, one.device) for one in record.attempts]
    print_table(("at", "outcome", "answer", "lane", "device"), rows, empty="No attempt was made yet.")
    for one in told.devices:
        if isinstance(one.registered_at, str):
            typer.echo(_registered(one))
    for parked in record.waiting:
        typer.echo(f"waiting: {len(parked.targets)} on {parked.lane}, again at {utc(parked.due_ms)}")
    reasons = {
        (one.explanation.cause, one.explanation.remedy): None for one in told.devices if one.outcome != "delivered"
    }
    if not told.devices:
        reasons[told.explanation.cause, told.explanation.remedy] = None
    for cause, remedy in reasons:
        typer.echo(f"\nwhy: {cause}")
        if remedy:
            typer.echo(f"what to do: {remedy}")


def _registered(device: DeviceTimeline) -> str:
    """Since when the token is registered, or until when and why."""
    text = f"{device.system}:{device.device_token}: registered {_time(device.registered_at)}"
    if device.registered:
        return text
    why = f" ({device.removed_because})" if isinstance(device.removed_because, str) else ""
    return f"{text}, removed {_time(device.removed_at)}{why}"


def _time(at: str | UnsetType) -> str:
    """A time of the API as tables show it."""
    return utc_of(at) if isinstance(at, str) else "-"


def _answer(attempt: Attempt) -> str:
    """What the provider answered, and when the next attempt is; status 0 means that there was no answer."""
    status = str(attempt.status) if attempt.status else ""
    retry = "" if attempt.retry_at_ms is None else f"again at {utc(attempt.retry_at_ms)}"
    return " ".join(part for part in (status, attempt.reason, retry) if part) or "-"
