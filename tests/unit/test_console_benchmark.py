"""The benchmark of the console measures every page that it has."""

from __future__ import annotations

import re

from benchmarks.console import paths

from tocsin.console.app import console
from tocsin.console.options import options
from tocsin.settings import Console

_NOT_MEASURED = {
    "/phones": "in the demo alone",
    "/sign-in": "asks the server nothing before it is sent",
    "/events": "leads on to the event",
}
_NO_PAGE = ("/live", "/static/", "/health/", "/theme", "/icons")


def test_every_page_of_the_console_is_measured() -> None:
    measured = {path.partition("?")[0] for path in paths("01a219d1-3635-7ef8-b7ed-295378462cf9", "job_1").values()}
    routes = console(options(Console())).routes
    pages = {route.path for route in routes if "GET" in getattr(route, "methods", ())} - _NOT_MEASURED.keys()
    pages = {page for page in pages if not any(part in page for part in _NO_PAGE)}
    assert {"/deliveries", "/jobs/{job:str}"} <= pages
    # `/jobs/new` is a page of its own, and not that of a job.
    of_any = measured - pages
    missed = [page for page in sorted(pages - measured) if not any(_fits(page, path) for path in of_any)]
    assert missed == []


def _fits(page: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"{[^}]*}", "[^/]+", page), path) is not None
