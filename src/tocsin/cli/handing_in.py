"""One event from the command line into the queue, by the rules that hold for the API, too: `domain.events` has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.inputs import now_ms
from tocsin.cli.opening import in_store, settings_of
from tocsin.domain.events import Event, EventError, EventId, parse_event
from tocsin.store.ports import BacklogFull, EventIdConflict, NewEvent

if TYPE_CHECKING:
    from tocsin.store.opening import Store


def hand_in(fields: dict[str, Any], config: Path | None) -> EventId:
    """Validate the event, make it durable and return its id.

    Raises:
        InputError: it breaks the schema, or its id was used for another event.
        CommandError: the backlog is full, or the store cannot write.
    """
    from tocsin.api.ids import EventIds

    try:
        handed_in = parse_event(msgspec.json.encode(fields))
    except EventError as error:
        raise InputError(f"{_option(error.at)}: {error.reason}") from None
    settings = settings_of(config)
    accepted_ms = now_ms()
    expires_ms = accepted_ms + int(settings.delivery.lifetime(handed_in.message).total_seconds() * 1000)
    event_id = handed_in.event_id or EventId(EventIds().take(1, accepted_ms)[0])
    event = Event(event_id, handed_in.owner, handed_in.message, accepted_ms, expires_ms, handed_in.body)
    new = NewEvent(event, handed_in.digest)

    async def append(store: Store) -> None:
        await store.queue.append([new])

    try:
        in_store(settings, append)
    except BacklogFull as error:
        raise CommandError(f"the backlog is full; nothing was accepted; try again in {error.retry_after_s} s") from None
    except EventIdConflict:
        raise InputError(f"--event-id {event_id}: was used for another event within 24 hours; take a new one") from None
    return event_id


def _option(at: str) -> str:
    """A JSON path as the option that it came from: `$.page_count` is `--page-count`."""
    field = at.removeprefix("$").removeprefix(".")
    return f"--{field.replace('_', '-')}" if field else "the event"
