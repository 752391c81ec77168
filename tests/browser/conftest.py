"""A real browser on a real console: emulator, server and console are processes, as `tocsin demo` runs them.

The browser is the system's chromium; playwright drives it and downloads none. A page that breaks the content security
policy, or whose script fails, fails its test.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright
from tests.support.console import Service, running_service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_WAIT_MS = 20_000

NewPage = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(300))
            if CHROMIUM is None:
                why = "needs chromium (Debian, Ubuntu: apt-get install chromium)"
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service() as running:
        yield running


@pytest.fixture(scope="module")
def browser(service: Service) -> Iterator[Browser]:
    """Started after the service, and stopped at the end of the module: meanwhile playwright runs an event loop in this
    thread, and no other can run."""
    assert service
    with sync_playwright() as playwright:
        # As root, and in containers, chromium runs only without its sandbox. It opens nothing but the console.
        expect.set_options(timeout=_WAIT_MS)
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(autouse=True)
def repaired(service: Service) -> Iterator[None]:
    """After each test the credential is right, and nothing fails: the next begins well, whatever became of this one."""
    yield
    service.repair()


@pytest.fixture
def broken() -> list[str]:
    """What the browser has said: of the content security policy, and of scripts that failed."""
    return []


@pytest.fixture
def new_page(browser: Browser, service: Service, broken: list[str]) -> Iterator[NewPage]:
    """Opens pages of the console, each in a browser of its own, signed in unless it is not wanted."""
    contexts: list[BrowserContext] = []

    def noted(message: ConsoleMessage) -> None:
        # What the browser says of a 4xx or 5xx is no fault of the page: tests provoke them.
        if message.type == "error" and "Failed to load resource" not in message.text:
            broken.append(message.text)

    def open_page(*, signed_in: bool = True, key: str | None = None, **options: object) -> Page:
        context = browser.new_context(base_url=service.console_url, **options)  # type: ignore[arg-type]
        context.set_default_timeout(_WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", noted)
        page.on("pageerror", lambda error: broken.append(str(error)))
        if signed_in:
            page.goto("/sign-in")
            page.get_by_label("Admin key").fill(key or service.admin_key)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert broken == []


@pytest.fixture
def page(new_page: NewPage) -> Page:
    """A signed-in page on a wide screen."""
    return new_page()
