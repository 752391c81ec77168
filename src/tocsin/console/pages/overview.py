"""Overview: whether all is well, at one look."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

from litestar import Response, get
from litestar.types import ControllerRouterHandler

from tocsin.console.admin_api import ApiError, both
from tocsin.console.attention import attention, credential_tones
from tocsin.console.charts import Series, chart
from tocsin.console.records import Account, Figures, Sample
from tocsin.console.sessions import Session
from tocsin.console.site import AnyRequest, Pages, see

_AREA: Final = "deliveries"
"""What a key must be for. One that is not is shown another page first."""
_HISTORY: Final = 300
_ACCOUNTS_EVERY_S: Final = 15.0
_DRAW_EVERY_S: Final = 1.9
"""Every second event of the figures: a chart of five minutes does not change more often."""


class OverviewPages(Pages):
    """`/`, and the stream of its parts."""

    def handlers(self) -> list[ControllerRouterHandler]:
        return [get("/")(self.show), get("/live")(self.live)]

    async def show(self, request: AnyRequest) -> Response[Any]:
        session = self._site.session(request)
        if session.may and _AREA not in session.may:
            return see("/devices" if "devices" in session.may else "/applications")
        try:
            figures, accounts = await self._read(session.key)
        except ApiError as error:
            return self._site.failed(request, error, title="The server cannot be asked")
        return self._site.page(
            request, "overview.html", title="Overview", **_values(figures, list(figures.history), accounts)
        )

    async def live(self, request: AnyRequest) -> Response[Any]:
        return self._site.stream(request, self._parts)

    async def _parts(self, session: Session) -> AsyncIterator[str]:
        api = self._site.api
        figures, accounts = await self._read(session.key)
        history = deque(figures.history, _HISTORY)
        read_s = drawn_s = time.monotonic()
        async with aclosing(api.events(session.key, "/figures/stream", Figures)) as stream:
            async for figures in stream:
                history.append(figures.sample())
                now_s = time.monotonic()
                if now_s - drawn_s < _DRAW_EVERY_S:
                    continue
                drawn_s = now_s
                if now_s - read_s > _ACCOUNTS_EVERY_S:
                    read_s = now_s
                    accounts = await api.get_if_allowed(session.key, "/accounts", list[Account])
                yield await asyncio.to_thread(
                    self._site.renderer.render, "parts/overview.html", **_values(figures, list(history), accounts)
                )

    async def _read(self, key: str) -> tuple[Figures, list[Account] | None]:
        api = self._site.api
        return await both(api.get(key, "/figures", Figures), api.get_if_allowed(key, "/accounts", list[Account]))


def _values(figures: Figures, history: list[Sample], accounts: list[Account] | None) -> dict[str, Any]:
    """What the templates of the overview need."""
    rates = chart(
        [
            Series("accepted", "accepted", [one.accepted for one in history]),
            Series("sent", "sent", [one.sent for one in history]),
            Series("failed", "failed", [one.failed for one in history]),
        ],
        span=_HISTORY,
    )
    now = datetime.now(UTC)
    return {
        "figures": figures,
        "accounts": accounts,
        "tones": credential_tones(accounts or [], now),
        "matters": attention(figures, accounts or [], now),
        "rates": rates,
        "backlog": chart([Series("backlog", "backlog", [one.backlog for one in history])], span=_HISTORY),
        "latency": chart([Series("p99", "latency", [one.p99_ms for one in history])], least_top=10, span=_HISTORY),
        "minutes": _HISTORY // 60,
    }
