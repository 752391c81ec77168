"""`make screenshots`: every page of the console, light and dark, wide and narrow, in docs/images/console.

Everything in the pictures is real: emulator, server and console run, phones receive, a lane is broken. The four that
the README shows are copied into docs/images; the others are not kept in the repository.
"""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page, sync_playwright
from tests.browser.conftest import CHROMIUM
from tests.browser.pages import PAGES
from tests.support.console import Service, another_key, running_service

from tocsin.cli.demo.events import EVENTS
from tocsin.cli.demo.users import ANNA, APPLICATION_ID, JOHN, MARIA, USERS

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
SIZES: Final = {"wide": (1360, 850), "narrow": (390, 844)}
BEST: Final = ("overview-light-wide", "event-dark-wide", "phones-light-wide", "trouble-dark-wide")
TRAFFIC_S: Final = 150
TALLEST: Final = 1400
"""Longer pages are cut off."""


def main() -> None:
    """Make the pictures."""
    if CHROMIUM is None:
        sys.exit("make screenshots needs chromium (Debian, Ubuntu: apt-get install chromium)")
    folder = IMAGES / "console"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with running_service() as service, tempfile.TemporaryDirectory() as scratch:
        event = _happenings(service)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            _shoot(browser, service, folder, {"phones": "/phones"})
            addresses = {
                name: address for name, (address, _) in PAGES.items() if name not in ("phones", "overview", "jobs")
            }
            addresses |= {"event": f"/events/{event}"}
            traffic = _Traffic(service)
            traffic.start()
            _shoot(browser, service, folder, addresses)
            _sign_in(browser, service, folder)
            time.sleep(max(0.0, traffic.started_s + TRAFFIC_S - time.monotonic()))
            _shoot(browser, service, folder, {"overview": "/"})
            _break(service, Path(scratch))
            time.sleep(20)
            _shoot(browser, service, folder, {"trouble": "/", "application-broken": PAGES["application"][0]})
            traffic.stop()
            service.repair()
            _shoot(browser, service, folder, {"jobs": "/jobs", "job": f"/jobs/{_a_job(service)}"})
            browser.close()
    _optimise(sorted(folder.glob("*.png")))
    for name in BEST:
        shutil.copy(folder / f"{name}.png", IMAGES / f"console-{name.rsplit('-', 2)[0]}.png")


class _Traffic(threading.Thread):
    """Events for the three users, at a rate that comes and goes."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._stopped = threading.Event()
        self.started_s = time.monotonic()

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        chance = random.Random(7)
        while not self._stopped.wait(0.5):
            since_s = time.monotonic() - self.started_s
            wave = 22 + 12 * math.sin(since_s / 17) + 4 * math.sin(since_s / 3.1)
            wave += 30 if 60 < since_s % 97 < 70 else 0
            self._service.send_many([_event(chance.choice(USERS).id, chance) for _ in range(max(1, round(wave / 2)))])


def _event(owner: str, chance: random.Random) -> dict[str, Any]:
    return {
        "owner": owner,
        "message": "fax_new",
        "fax": str(uuid.UUID(int=chance.getrandbits(128))),
        "phone": f"+4922155{chance.randrange(10000, 99999)}",
        "page_count": chance.randrange(1, 9),
    }


def _happenings(service: Service) -> str:
    """What the pages are to show: pushes on all phones, a dead token, dead letters. The id of an event with them."""
    for event in EVENTS:
        service.send_many([event])
    service.send_many([_event(JOHN.id, random.Random(1)), dict(EVENTS[4]) | {"owner": MARIA.id}])
    service.until(lambda: service.accepted() >= 24)
    pixel = next(phone for phone in ANNA.phones if phone.provider == "fcm")
    ipad = next(phone for phone in ANNA.phones if phone.sandbox)
    calls = next(phone for phone in ANNA.phones if phone.topic)
    service.faults(
        {"match": {"token": calls.token}, "status": 503, "reason": "ServiceUnavailable", "times": 1},
        {"match": {"token": pixel.token}, "status": 400, "reason": "INVALID_ARGUMENT", "field": "message.data"},
        {"match": {"token": ipad.token}, "status": 410, "reason": "Unregistered", "timestamp": 4_000_000_000_000},
    )
    event = service.api("POST", "/api/admin/events/test", EVENTS[0])["events"][0]
    service.until(lambda: service.api("GET", f"/api/admin/events/{event}")["state"] == "dead")
    service.send_many([dict(one) for one in EVENTS[1:4]])
    service.until(lambda: service.api("GET", "/api/admin/figures")["dead_letters"] >= 4)
    service.faults()
    return str(event)


def _a_job(service: Service) -> str:
    """A replay of some of the dead letters; its id, once it has ended."""
    asked = {"action": "replay", "filter": {"message": "recording_new"}}
    job = service.api("POST", "/api/admin/jobs", asked)["id"]
    service.until(lambda: service.api("GET", f"/api/admin/jobs/{job}")["state"] == "done")
    return str(job)


def _break(service: Service, scratch: Path) -> None:
    key = another_key(scratch).read_text()
    service.api("PUT", f"/api/admin/applications/{APPLICATION_ID}", {"key_pem": key, "key_id": "ZZZZZZZZZZ"})
    service.api("POST", f"/api/admin/accounts/apns/{APPLICATION_ID}/check", {"sandbox": False})


def _shoot(browser: Browser, service: Service, folder: Path, addresses: dict[str, str]) -> None:
    for scheme in ("light", "dark"):
        for size in SIZES:
            page = _page(browser, service, scheme, size)
            _fill_in(page, service)
            for name, address in addresses.items():
                page.goto(address)
                page.wait_for_timeout(2500 if address == "/" else 500)
                whole = page.evaluate("document.documentElement.scrollHeight")
                page.screenshot(
                    path=folder / f"{name}-{scheme}-{size}.png",
                    full_page=True,
                    clip={"x": 0, "y": 0, "width": SIZES[size][0], "height": min(whole, TALLEST)},
                    animations="disabled",
                )
            page.context.close()


def _sign_in(browser: Browser, service: Service, folder: Path) -> None:
    for scheme in ("light", "dark"):
        for size in SIZES:
            page = _page(browser, service, scheme, size)
            page.goto("/sign-in")
            page.screenshot(path=folder / f"sign-in-{scheme}-{size}.png")
            page.context.close()


def _page(browser: Browser, service: Service, scheme: Any, size: str) -> Page:
    width, height = SIZES[size]
    context = browser.new_context(
        base_url=service.console_url, color_scheme=scheme, viewport={"width": width, "height": height}
    )
    return context.new_page()


def _fill_in(page: Page, service: Service) -> None:
    page.goto("/sign-in")
    page.get_by_label("Admin key").fill(service.admin_key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")


def _optimise(files: list[Path]) -> None:
    """Smaller files that look the same, where the system has pngquant."""
    if program := shutil.which("pngquant"):
        options = ["--force", "--ext", ".png", "--skip-if-larger", "--strip"]
        subprocess.run([program, *options, *map(str, files)], check=False)


if __name__ == "__main__":
    main()
