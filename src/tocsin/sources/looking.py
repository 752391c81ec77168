"""Looks at the stream and its consumers, and changes nothing: for whoever wants to know whether they can be used."""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from nats.js.errors import NotFoundError

from tocsin.settings import Nats
from tocsin.sources.connecting import connect
from tocsin.sources.consumers import WrongSetup, consumers_of, look_at_consumer, look_at_stream
from tocsin.sources.nats import told

_API_S: Final = 5.0


class Unusable(Exception):  # noqa: N818
    """Events could not be taken; the message says why."""


class Looked(Struct, frozen=True):
    """What was found."""

    stream: str
    replicas: int
    in_memory: bool
    weaknesses: tuple[str, ...]
    """What the acknowledgements that producers get are not worth, a sentence each."""
    waiting: dict[str, int | None]
    """By consumer, how many messages wait for it; None where it is not there yet, and a server makes it."""
    refusals_are_kept: bool
    """Whether a stream holds `refusals_subject`."""


async def look(settings: Nats) -> Looked:
    """Connect as a server would, and look.

    Raises:
        CannotConnect: no server took us.
        Unusable: the stream or a consumer is not there, or not as it must be.
    """
    client = await connect(settings, lambda connected: None)
    try:
        js = client.jetstream(timeout=_API_S)
        stream = await look_at_stream(js, settings)
        waiting: dict[str, int | None] = {}
        for consumer in consumers_of(settings):
            found = await look_at_consumer(js, stream, consumer)
            waiting[consumer.name] = None if found is None else found.num_pending or 0
        try:
            await js.find_stream_name_by_subject(settings.refusals_subject)
            refusals_are_kept = True
        except NotFoundError:
            refusals_are_kept = False
    except WrongSetup as error:
        raise Unusable(str(error)) from None
    except Exception as error:
        raise Unusable(told(error)) from None
    finally:
        await client.close()
    return Looked(stream.name, stream.replicas, stream.in_memory, stream.weaknesses, waiting, refusals_are_kept)
