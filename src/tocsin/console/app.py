"""The console as an ASGI application: all pages, and what an answer looks like that no page gives."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from litestar import Litestar, Request, Response, Router, get
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from tocsin.console.admin_api import AdminApi, ApiError
from tocsin.console.emulator import EmulatorPhones
from tocsin.console.event_forms import event_forms
from tocsin.console.options import Options
from tocsin.console.pages.access import AccessPages
from tocsin.console.pages.applications import ApplicationPages
from tocsin.console.pages.dead_letters import DeadLetterPages
from tocsin.console.pages.deliveries import DeliveryPages
from tocsin.console.pages.devices import DevicePages
from tocsin.console.pages.events import EventPages
from tocsin.console.pages.jobs import JobPages
from tocsin.console.pages.overview import OverviewPages
from tocsin.console.pages.phones import PhonePages
from tocsin.console.pages.quarantine import QuarantinePages
from tocsin.console.pages.send import SendPages
from tocsin.console.pages.sign_in import SignInPages
from tocsin.console.rendering import Assets, Renderer
from tocsin.console.sessions import Sessions
from tocsin.console.site import Site

_log: Final = logging.getLogger(__name__)
_LARGEST_FORM: Final = 256 * 1024
_A_YEAR: Final = "public, max-age=31536000, immutable"


def console(options: Options) -> Litestar:
    """The application, as `security.SecureHeaders` wraps it.

    Raises:
        OSError, ssl.SSLError: the file of authorities for the API cannot be read, or holds none.
    """
    api, assets = AdminApi(options), Assets()
    phones = EmulatorPhones(options) if options.emulator_url else None
    site = Site(options, api, Sessions(options.session_idle, time.monotonic), Renderer(assets), assets)
    sign_in = SignInPages(site)
    pages: list[ControllerRouterHandler] = [
        *sign_in.signed_in_handlers(),
        *OverviewPages(site).handlers(),
        *DeliveryPages(site).handlers(),
        *EventPages(site).handlers(),
        *DevicePages(site).handlers(),
        *ApplicationPages(site).handlers(),
        *SendPages(site).handlers(),
        *DeadLetterPages(site).handlers(),
        *QuarantinePages(site).handlers(),
        *JobPages(site).handlers(),
        *AccessPages(site).handlers(),
        *(PhonePages(site, phones).handlers() if phones else []),
    ]

    @asynccontextmanager
    async def clients(_: Litestar) -> AsyncIterator[None]:
        described = asyncio.create_task(_have_described(api))
        yield
        described.cancel()
        await api.close()
        if phones is not None:
            await phones.close()

    def refused_by_api(request: Request[Any, Any, Any], error: ApiError) -> Response[Any]:
        return site.failed(request, error)

    def no_page(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
        title = "There is no such page" if error.status_code == 404 else "Not possible"
        text = "Go to the overview, and start from there." if error.status_code == 404 else error.detail
        return site.page(request, "message.html", status=error.status_code, title=title, text=text)

    def our_fault(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        number = secrets.token_hex(4)
        _log.error("%s %s failed (%s)", request.method, request.scope["path"], number, exc_info=error)
        text = f"The console's log has the reason under {number}. The server, a process of its own, is not affected."
        return site.page(request, "message.html", status=500, title="The console failed", text=text)

    return Litestar(
        [
            Router("/", route_handlers=pages, before_request=site.require_session),
            *sign_in.handlers(),
            *_static(assets),
        ],
        exception_handlers={ApiError: refused_by_api, HTTPException: no_page, Exception: our_fault},
        lifespan=[clients],
        openapi_config=None,
        request_max_body_size=_LARGEST_FORM,
        logging_config=None,
    )


async def _have_described(api: AdminApi) -> None:
    """The server makes the description of its events, from which *Send* is made, when it is asked for it first: that
    takes some tenths of a second, in which nobody should wait for a page."""
    with suppress(ApiError):
        await event_forms(api)


def _static(assets: Assets) -> list[ControllerRouterHandler]:
    async def static(version: FromPath[str], name: FromPath[str]) -> Response[Any]:
        found = assets.find(name) if version == assets.version else None
        if found is None:
            return Response("There is no such file.", status_code=404, media_type="text/plain")
        content, media_type = found
        return Response(content, media_type=media_type, headers={"cache-control": _A_YEAR})

    async def live() -> Response[Any]:
        return Response("alive", media_type="text/plain")

    return [get("/static/{version:str}/{name:str}")(static), get("/health/live")(live)]
