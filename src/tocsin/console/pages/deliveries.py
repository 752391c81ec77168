"""Deliveries: the search over what became of events, device by device."""

from __future__ import annotations

from typing import Any, Final

from litestar import Response, get, post
from litestar.types import ControllerRouterHandler

from tocsin.console import words
from tocsin.console.admin_api import ApiError
from tocsin.console.records import Found
from tocsin.console.searching import OUTCOMES, SYSTEMS, Conditions, conditions, hold
from tocsin.console.site import AnyRequest, Pages, see, text_of

_FIELDS: Final = ("owner", "event_id", "message", "outcome", "system", "account", "reason", "from", "until")
_PER_PAGE: Final = 50


class DeliveryPages(Pages):
    """`/deliveries`."""

    def handlers(self) -> list[ControllerRouterHandler]:
        return [get("/deliveries")(self.show), post("/deliveries", status_code=303)(self.search)]

    async def search(self, request: AnyRequest) -> Response[Any]:
        """From the form to an address that can be kept: without the token."""
        form = await request.form()
        asked = Conditions({name: text_of(form, name) for name in _FIELDS})
        token = text_of(form, "device_token")
        held = hold(self._site.session(request), token) if token else None
        return see("/deliveries?" + asked.query(device=held))

    async def show(self, request: AnyRequest) -> Response[Any]:
        session = self._site.session(request)
        asked = conditions(request.query_params, _FIELDS)
        name = request.query_params.get("device", "")
        token = session.held.get(name, "")
        start = request.query_params.get("start")
        found, wrong = Found(), ""
        try:
            body = asked.body() | ({"device_token": token} if token else {}) | ({"start": start} if start else {})
            if "outcome" in body:
                body["outcome"] = [body["outcome"]]
            found = await self._site.api.post(session.key, "/deliveries/search", body | {"limit": _PER_PAGE}, Found)
        except ValueError as error:
            wrong = str(error)
        except ApiError as error:
            if error.status != 400:
                raise
            wrong = str(error)
        return self._site.page(
            request,
            "deliveries.html",
            status=400 if wrong else 200,
            title="Deliveries",
            asked=asked,
            token=token,
            forgotten=bool(name and not token),
            found=found,
            wrong=wrong,
            following=asked.query(device=name, start=found.next) if found.next else "",
            first=asked.query(device=name) if start else "",
            outcome_options=[(name, words.outcome(name).text) for name in OUTCOMES],
            system_options=[(name, words.provider(name)) for name in SYSTEMS],
        )
