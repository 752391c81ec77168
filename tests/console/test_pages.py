"""What the pages say where something is wrong, and that nothing that others wrote is ever HTML."""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.browser.pages import PAGES
from tests.console.conftest import Browser
from tests.support.console import Service

from tocsin.cli.demo.users import ANNA, APPLICATION_ID
from tocsin.console import records
from tocsin.console.emulator import Notification, Screen
from tocsin.console.options import Phone
from tocsin.console.rendering import Assets, Renderer
from tocsin.console.sessions import Sessions
from tocsin.settings import Console

SOURCE = Path(__file__).parents[2] / "src" / "tocsin" / "console"
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
NOW = datetime(2026, 11, 26, 21, 0, tzinfo=UTC)
AT = "2026-11-26T20:59:58.500Z"


@pytest.mark.slow
def test_a_form_that_breaks_a_rule_names_the_field_and_keeps_what_was_typed(operator: Browser) -> None:
    typed = {"csrf": operator.csrf(), "owner": ANNA.id, "fax": "no uuid", "phone": "+49221", "page_count": "-1"}
    answer = operator.post("/send/fax_new", data=typed)
    assert answer.status_code == 400
    assert 'aria-invalid="true"' in answer.text
    assert 'value="no uuid"' in answer.text
    assert 'value="+49221"' in answer.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "Choose the key"),
        ({"key_pem": "no key", "key_id": "AAAAAAAAAA"}, "P-256"),
        ({"key_pem": "x", "certificate_pem": "y"}, "either a key or a certificate"),
        ({"certificate_pem": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"}, "ertificate"),
    ],
)
def test_a_wrong_credential_is_refused_with_its_reason_and_changes_nothing(
    operator: Browser, service: Service, data: dict[str, str], said: str
) -> None:
    before = service.api("GET", "/api/admin/applications")
    answer = operator.post(f"/applications/apns/{APPLICATION_ID}", data={"csrf": operator.csrf(), **data})
    assert answer.status_code == 400
    assert said in answer.text
    assert service.api("GET", "/api/admin/applications") == before


@pytest.mark.slow
def test_a_service_account_that_is_no_json_is_refused(operator: Browser) -> None:
    data = {"csrf": operator.csrf(), "account": "project", "service_account": "{"}
    answer = operator.post("/applications/new/fcm", data=data)
    assert answer.status_code == 400
    assert "not a JSON object" in answer.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "address",
    [
        "/events/01a219d1-3635-7ef8-b7ed-295378462cf9",
        "/events/nonsense",
        "/applications/apns/NOBODY1234.com.example",
        "/applications/new/webpush",
        "/jobs/nonsense",
        "/jobs/..%2F..%2Fmetrics",
        "/send/nonsense",
        "/nowhere",
    ],
)
def test_what_does_not_exist_is_said_not_to(operator: Browser, address: str) -> None:
    answer = operator.get(address)
    assert answer.status_code in (400, 404)
    assert "<h1>" in answer.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "address",
    [
        "/deliveries?from=yesterday",
        "/deliveries?owner=nobody",
        "/deliveries?outcome=nonsense",
        "/deliveries?start=nonsense",
        "/dead-letters?until=never",
        "/dead-letters?start=nonsense",
        "/jobs?start=nonsense",
        "/devices?owner=nobody",
        "/jobs/new?action=replay&from=never",
    ],
)
def test_a_condition_that_cannot_be_is_said_to_be_wrong(operator: Browser, address: str) -> None:
    answer = operator.get(address)
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text


@pytest.mark.slow
def test_a_server_that_cannot_be_reached_is_said_to_be_and_the_console_lives_on(service: Service) -> None:
    from litestar.testing import TestClient

    from tocsin.console.app import console
    from tocsin.console.options import options

    with TestClient(console(options(Console(api_url="http://127.0.0.1:9")))) as client:
        csrf = re.findall(r'name="csrf" value="([0-9a-f]{64})"', client.get("/sign-in").text)[0]
        answer = client.post("/sign-in", data={"csrf": csrf, "key": service.admin_key})
        assert answer.status_code == 502
        assert "No answer from http://127.0.0.1:9" in answer.text
        assert client.get("/health/live").status_code == 200


_ALWAYS_OFFERED = {"/theme", "/sign-out", "/deliveries", "/devices"}
"""The last two search; that they are forms keeps tokens out of addresses."""


@pytest.mark.slow
def test_a_read_only_key_sees_every_page_and_is_offered_no_change(stranger: Browser, service: Service) -> None:
    assert stranger.sign_in(service.key("--read-only", "--name", "support")).status_code == 200
    assert "read-only" in stranger.get("/").text
    for name, (address, heading) in PAGES.items():
        answer = stranger.get(address)
        assert heading in answer.text, name
        buttons = re.findall(r'<form[^>]*method="post"[^>]*action="([^"]+)".*?</form>', answer.text, re.DOTALL)
        offered = {action for action in buttons if action not in _ALWAYS_OFFERED}
        if name not in ("send", "chat", "bulk", "application-new", "project-new", "application-remove"):
            assert offered == set(), name


@pytest.mark.slow
def test_what_a_read_only_key_tries_all_the_same_is_refused_and_changes_nothing(
    stranger: Browser, service: Service
) -> None:
    stranger.sign_in(service.key("--read-only"))
    event = {"owner": ANNA.id, "fax": "af729cc0-3251-11e2-81c1-0800200c9a66", "phone": "", "page_count": "1"}
    before = service.api("GET", "/api/admin/applications")
    answer = stranger.post("/send/fax_new", data={"csrf": stranger.csrf("/send"), **event})
    assert answer.status_code == 403
    assert "may only read" in answer.text
    answer = stranger.post(f"/applications/apns/{APPLICATION_ID}/remove", data={"csrf": stranger.csrf("/send")})
    assert answer.status_code == 403
    assert service.api("GET", "/api/admin/applications") == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("area", "seen", "first"),
    [
        ("devices", {"/devices", "/quarantine", "/phones"}, "/devices"),
        ("credentials", {"/applications", "/phones"}, "/applications"),
        ("deliveries", {"/", "/deliveries", "/send", "/dead-letters", "/phones"}, "/"),
    ],
)
def test_a_key_for_one_area_sees_its_pages_alone(
    stranger: Browser, service: Service, area: str, seen: set[str], first: str
) -> None:
    answer = stranger.sign_in(service.key("--area", area))
    assert answer.status_code == 200
    assert answer.url.path == first
    links = re.findall(r'<li><a href="(/[a-z-]*)"', answer.text)
    assert set(links) == seen
    for link in seen:
        assert stranger.get(link).status_code == 200, link
    assert stranger.get("/dead-letters" if area != "deliveries" else "/devices?owner=" + ANNA.id).status_code == 403


@pytest.mark.slow
def test_the_overview_of_the_demo_is_whole(operator: Browser) -> None:
    page = operator.get("/").text
    assert "All is well" in page
    assert "39JSDKGJ38.de.cospace.app" in page
    assert page.count('class="line ') >= 1


def test_what_others_wrote_is_never_html() -> None:
    renderer = Renderer(Assets(), lambda: NOW)
    explanation = records.Explanation(EVIL, EVIL, EVIL)
    attempt = records.Attempt(AT, EVIL, EVIL, 410, EVIL, EVIL, AT, meaning=EVIL)
    device = records.EventDevice(
        EVIL,
        EVIL,
        EVIL,
        explanation,
        False,
        AT,
        AT,
        EVIL,
        [attempt],
        records.NextStep(EVIL, EVIL, EVIL, AT),
        records.PushRequest(EVIL, [(EVIL, EVIL)], {EVIL: EVIL}),
    )
    event = records.EventTimeline(
        EVIL, EVIL, EVIL, EVIL, AT, AT, 1, explanation, records.Content("hidden", {EVIL: EVIL}), [device]
    )
    shown = renderer.render("parts/event.html", event=event, shown=False)
    phone = Phone(EVIL, EVIL, EVIL, EVIL, EVIL)
    screens = {(EVIL, EVIL): [Screen(phone, [Notification(EVIL, EVIL, EVIL, 1.0)], 1)]}
    shown += renderer.render("parts/phones.html", users=screens, times={1.0: AT})
    job = records.Job(EVIL, EVIL, EVIL, AT, AT, 1, 1, 2, EVIL, EVIL, {EVIL: EVIL})
    shown += renderer.render("parts/jobs.html", listed=records.Jobs([job]), start=None)
    assert "alert(1)" in shown
    assert "<script" not in shown
    assert "<img" not in shown


def test_a_device_of_an_event_says_when_it_was_registered_and_leads_to_itself_among_the_users_devices() -> None:
    renderer = Renderer(Assets(), lambda: NOW)
    token, registered_at = "ab" * 32, "2026-11-01T10:00:00.000Z"
    device = records.EventDevice(
        "apns", token, "token_dead", registered=False, registered_at=registered_at, removed_at=AT, removed_because="why"
    )
    event = records.EventTimeline("id", ANNA.id, "fax_new", "done", AT, devices=[device])
    shown = renderer.render("parts/event.html", event=event, shown=False)
    assert re.search(r"Registered [^;<]*10:00[^;<]*; no longer registered: removed", shown)
    (link,) = re.findall(r'<a class="mono" href="/devices\?owner=([^"#]+)#([^"]+)"', shown)
    assert link[0] == ANNA.id
    assert token not in link[1]
    _, session = Sessions(timedelta(hours=8), lambda: 0.0).create("key")
    own = records.Device(ANNA.id, "apns", token, registered_at)
    for found in (records.Devices([own]), records.Devices([], [records.Removed(own, AT, "410 Unregistered")])):
        listed = renderer.render("parts/devices.html", found=found, owner=ANNA.id, session=session, csrf="", here="")
        assert f'id="{link[1]}"' in listed
        assert f'registered <time datetime="{registered_at}"' in listed


def test_what_a_provider_says_of_one_device_stands_beside_it() -> None:
    renderer = Renderer(Assets(), lambda: NOW)
    _, session = Sessions(timedelta(hours=8), lambda: 0.0).create("key")
    device = records.Device(ANNA.id, "apns", "ab", AT, complaint="400 DeviceTokenNotForTopic", complaint_since=AT)
    found = records.Devices([device, records.Device(ANNA.id, "apns", "cd", AT)])
    shown = renderer.render("parts/devices.html", found=found, owner=ANNA.id, session=session, csrf="", here="")
    assert shown.count("Apple answers 400 DeviceTokenNotForTopic for this device alone; first <time") == 1


def test_no_template_switches_escaping_off_and_none_has_a_style_or_a_script_of_its_own() -> None:
    files = [*SOURCE.rglob("*.html"), *SOURCE.rglob("*.py"), *SOURCE.rglob("*.svg")]
    assert len(files) > 40
    for file in files:
        text = file.read_text()
        for never in ("Markup", "|safe", "| safe", "autoescape false", " style=", "<style", "javascript:"):
            assert never not in text, (file.name, never)
        assert not re.search(r"\son[a-z]+=", text), file.name
        assert not re.search(r"<script(?! src=)", text), file.name
    for file in SOURCE.rglob("*.*"):
        if file.suffix in (".html", ".css", ".js"):
            assert not re.search(r"""(src|href|action)=["']?(https?:)?//|url\(|@import""", file.read_text()), file.name


def test_what_is_installed_has_every_template_and_every_picture() -> None:
    described = tomllib.loads((SOURCE.parents[2] / "pyproject.toml").read_text())
    patterns = described["tool"]["setuptools"]["package-data"]["tocsin"]
    for file in SOURCE.rglob("*.*"):
        name = str(file.relative_to(SOURCE.parent))
        if file.suffix not in (".py", ".pyc"):
            assert any(Path(name).match(pattern) for pattern in patterns), name


def test_a_moment_is_counted_from_now() -> None:
    macro = Renderer(Assets(), lambda: NOW + timedelta(minutes=3))
    listed = records.Jobs([records.Job("a", "replay", "done", AT, AT)])
    assert "3\N{NO-BREAK SPACE}min ago" in macro.render("parts/jobs.html", listed=listed, start=None)


@pytest.mark.slow
def test_keys_and_sessions_are_listed_without_secrets_and_revoked(operator: Browser, service: Service) -> None:
    secret = service.key("--read-only", "--name", "to be revoked")
    session = service.api("POST", "/api/admin/sessions", {"owner": ANNA.id, "expires_in_s": 600})
    page = operator.get(f"/access?owner={ANNA.id}").text
    assert "to be revoked" in page
    assert session["id"] in page
    assert secret not in page
    assert session["sid"] not in page
    (id,) = [one["id"] for one in service.api("GET", "/api/admin/keys") if one["name"] == "to be revoked"]
    foreign = operator.post("/access/revoke", data={"kind": "key", "id": id})
    assert foreign.status_code == 403
    for kind, revoked in (("key", id), ("session", session["id"])):
        data = {"csrf": operator.csrf(), "kind": kind, "id": revoked, "here": "/access"}
        assert f"{revoked} is revoked" in operator.post("/access/revoke", data=data).text
        assert "nothing was changed" in operator.post("/access/revoke", data=data).text
    assert id not in [one["id"] for one in service.api("GET", "/api/admin/keys")]
    odd = {"csrf": operator.csrf(), "kind": "key", "id": "../sessions/x", "here": "https://elsewhere/"}
    assert operator.post("/access/revoke", data=odd).status_code == 400
    assert operator.get("/access?owner=nobody").status_code == 400
