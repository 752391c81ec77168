"""Bulk actions over a filter: the server does them, whether the page stays open or not."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect
from tests.support.console import Service

from tocsin.cli.demo.users import JOHN

MANY = 10_000
FEW = 25
DONE_MS = 180_000
"""Ten thousand replays take some seconds; a loaded machine takes longer."""


def fax(number: int, phone: str) -> dict[str, object]:
    return {
        "owner": JOHN.id,
        "message": "fax_new",
        "fax": f"af729cc0-3251-11e2-81c1-{number:012x}",
        "phone": phone,
        "page_count": 1,
    }


@pytest.fixture
def letters(service: Service) -> None:
    """Many dead letters with one reason, and a few with another. From now on the emulator accepts everything."""
    (pixel,) = [phone.token for phone in JOHN.phones if phone.provider == "fcm"]
    refuse = {"match": {"provider": "apns"}, "status": 400, "reason": "BadExpirationDate"}
    also = {"match": {"token": pixel}, "status": 400, "reason": "INVALID_ARGUMENT", "field": "message.data"}
    service.faults(refuse)
    service.send_many([fax(number, "+4930123456") for number in range(MANY)])
    service.until(lambda: service.api("GET", "/api/admin/figures")["dead_letters"] >= MANY, 120)
    service.faults(also)
    service.send_many([fax(MANY + number, "+4930123457") for number in range(FEW)])
    service.until(lambda: service.api("GET", "/api/admin/figures")["dead_letters"] >= MANY + FEW, 120)
    service.faults()


@pytest.mark.usefixtures("letters")
def test_ten_thousand_dead_letters_are_replayed_by_a_filter_and_no_others(page: Page, service: Service) -> None:
    before = service.accepted()
    page.goto("/dead-letters")
    page.get_by_label("Reason").fill("BadExpirationDate")
    page.get_by_role("button", name="Replay all that match").click()
    estimate = page.get_by_text("dead letters are delivered again").inner_text()
    assert 0.9 * MANY < int("".join(re.findall(r"\d", estimate))) < 1.1 * MANY
    page.get_by_role("button", name="Replay them").click()
    page.wait_for_url("**/jobs/*")
    job = page.get_by_role("region", name="Job")
    expect(job.get_by_role("status")).to_have_text("done", timeout=DONE_MS)
    expect(job).to_contain_text("10,000")
    service.until(lambda: service.accepted() == before + MANY, 120)
    page.goto("/dead-letters")
    expect(page.get_by_role("heading", name=f"{FEW} dead letters")).to_be_visible()
    page.goto("/jobs")
    expect(page.get_by_role("link", name="Replay dead letters")).to_be_visible()
