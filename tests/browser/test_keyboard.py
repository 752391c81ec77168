"""The whole story with the keyboard alone: every step is a key, and focus is always somewhere that can be seen."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect
from tests.browser.conftest import NewPage
from tests.browser.test_story import REPAIRED_MS
from tests.support.console import Service, another_key

from tocsin.cli.demo.users import APPLICATION_ID, JOHN

_MOST_TABS = 120
_FOCUSED = """() => {
  const at = document.activeElement;
  const label = at.labels && at.labels.length ? at.labels[0].textContent : "";
  const name = at.getAttribute("aria-label") || label || at.textContent || at.value || "";
  const style = getComputedStyle(at);
  return {name: name.trim().replace(/\\s+/g, " "), tag: at.tagName, ring: style.outlineStyle !== "none"};
}"""


def tab_to(page: Page, name: str, tag: str = "") -> None:
    """Press Tab until the control of this name has the focus, which must be visible."""
    for _ in range(_MOST_TABS):
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        if focused["name"].startswith(name) and tag.upper() in ("", focused["tag"]):
            assert focused["ring"], f"the focus on {name} cannot be seen"
            return
    raise AssertionError(f"Tab never reaches {name}")


def replace_text(page: Page, text: str) -> None:
    page.keyboard.press("Control+a")
    page.keyboard.type(text)


def follow(page: Page, name: str, heading: str) -> None:
    """Go to a page by its link."""
    tab_to(page, name, "a")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name=heading)).to_be_visible()


def put_key(page: Page, file: Path, key_id: str) -> None:
    """Replace the application's key: the file, its id, and the button."""
    # The browser is told to hand choosers over as soon as somebody listens, and is not waited for: long before the key.
    page.on("filechooser", lambda chooser: None)
    tab_to(page, "Key file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(file)
    tab_to(page, "Key id")
    page.keyboard.type(key_id)
    tab_to(page, "Save, and ask Apple")
    page.keyboard.press("Enter")
    page.wait_for_load_state()


def test_a_lane_is_broken_and_repaired_without_a_mouse(new_page: NewPage, service: Service, tmp_path: Path) -> None:
    page = new_page(signed_in=False)
    page.goto("/")
    # The field gets the focus by itself, which may be after the page has been loaded.
    expect(page.get_by_label("Admin key")).to_be_focused()
    page.keyboard.type(service.admin_key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Overview")).to_be_visible()

    page.keyboard.press("Tab")
    assert page.evaluate(_FOCUSED)["name"] == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.reload()

    follow(page, "Applications", "Applications")
    follow(page, APPLICATION_ID, APPLICATION_ID)
    put_key(page, another_key(tmp_path), "")
    expect(page.get_by_role("alert")).to_contain_text("Apple does not accept the key")

    page.goto("/")
    follow(page, "Send", "Send")
    tab_to(page, "owner")
    replace_text(page, JOHN.id)
    page.keyboard.press("Enter")
    page.wait_for_url("**/events/*")
    expect(page.get_by_text("accepted by Google", exact=True)).to_have_count(1)
    expect(page.get_by_role("region", name="Apple")).to_contain_text("InvalidProviderToken")
    event = page.url

    follow(page, "Overview", "Overview")
    expect(page.get_by_role("region", name="Verdict")).to_contain_text("paused")
    follow(page, "Applications", "Applications")
    follow(page, APPLICATION_ID, APPLICATION_ID)
    put_key(page, service.apns_key, service.key_id)
    expect(page.get_by_text("Apple accepts the credential").first).to_be_visible()
    page.goto(event)
    expect(page.get_by_text("accepted by Apple", exact=True)).to_have_count(1, timeout=REPAIRED_MS)


def test_dead_letters_are_replayed_by_filter_without_a_mouse(page: Page, service: Service) -> None:
    service.faults({"match": {"provider": "apns"}, "status": 400, "reason": "BadExpirationDate"})
    page.goto("/send/fax_new")
    tab_to(page, "owner")
    replace_text(page, JOHN.id)
    page.keyboard.press("Enter")
    page.wait_for_url("**/events/*")
    expect(page.get_by_text("dead letter", exact=True)).to_be_visible()
    service.faults()
    follow(page, "Dead letters", "Dead letters")
    tab_to(page, "Reason")
    page.keyboard.type("BadExpirationDate")
    tab_to(page, "Replay all that match")
    page.keyboard.press("Enter")
    expect(page.get_by_text("dead letters are delivered again")).to_contain_text("1")
    tab_to(page, "Replay them")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/*")
    expect(page.get_by_role("region", name="Job").get_by_role("status")).to_have_text("done", timeout=60_000)


def test_the_menu_of_a_narrow_screen_opens_with_the_keyboard(new_page: NewPage) -> None:
    page = new_page(viewport={"width": 390, "height": 844})
    tab_to(page, "Menu", "summary")
    page.keyboard.press("Enter")
    follow(page, "Quarantine", "Quarantine")
