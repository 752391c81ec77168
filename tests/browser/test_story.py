"""What an operator does in a browser, from a first look to a repaired credential."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect
from tests.browser.conftest import NewPage
from tests.support.console import Service, another_key

from tocsin.cli.demo.users import ANNA, APPLICATION_ID, JOHN

REPAIRED_MS = 90_000
"""A lane that is paused for its credential goes on within a second of the repair; a loaded machine takes longer."""


def send_fax(page: Page, owner: str) -> None:
    """Send the example of a new fax to a user; the page is the event's timeline then."""
    page.goto("/send/fax_new")
    page.get_by_label("owner").fill(owner)
    page.get_by_role("button", name="Send").click()
    page.wait_for_url("**/events/*")


def test_an_event_is_sent_from_a_form_and_followed_to_the_virtual_phones(new_page: NewPage, service: Service) -> None:
    phones = new_page()
    phones.goto("/phones")
    expect(phones.get_by_text("Live", exact=True)).to_be_visible()
    page = new_page()
    send_fax(page, ANNA.id)
    expect(page.get_by_role("status").first).to_contain_text("Accepted by tocsin")
    # The page fills as it happens: nothing is loaded again.
    expect(page.get_by_text("accepted by Apple", exact=True)).to_have_count(3)
    expect(page.get_by_text("accepted by Google", exact=True)).to_have_count(1)
    anna = phones.get_by_role("region", name="Anna Berg")
    expect(anna.get_by_text("+492215587412, 2 pages")).to_have_count(4)
    expect(phones.get_by_role("region", name="John Doe").get_by_text("+492215587412, 2 pages")).to_have_count(0)


def test_a_broken_credential_pauses_its_lane_with_an_explanation_and_its_repair_delivers_what_waited(
    page: Page, service: Service, tmp_path: Path
) -> None:
    application = f"/applications/apns/{APPLICATION_ID}"
    page.goto(application)
    page.get_by_label("Key file (.p8)").set_input_files(another_key(tmp_path))
    page.get_by_role("button", name="Save, and ask Apple").click()
    refused = page.get_by_role("alert").filter(has_text="Apple does not accept the key")

    def said_to_be_refused() -> bool:
        if refused.count() == 0:  # On a loaded machine Apple may not have answered in time.
            page.get_by_role("button", name="Ask Apple").click()
        return refused.count() == 1

    service.until(said_to_be_refused)
    send_fax(page, JOHN.id)
    event = page.url
    expect(page.get_by_text("accepted by Google", exact=True)).to_have_count(1)
    waiting = page.get_by_role("region", name="Apple")
    expect(waiting.get_by_text("waiting", exact=True)).to_be_visible()
    expect(waiting).to_contain_text("InvalidProviderToken")
    expect(waiting).to_contain_text("key")

    page.goto("/")
    verdict = page.get_by_role("region", name="Verdict")
    expect(verdict).to_contain_text("Apple, production: paused")
    expect(page.get_by_role("region", name="Lanes").get_by_text("paused", exact=True)).to_be_visible()

    timeline = page.context.new_page()
    timeline.goto(event)
    page.goto(application)
    page.get_by_label("Key file (.p8)").set_input_files(service.apns_key)
    page.get_by_label("Key id").fill(service.key_id)
    page.get_by_role("button", name="Save, and ask Apple").click()
    expect(page.get_by_text("Apple accepts the credential").first).to_be_visible()
    # The other window shows it arrive.
    expect(timeline.get_by_text("accepted by Apple", exact=True)).to_have_count(1, timeout=REPAIRED_MS)
    (iphone,) = [phone.token for phone in JOHN.phones if phone.provider == "apns"]
    assert service.received(iphone)[-1]["body"]["message"] == "fax_new"
    page.goto("/")
    expect(page.get_by_role("region", name="Verdict")).to_contain_text("All is well")


def test_why_a_phone_is_gone_is_explained_and_it_is_restored(page: Page, service: Service) -> None:
    (pixel,) = [phone for phone in JOHN.phones if phone.provider == "fcm"]
    service.faults({"match": {"token": pixel.token}, "status": 404, "reason": "UNREGISTERED"})
    send_fax(page, JOHN.id)
    expect(page.get_by_text("token no longer valid", exact=True)).to_be_visible()
    service.faults()
    page.goto(f"/devices?owner={JOHN.id}")
    gone = page.get_by_role("region", name="Gone")
    expect(gone).to_contain_text(pixel.token)
    expect(gone).to_contain_text("UNREGISTERED")
    gone.get_by_role("button", name="Restore").click()
    expect(page.get_by_role("status")).to_contain_text("1 registration restored")
    expect(page.get_by_role("region", name="Registered")).to_contain_text(pixel.token)


def test_a_search_for_a_token_keeps_it_out_of_the_address(page: Page, service: Service) -> None:
    send_fax(page, JOHN.id)
    (iphone,) = [phone.token for phone in JOHN.phones if phone.provider == "apns"]
    expect(page.get_by_text("accepted by Apple", exact=True)).to_have_count(1)

    def searched() -> bool:
        page.goto("/deliveries")
        page.get_by_label("Device token").fill(iphone.upper())
        page.get_by_role("button", name="Search").click()
        return page.get_by_role("cell", name="accepted by Apple").count() > 0

    service.until(searched)
    assert iphone not in page.url.lower()
    expect(page.get_by_role("cell", name="accepted by Google")).to_have_count(0)
    page.reload()
    assert page.get_by_role("cell", name="accepted by Apple").count() > 0
