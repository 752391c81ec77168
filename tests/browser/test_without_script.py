"""Every page works without script: what is live with it is there when the page is loaded."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from tests.browser.conftest import NewPage
from tests.browser.pages import PAGES, a_job
from tests.support.console import Service

from tocsin.cli.demo.users import JOHN


@pytest.fixture
def plain(new_page: NewPage) -> Page:
    return new_page(java_script_enabled=False)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_without_script(plain: Page, name: str) -> None:
    address, heading = PAGES[name]
    plain.goto(address)
    expect(plain.get_by_role("heading", level=1)).to_have_text(heading)


def test_a_job_is_whole_without_script(plain: Page, service: Service) -> None:
    address, heading = a_job(service)
    plain.goto(address)
    expect(plain.get_by_role("heading", level=1)).to_have_text(heading)
    expect(plain.get_by_role("region", name="Job").get_by_role("status")).to_have_text("done")


def test_an_event_is_sent_and_its_timeline_read_without_script(plain: Page, service: Service) -> None:
    plain.goto("/send/fax_new")
    plain.get_by_label("owner").fill(JOHN.id)
    plain.get_by_role("button", name="Send").click()
    plain.wait_for_url("**/events/*")

    def arrived() -> bool:
        plain.get_by_role("link", name="Refresh").click()
        return plain.get_by_text("accepted by Apple", exact=True).count() == 1

    service.until(arrived)
    plain.goto("/phones")
    expect(plain.get_by_role("region", name="John Doe").get_by_text("2 pages")).to_have_count(2)


def test_the_colours_are_chosen_without_script_and_stay(plain: Page) -> None:
    plain.goto("/send")
    plain.get_by_role("button", name="Dark").click()
    expect(plain.get_by_role("heading", level=1)).to_have_text("Send")
    expect(plain.locator("html")).to_have_attribute("data-theme", "dark")
    plain.goto("/")
    expect(plain.locator("html")).to_have_attribute("data-theme", "dark")
