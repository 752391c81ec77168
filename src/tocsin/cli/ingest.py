"""Ingests one event from the command line, by the same rules as the API (`domain.events`, `providers.rules`)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.opening import in_store, settings_of
from tocsin.domain.events import Event, EventError, EventId, ParsedEvent, parse_event
from tocsin.store.ports import BacklogFull, BatchTooLarge, CommitUnknown, EventIdConflict, Store


def ingest(fields: dict[str, Any], config: Path | None, *, own_fields: Collection[str] = ()) -> EventId:
    """Validate the event, append it to the queue, durably, and return its id.

    `own_fields` are the names of those fields that were given as `--field`: messages name this option.

    Raises:
        InputError: it breaks the schema or a provider's rule, is larger than the backlog may be, or its id was used for
            another event.
        CommandError: the backlog is full, the store cannot write, or it is not known whether it has written.
    """
    from tocsin.ingest.ids import EventIds

    parsed, body = _checked(fields, own_fields)
    settings = settings_of(config)
    lifetime_ms = int(settings.delivery.lifetime(parsed.message).total_seconds() * 1000)

    async def append(store: Store) -> EventId:
        now_ms = store.now_ms()
        event_id = parsed.event_id or EventIds().take(1, now_ms)[0]
        event = Event(event_id, parsed.owner, parsed.message, now_ms, now_ms + lifetime_ms, body)
        try:
            await store.queue.append([event])
        except BacklogFull as error:
            raise CommandError(
                f"the backlog is full; nothing was accepted; try again in {error.retry_after_s} s"
            ) from None
        except BatchTooLarge as error:
            raise InputError(f"the event is {error} (store.max_backlog_{error.bound}); nothing was accepted") from None
        except EventIdConflict:
            raise InputError(
                f"--event-id {event_id}: was used for another event within 24 hours; take a new one"
            ) from None
        except CommitUnknown as error:
            raise CommandError(
                f"whether it was accepted is not known: {error}; to repeat it with --event-id {event_id} is safe"
            ) from None
        return event_id

    return in_store(settings, append, create=True)


def _checked(fields: dict[str, Any], own_fields: Collection[str]) -> tuple[ParsedEvent, bytes]:
    """The event, and the body that is to be stored."""
    from tocsin.providers.rules import check_event

    try:
        parsed = parse_event(msgspec.json.encode(fields))
        return parsed, check_event(parsed)
    except EventError as error:
        raise InputError(f"{_option(error.at, own_fields)}: {error.reason}") from None


def _option(at: str, own_fields: Collection[str]) -> str:
    """A JSON path as the option that it came from: `$.page_count` is `--page-count`."""
    field = at.removeprefix("$").removeprefix(".")
    if field in own_fields:
        return f"--field {field}"
    return f"--{field.replace('_', '-')}" if field else "the event"
