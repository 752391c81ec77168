"""Signing in with an admin key, signing out, and the choice of light or dark."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from litestar import Response, get, post
from litestar.types import ControllerRouterHandler

from tocsin.console.admin_api import ApiError
from tocsin.console.records import Lane, Me
from tocsin.console.site import THEMES, AnyRequest, Pages, Site, own_path, see, text_of

_LONGEST_KEY: Final = 512
_MOST_WRONG: Final = 100
_WRONG_FOR_S: Final = 60.0
_WHY: Final = {
    "key": "The API no longer accepts your key: it was revoked, or has expired.",
    "out": "You have signed out.",
}


class SignInPages(Pages):
    """The only pages for one who has not signed in.

    After a hundred wrong keys within a minute the console asks the API about no more of them for a while: the API would
    slow down the console's address for wrong keys, and with it everybody who has signed in.
    """

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._wrong_at_s: deque[float] = deque(maxlen=_MOST_WRONG)

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get("/sign-in")(self.form),
            post("/sign-in", status_code=303)(self.sign_in),
            post("/theme", status_code=303)(self.theme),
        ]

    def signed_in_handlers(self) -> list[ControllerRouterHandler]:
        return [post("/sign-out", status_code=303)(self.sign_out)]

    async def form(self, request: AnyRequest) -> Response[Any]:
        if self._site.sessions.find(request.cookies.get(self._site.cookies.session)) is not None:
            return see(own_path(request.query_params.get("next")))
        return self._form(request, said=_WHY.get(request.query_params.get("ended", ""), ""))

    async def sign_in(self, request: AnyRequest) -> Response[Any]:
        site = self._site
        if refused := await site.refuse_foreign_form(request, request.cookies.get(site.cookies.visitor)):
            return refused
        form = await request.form()
        key = text_of(form, "key")
        if not key or len(key) > _LONGEST_KEY or not key.isascii() or not key.isprintable():
            return self._form(request, status=400, wrong="Enter an admin key: `tocsin key create admin` makes one.")
        now_s = time.monotonic()
        if len(self._wrong_at_s) == _MOST_WRONG and now_s - self._wrong_at_s[0] < _WRONG_FOR_S:
            return self._form(request, status=429, wrong="Too many wrong keys were tried. Try again in a minute.")
        try:
            me = await self._who(key)
        except ApiError as error:
            if error.key_refused:
                self._wrong_at_s.append(now_s)
            return self._form(request, status=502 if error.unreachable else 401, wrong=_explain(error))
        # A new cookie: one that somebody planted in the browser before is worth nothing.
        site.sessions.end(request.cookies.get(site.cookies.session))
        cookie, _ = site.sessions.create(key, read_only=me.read_only, key_name=me.name, may=frozenset(me.areas))
        return see(own_path(text_of(form, "next")), site.cookies.cookie(site.cookies.session, cookie))

    async def sign_out(self, request: AnyRequest) -> Response[Any]:
        return self._site.sign_out(request, "?ended=out")

    async def theme(self, request: AnyRequest) -> Response[Any]:
        site = self._site
        cookie = request.cookies.get(site.cookies.session)
        if site.sessions.find(cookie) is None:
            cookie = request.cookies.get(site.cookies.visitor)
        if refused := await site.refuse_foreign_form(request, cookie):
            return refused
        form = await request.form()
        chosen = text_of(form, "theme")
        target = own_path(text_of(form, "here"))
        if chosen not in THEMES:
            return see(target)
        return see(target, site.cookies.cookie(site.cookies.theme, chosen, kept=True))

    def _form(self, request: AnyRequest, *, status: int = 200, said: str = "", wrong: str = "") -> Response[Any]:
        target = own_path(request.query_params.get("next"))
        return self._site.page(
            request,
            "sign_in.html",
            status=status,
            title="Sign in",
            target=target,
            said=said,
            wrong=wrong,
            api_url=self._site.options.api_url,
        )

    async def _who(self, key: str) -> Me:
        """What the key may do.

        Raises:
            ApiError: it is no admin key, or the API cannot be asked.
        """
        try:
            return await self._site.api.get(key, "/me", Me)
        except ApiError as error:
            if error.status != 404:
                raise
        # A server that does not tell what a key may: it is an admin's where it may read this.
        await self._site.api.get(key, "/lanes", list[Lane])
        return Me()


def _explain(error: ApiError) -> str:
    match error.status:
        case 401:
            return "The API does not know this key: it was mistyped, revoked, or has expired."
        case 403:
            return "This key is not an admin key. `tocsin key create admin` makes one."
        case _:
            return str(error)
