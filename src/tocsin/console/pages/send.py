"""Send: a form for each kind of event, filled with its example; then the timeline of what it caused."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from tocsin.console.admin_api import ApiError
from tocsin.console.event_forms import EventForm, event_forms
from tocsin.console.records import Accepted
from tocsin.console.site import AnyRequest, Pages, see


class SendPages(Pages):
    """`/send`."""

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get("/send")(self.show),
            get("/send/{message:str}")(self.show_one),
            post("/send/{message:str}", status_code=303)(self.send),
        ]

    async def show(self, request: AnyRequest) -> Response[Any]:
        forms = await event_forms(self._site.api)
        return self._form(request, forms, next(iter(forms)))

    async def show_one(self, request: AnyRequest, message: FromPath[str]) -> Response[Any]:
        return self._form(request, await event_forms(self._site.api), message)

    async def send(self, request: AnyRequest, message: FromPath[str]) -> Response[Any]:
        session, forms = self._site.session(request), await event_forms(self._site.api)
        if message not in forms:
            return see("/send")
        form = await request.form()
        try:
            event = forms[message].read(form)
            accepted = await self._site.api.post(session.key, "/events/test", event, Accepted)
        except ApiError as error:
            if error.status not in (400, 409, 413, 503):
                raise
            typed = {field.name: str(form.get(field.name) or "") for field in forms[message].fields}
            wrong = {field.name: error.about(field.name) for field in forms[message].fields}
            said = "" if any(wrong.values()) else str(error)
            return self._form(request, forms, message, status=400, typed=typed, wrong=wrong, said=said)
        session.say("Accepted by tocsin: it is on disk. What becomes of it is shown below as it happens.")
        return see(f"/events/{accepted.events[0]}")

    def _form(
        self,
        request: AnyRequest,
        forms: dict[str, EventForm],
        message: str,
        *,
        status: int = 200,
        typed: dict[str, str] | None = None,
        wrong: dict[str, str] | None = None,
        said: str = "",
    ) -> Response[Any]:
        if message not in forms:
            raise ApiError(404, "not-found", "There is no such event.")
        owner = request.query_params.get("owner")
        values = {field.name: field.example for field in forms[message].fields}
        values |= {"owner": owner} if owner else {}
        return self._site.page(
            request,
            "send.html",
            status=status,
            title="Send",
            forms=forms,
            form=forms[message],
            values=values | (typed or {}),
            wrong=wrong or {},
            said=said,
            owner=owner,
        )
