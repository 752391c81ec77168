"""The audit log: who has changed what. It can be read here, and by nothing be changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from litestar import get
from litestar.params import QueryParameter
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from tocsin.api import documentation as doc
from tocsin.api.problems import bad_input
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.domain.actors import ActorKind
from tocsin.store.audit_chain import Detail, Recorded, shown
from tocsin.store.ports import Audit, UnknownCursor
from tocsin.store.records import Cursor


class EntryView(Struct, frozen=True):
    """Who has done what. `actor` is a key's id, a user's pseudonym, or the account that has run a command on the
    server's machine; `source` an address, or `command line`. The `hash` covers the entry and the hash before it."""

    chain: str
    number: int
    at: str
    kind: ActorKind
    actor: str
    source: str
    action: str
    subject: str
    details: Mapping[str, Detail]
    hash: str


class EntryPage(Struct, frozen=True):
    """Some entries, newest first. `next` is the `start` of the following page; null on the last one."""

    entries: list[EntryView]
    next: str | None


class AuditRoutes(Shared):
    """The route `/api/admin/audit`."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def handlers(self) -> list[ControllerRouterHandler]:
        return [get("/audit", **doc.admin("listAudit", "Who has changed what"))(self.list_entries)]

    async def list_entries(
        self,
        limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
        start: Annotated[
            str | None, QueryParameter(description="The `next` of the preceding page; without it, the first page")
        ] = None,
    ) -> EntryPage:
        try:
            page = await self._audit.page(limit, start=None if start is None else Cursor(start))
        except UnknownCursor as error:
            raise bad_input("?start", str(error)) from None
        return EntryPage([_view(one) for one in page.entries], page.next)


def _view(recorded: Recorded) -> EntryView:
    entry = shown(recorded)
    return EntryView(
        entry.chain,
        entry.number,
        rfc3339(entry.at_ms),
        entry.actor.kind,
        entry.actor.id,
        entry.actor.source,
        entry.action,
        entry.subject,
        entry.details,
        recorded.hash.hex(),
    )
