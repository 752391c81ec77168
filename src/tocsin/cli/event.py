"""`tocsin event`: what became of an event."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import print_json, print_table, utc
from tocsin.domain.events import EventId
from tocsin.store.records import Attempt, State

app = group("Events: what became of each.")

_MEANING: Final = {
    State.ACCEPTED: "accepted: no device was tried yet",
    State.DELIVERING: "delivering: some devices wait for another attempt",
    State.DONE: "done: every device has its final outcome",
    State.DEAD: "dead: some device was refused or the event expired",
}


@command(app, "show", example="tocsin event show 0199f2ab-6d3c-7a51-9c1e-5d0f8a3b2c4d")
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The event's id, as `send` or the API gave it.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show an event's state and every attempt to deliver it: when, to which device, and what the provider said."""
    record = in_store(settings_of(config), lambda store: store.log.record(EventId(id.lower())))
    if record is None:
        raise CommandError(f"event {id}: not known here; it was never accepted, or is older than `store.retention`")
    if as_json:
        from tocsin.api.event_records import report

        print_json(report(record))
        return
    event = record.event
    typer.echo(f"{event.message} for {event.owner}")
    typer.echo(f"accepted {utc(event.accepted_ms)}, expires {utc(event.expires_ms)}")
    typer.echo(f"{_MEANING[record.state]}\n")
    rows = [(utc(one.at_ms), one.result, _answer(one), one.lane, one.device) for one in record.attempts]
    print_table(("at", "outcome", "answer", "lane", "device"), rows, empty="No attempt was made yet.")
    for parked in record.waiting:
        typer.echo(f"waiting: {len(parked.targets)} on {parked.lane}, again at {utc(parked.due_ms)}")


def _answer(attempt: Attempt) -> str:
    """What the provider answered, and when the next attempt is; status 0 means that there was no answer."""
    status = str(attempt.status) if attempt.status else ""
    retry = "" if attempt.retry_at_ms is None else f"again at {utc(attempt.retry_at_ms)}"
    return " ".join(part for part in (status, attempt.reason, retry) if part) or "-"
