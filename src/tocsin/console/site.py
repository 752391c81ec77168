"""What all pages share: who asks, how a page is answered, and what happens when the API refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

from litestar import Request, Response
from litestar.datastructures import Cookie, FormMultiDict
from litestar.response import Redirect, Stream

from tocsin.console.admin_api import AdminApi, ApiError
from tocsin.console.options import Options
from tocsin.console.rendering import Assets, Renderer
from tocsin.console.security import CookieNames, from_own_page
from tocsin.console.sessions import Session, Sessions, new_cookie

AnyRequest = Request[Any, Any, Any]

THEMES: Final = ("auto", "light", "dark")
UNCHANGED: Final = ""
_MOST_STREAMS: Final = 8
_HTML: Final = "text/html"


class Site:
    """The parts of a running console."""

    def __init__(self, options: Options, api: AdminApi, sessions: Sessions, renderer: Renderer, assets: Assets) -> None:
        self.options = options
        self.api = api
        self.sessions = sessions
        self.renderer = renderer
        self.assets = assets
        self.cookies = CookieNames(secure=options.secure)

    def __deepcopy__(self, memo: object) -> Self:
        """Itself: Litestar makes a deep copy of a router, with all that its handlers hold."""
        return self

    def page(
        self, request: AnyRequest, template: str, *, status: int = 200, title: str, **context: Any
    ) -> Response[str]:
        """A whole page. For one who has not signed in it gets what the form of the sign-in needs."""
        session = self.sessions.find(request.cookies.get(self.cookies.session))
        visitor = None if session else request.cookies.get(self.cookies.visitor)
        new_visitor = None
        if session is None and not visitor:
            visitor = new_visitor = new_cookie()
        theme = request.cookies.get(self.cookies.theme, "auto")
        text = self.renderer.render(
            template,
            title=title,
            session=session,
            csrf=session.csrf if session else self.sessions.csrf(visitor or ""),
            notices=session.take_notices() if session else [],
            theme=theme if theme in THEMES else "auto",
            path=request.url.path,
            here=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            with_phones=self.options.emulator_url is not None,
            **context,
        )
        cookies = [self.cookies.cookie(self.cookies.visitor, new_visitor)] if new_visitor else []
        return Response(text, status_code=status, media_type=_HTML, cookies=cookies)

    async def require_session(self, request: AnyRequest) -> Response[Any] | None:
        """Run before every page: who has not signed in is sent there, and a form must be the console's own."""
        # A browser asks for a stream again by itself, so that is no use of the session.
        live = request.url.path.endswith("/live")
        session = self.sessions.find(request.cookies.get(self.cookies.session), use=not live)
        if session is None:
            if request.method != "GET" or live:
                return Response("Sign in first.", status_code=401, media_type="text/plain")
            if request.headers.get("sec-fetch-site") == "cross-site":
                # The cookie is not sent along a link on another site. From this page it is.
                return self.page(request, "enter.html", title="tocsin", target=self._own_target(request))
            return Redirect(f"/sign-in?next={quote(self._own_target(request), safe='')}", status_code=303)
        request.scope.setdefault("state", {})["session"] = session
        if request.method not in ("GET", "HEAD"):
            return await self.refuse_foreign_form(request, request.cookies.get(self.cookies.session))
        return None

    async def refuse_foreign_form(self, request: AnyRequest, cookie: str | None) -> Response[Any] | None:
        """A refusal where a form is not of the console's own pages; else None."""
        given = (await request.form()).get("csrf")
        if from_own_page(request, self.options.public_origin) and self.sessions.is_csrf(cookie, str(given or "")):
            return None
        return self.page(
            request,
            "message.html",
            status=403,
            title="Not accepted",
            text="This form did not come from a page of this console, or the page was open for too long."
            " Nothing was changed. Go back, load the page again, and repeat it.",
        )

    @staticmethod
    def session(request: AnyRequest) -> Session:
        """Who has signed in; only after `require_session`."""
        session: Session = request.scope["state"]["session"]
        return session

    def failed(self, request: AnyRequest, error: ApiError, *, title: str = "Not possible") -> Response[Any]:
        """The answer to a request for which the API could not do its part."""
        if error.key_refused:
            return self.sign_out(request, "?ended=key")
        return self.page(
            request, "message.html", status=502 if error.unreachable else error.status, title=title, text=str(error)
        )

    def sign_out(self, request: AnyRequest, why: str = "") -> Response[Any]:
        """Forget the session, and show the sign-in."""
        self.sessions.end(request.cookies.get(self.cookies.session))
        return Redirect(f"/sign-in{why}", status_code=303, cookies=[self.cookies.ended(self.cookies.session)])

    def stream(self, request: AnyRequest, fragments: Callable[[Session], AsyncIterator[str]]) -> Response[Any]:
        """A page's parts as they change, as server-sent events. `fragments` has `UNCHANGED` where there is nothing new:
        the stream ends with the session, which is looked at each time."""
        session = self.session(request)
        if session.streams >= _MOST_STREAMS:
            return Response("Too many pages are open.", status_code=429, media_type="text/plain")
        return Stream(
            self._events(session, fragments),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    async def _events(self, session: Session, fragments: Callable[[Session], AsyncIterator[str]]) -> AsyncIterator[str]:
        session.streams += 1
        try:
            yield "retry: 3000\n\n"
            async for html in fragments(session):
                if self.sessions.is_over(session):
                    break
                if html == UNCHANGED:
                    continue
                lines = "".join(f"data: {line}\n" for line in html.splitlines())
                yield f"event: parts\n{lines}\n"
            yield "event: end\ndata:\n\n"
        except ApiError as error:
            yield f"event: trouble\ndata: {' '.join(str(error).split())}\n\n"
        finally:
            session.streams -= 1

    @staticmethod
    def _own_target(request: AnyRequest) -> str:
        return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def own_path(target: str | None, default: str = "/") -> str:
    """Where to go next: a path of the console, whatever a link said."""
    if not target or not target.startswith("/") or not target.isprintable():
        return default
    parts = urlsplit(target)
    # Browsers take // and \ at the beginning for another host.
    if parts.scheme or parts.netloc or target.startswith(("//", "/\\")) or "\\" in target:
        return default
    return target


def text_of(form: FormMultiDict, name: str) -> str:
    """A text field of a form, without spaces around it; empty where it is absent."""
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""


def see(target: str, *cookies: Cookie) -> Response[Any]:
    """Go to a page after a form: reloading it repeats nothing."""
    return Redirect(target, status_code=303, cookies=list(cookies))


class Pages:
    """Pages that belong together. Not copied, like `Site`."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def __deepcopy__(self, memo: object) -> Self:
        return self
