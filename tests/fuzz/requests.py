"""What clients of the API send: events, changes of tokens, and tokens themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from uuid import UUID

from tocsin.api.problems import RequestError
from tocsin.api.push_request import Add, parse_push
from tocsin.domain.events import parse_event
from tocsin.ingest.batch import Ingest
from tocsin.ingest.errors import IngestError
from tocsin.providers.apns import address as apns
from tocsin.providers.apns.address import DEVICE_TOKEN
from tocsin.providers.rules import RULES
from tocsin.settings import Settings

NOW_MS = 1_790_000_000_000


def ingest() -> Callable[[bytes], None]:
    """`POST /api/events`: one event, and the same bytes as a batch."""
    ingest, loop = Ingest(Settings(), RULES), asyncio.new_event_loop()

    def run(data: bytes) -> None:
        for read in (lambda: ingest.one(data, NOW_MS), lambda: loop.run_until_complete(ingest.many(data, NOW_MS))):
            try:
                batch = read()
            except IngestError as error:
                assert error.violations or error.detail
                continue
            for event in batch.events:
                assert str(UUID(event.owner)) == event.owner
                assert json.loads(event.body)["owner"] == event.owner
                # What is stored is canonical: it is read again as what it is.
                assert parse_event(event.body).body == event.body

    return run


def push() -> Callable[[bytes], None]:
    """`POST /api/push`."""

    def run(data: bytes) -> None:
        try:
            operation = parse_push(data, RULES)
        except RequestError:
            return
        rules = RULES[operation.provider]
        assert rules.token(operation.token) == operation.token
        if isinstance(operation, Add):
            assert rules.account(operation.address) == operation.account
            rules.summary(operation.address)

    return run


def tokens() -> Callable[[bytes], None]:
    """The syntax of device tokens, which become a part of a path (APNs) or of JSON (FCM)."""

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        RULES.stored_tokens(text)
        for rules in RULES.values():
            try:
                token = rules.token(text)
            except ValueError:
                continue
            assert rules.token(token) == token
            assert token.isascii()
            assert token.isprintable()
            # Apple's becomes a part of the path.
            assert rules.name != apns.NAME or DEVICE_TOKEN.fullmatch(token)

    return run
