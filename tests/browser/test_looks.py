"""Everybody can read the pages: axe finds nothing serious, nothing overflows, and nothing comes from elsewhere."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from tests.browser.conftest import NewPage
from tests.browser.pages import PAGES, a_job
from tests.support.console import Service

from tocsin.cli.demo.users import ANNA

Where = dict[str, tuple[str, str]]
"""Addresses of pages, and their headings."""
WIDE, NARROW = {"width": 1360, "height": 860}, {"width": 360, "height": 780}


@pytest.fixture(scope="module", autouse=True)
def something_to_see(service: Service) -> Where:
    """An event with a refused, a dead and a good device, so that the pages are not empty, and a job: where they are,
    and their headings."""
    pixel = next(phone for phone in ANNA.phones if phone.provider == "fcm")
    ipad = next(phone for phone in ANNA.phones if phone.sandbox)
    service.faults(
        {"match": {"token": pixel.token}, "status": 400, "reason": "INVALID_ARGUMENT", "field": "message.data"},
        {"match": {"token": ipad.token}, "status": 410, "reason": "Unregistered", "timestamp": 4_000_000_000_000},
    )
    fax = {"owner": ANNA.id, "message": "fax_new", "fax": "af729cc0-3251-11e2-81c1-0800200c9a66", "phone": "+4922155"}
    sent = service.api("POST", "/api/admin/events/test", fax | {"page_count": 2})["events"][0]
    service.until(lambda: service.api("GET", f"/api/admin/events/{sent}")["state"] == "dead")
    service.faults()
    return {"event": (f"/events/{sent}", "New fax"), "job": a_job(service)}


def opened(page: Page, name: str, more: Where) -> None:
    address, heading = (PAGES | more)[name]
    page.goto(address)
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing_serious_on_any_page(
    new_page: NewPage, something_to_see: Where, scheme: str, viewport: dict[str, int]
) -> None:
    page = new_page(color_scheme=scheme, viewport=viewport)
    found = {}
    for name in [*PAGES, *something_to_see]:
        opened(page, name, something_to_see)
        results = Axe().run(page).response
        assert {"color-contrast", "label"} & {one["id"] for one in results["passes"]}, "axe has looked at nothing"
        serious = [
            (one["id"], [node["html"][:200] for node in one["nodes"]])
            for one in results["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        if serious:
            found[name] = serious
    assert found == {}


def test_axe_finds_nothing_serious_at_the_sign_in(new_page: NewPage) -> None:
    page = new_page(signed_in=False)
    page.goto("/sign-in")
    serious = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    assert serious == []


def test_no_page_is_wider_than_a_small_phone(new_page: NewPage, something_to_see: Where) -> None:
    page = new_page(viewport={"width": 320, "height": 640})
    for name in [*PAGES, *something_to_see]:
        opened(page, name, something_to_see)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, name


def test_no_link_of_what_needs_attention_is_broken_in_two(new_page: NewPage) -> None:
    """At these widths the names of the links stand near the ends of their lines, or do not."""
    page = new_page(viewport=WIDE)
    expect(page.locator(".matters a").first).to_be_visible()
    lines = "links => links.map(link => link.getClientRects().length)"
    for width in range(1000, WIDE["width"] + 1, 24):
        page.set_viewport_size({"width": width, "height": 860})
        assert set(page.locator(".matters a").evaluate_all(lines)) == {1}, width


def test_no_page_loads_anything_from_elsewhere(new_page: NewPage, service: Service, something_to_see: Where) -> None:
    page = new_page(signed_in=False)
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    page.goto("/sign-in")
    page.get_by_label("Admin key").fill(service.admin_key)
    page.get_by_role("button", name="Sign in").click()
    for name in [*PAGES, *something_to_see]:
        opened(page, name, something_to_see)
    assert asked == {urlsplit(service.console_url).netloc}


def test_what_breaks_the_policy_is_noticed(page: Page, broken: list[str], service: Service) -> None:
    """So the check at the end of every other test can fail."""
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">red</p>')")
    service.until(lambda: page.evaluate("1") == 1 and any("Content Security Policy" in text for text in broken), 20)
    broken.clear()
