"""Who sees the pages: cookies, sessions, forms of other sites, and what every answer says to the browser."""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import timedelta
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest
from litestar.routes import HTTPRoute
from litestar.testing import TestClient
from tests.console.conftest import Browser
from tests.support.console import Service

from tocsin.cli.demo.users import APPLICATION_ID
from tocsin.console.app import console
from tocsin.console.options import Options, options
from tocsin.console.security import HEADERS
from tocsin.console.sessions import Sessions
from tocsin.console.site import own_path
from tocsin.settings import Console

pytestmark = pytest.mark.slow

_SHOWN_WITHOUT_SESSION = {"/sign-in", "/theme", "/health/live", "/static/{version:str}/{name:str}"}
_SAMPLES = {
    "{event_id:uuid}": "01a219d1-3635-7ef8-b7ed-295378462cf9",
    "{system:str}": "apns",
    "{account:str}": APPLICATION_ID,
    "{message:str}": "fax_new",
    "{job:str}": "job-1",
}


def _routes() -> list[tuple[str, str]]:
    """Method and address of every page that needs a session."""
    app = console(Options("http://127.0.0.1:1", None, timedelta(hours=1), emulator_url="http://127.0.0.1:1"))
    found = []
    for route in app.routes:
        if isinstance(route, HTTPRoute) and route.path not in _SHOWN_WITHOUT_SESSION:
            address = route.path
            for name, sample in _SAMPLES.items():
                address = address.replace(name, sample)
            assert "{" not in address, address
            found += [(method, address) for method in route.methods if method in ("GET", "POST")]
    return sorted(found)


ROUTES = _routes()


def _set_cookies(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for header in answer.headers.get_list("set-cookie"):
        found |= dict(SimpleCookie(header).items())
    return found


@pytest.mark.parametrize(("method", "address"), ROUTES)
def test_no_page_is_shown_to_one_who_has_not_signed_in(stranger: Browser, method: str, address: str) -> None:
    answer = stranger.request(method, address, follow_redirects=False)
    if method == "GET" and not address.endswith("/live"):
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/sign-in?next=")
    else:
        assert answer.status_code == 401


@pytest.mark.parametrize("address", [address for method, address in ROUTES if method == "POST"])
def test_no_form_is_taken_without_the_token_of_its_session(operator: Browser, stranger: Browser, address: str) -> None:
    token = operator.csrf()
    for data in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": token[:-1] + ("0" if token[-1] != "0" else "1")}):
        assert operator.post(address, data=data).status_code == 403, data


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "same-origin", "origin": "https://evil.example"},
    ],
)
def test_no_form_of_another_site_is_taken_even_with_the_token(operator: Browser, headers: dict[str, str]) -> None:
    data = {"csrf": operator.csrf(), "theme": "dark", "here": "/"}
    assert operator.post("/theme", data=data, headers=headers).status_code == 403
    assert operator.post("/sign-out", data=data, headers=headers).status_code == 403
    assert operator.get("/").url.path == "/"


def test_the_form_of_the_sign_in_is_protected_too(stranger: Browser, service: Service) -> None:
    token = stranger.csrf("/sign-in")
    assert stranger.post("/sign-in", data={"key": service.admin_key}).status_code == 403
    with Browser(base_url=service.console_url, trust_env=False) as other:
        other.get("/sign-in")
        assert other.post("/sign-in", data={"csrf": token, "key": service.admin_key}).status_code == 403


def test_the_browser_gets_a_random_cookie_and_never_the_key(operator: Browser, service: Service) -> None:
    with Browser(base_url=service.console_url, trust_env=False) as browser:
        answer = browser.sign_in(service.admin_key)
        cookie = _set_cookies(answer)["tocsin_console"]
    assert len(cookie.value) >= 43
    assert cookie["httponly"]
    assert cookie["samesite"].lower() == "strict"
    assert cookie["path"] == "/"
    assert not cookie["max-age"]
    for _, address in ROUTES:
        if not address.endswith("/live"):
            shown = operator.get(address)
            assert service.admin_key not in shown.text + str(shown.headers) + str(shown.url)


def test_signing_in_makes_a_new_cookie_and_signing_out_ends_it(stranger: Browser, service: Service) -> None:
    stranger.sign_in(service.admin_key)
    first = stranger.cookies["tocsin_console"]
    stranger.post("/sign-out", data={"csrf": stranger.csrf()})
    assert "tocsin_console" not in stranger.cookies
    stranger.sign_in(service.admin_key)
    assert stranger.cookies["tocsin_console"] != first
    with httpx.Client(base_url=service.console_url, trust_env=False, cookies={"tocsin_console": first}) as old:
        assert old.get("/").status_code == 303


@pytest.mark.parametrize("key", ["", "nonsense", "tocsin_admin_" + "A" * 43, "é", "x" * 10_000, "a\nb"])
def test_a_wrong_key_is_refused_with_a_reason(stranger: Browser, key: str) -> None:
    answer = stranger.sign_in(key)
    assert answer.status_code in (400, 401)
    assert 'role="alert"' in answer.text
    assert "tocsin_console" not in stranger.cookies
    assert not key or len(key) < 5 or key not in answer.text


def test_who_tries_many_keys_is_stopped_by_the_console_and_those_who_have_signed_in_go_on(
    operator: Browser, service: Service
) -> None:
    """By a console of its own: the one that the other tests use would not let them in for a minute."""
    with TestClient(console(options(Console(api_url=service.environment.url)))) as client:
        csrf = re.findall(r'name="csrf" value="([0-9a-f]{64})"', client.get("/sign-in").text)[0]
        tried = [
            client.post("/sign-in", data={"csrf": csrf, "key": f"tocsin_admin_{number}"}).status_code
            for number in range(103)
        ]
        assert tried == [401] * 100 + [429] * 3
        assert client.post("/sign-in", data={"csrf": csrf, "key": service.admin_key}).status_code == 429
    assert operator.get("/").status_code == 200


def test_a_producers_key_is_no_admin_key(stranger: Browser, service: Service) -> None:
    answer = stranger.sign_in(service.environment.secrets.producer_key)
    assert answer.status_code == 401
    assert "not an admin key" in answer.text


def test_after_signing_in_one_is_where_one_wanted_to_go(stranger: Browser, service: Service) -> None:
    form = stranger.get("/deliveries?outcome=refused")
    assert form.url.path == "/sign-in"
    token = stranger.csrf(str(form.url))
    answer = stranger.post(
        "/sign-in", data={"csrf": token, "key": service.admin_key, "next": "/deliveries?outcome=refused"}
    )
    assert str(answer.url).endswith("/deliveries?outcome=refused")


def test_a_link_on_another_site_leads_to_its_page_without_signing_in_again(operator: Browser) -> None:
    """The cookie does not come along such a link; it does from the page that is shown instead."""
    kept = dict(operator.cookies)
    operator.cookies.clear()
    shown = operator.get("/devices?owner=1", headers={"sec-fetch-site": "cross-site"}, follow_redirects=False)
    assert shown.status_code == 200
    assert 'href="/devices?owner=1"' in shown.text
    assert "tocsin_console" not in _set_cookies(shown)
    operator.cookies.update(kept)
    assert operator.get("/").url.path == "/"


def test_who_has_not_signed_in_chooses_the_colours_too(stranger: Browser) -> None:
    stranger.cookies.set("tocsin_console", "of a session that has ended")
    data = {"csrf": stranger.csrf("/sign-in"), "theme": "dark", "here": "/sign-in"}
    assert 'data-theme="dark"' in stranger.post("/theme", data=data).text


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "https://evil.example/",
        "/\\evil.example",
        "\\\\evil",
        "javascript:alert(1)",
        "x",
        "",
        "/a\r\nb",
    ],
)
def test_nobody_is_led_to_another_site(target: str) -> None:
    assert own_path(target) == "/"
    assert own_path("/devices?owner=1#x") == "/devices?owner=1#x"


@pytest.mark.parametrize(
    "address", ["/", "/sign-in", "/nowhere", "/health/live", "/live", "/static/x/console.css", "/phones"]
)
def test_every_answer_has_the_headers_that_protect_its_reader(stranger: Browser, address: str) -> None:
    answer = stranger.get(address, follow_redirects=False)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert answer.headers["cache-control"] == "no-store"
    policy = answer.headers["content-security-policy"]
    assert policy == "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"


def test_only_what_never_changes_is_cached(stranger: Browser) -> None:
    page = stranger.get("/sign-in").text
    address = page.partition('rel="stylesheet" href="')[2].partition('"')[0]
    assert stranger.get(address).headers["cache-control"] == "public, max-age=31536000, immutable"


def test_behind_tls_cookies_are_for_tls_alone() -> None:
    settings = Console(public_url="https://tocsin.example.com")
    assert options(settings).secure
    assert options(settings).public_origin == "https://tocsin.example.com"
    assert not options(Console()).secure


@pytest.mark.parametrize(
    "given",
    [
        "https://tocsin.example.com/",
        "https://Tocsin.Example.com",
        "https://tocsin.example.com:443",
        "HTTPS://tocsin.example.com",
    ],
)
def test_one_can_sign_in_however_the_public_address_is_written(given: str) -> None:
    started = options(Console(public_url=given))
    assert started.secure
    with TestClient(console(started), base_url="https://tocsin.example.com") as client:
        csrf = re.findall(r'name="csrf" value="([0-9a-f]{64})"', client.get("/sign-in").text)[0]
        form = {"csrf": csrf, "key": "some-key"}
        answer = client.post("/sign-in", data=form, headers={"origin": "https://tocsin.example.com"})
        assert "did not come from a page of this console" not in answer.text
        assert client.post("/sign-in", data=form, headers={"origin": "https://example.com"}).status_code == 403


def test_a_revoked_key_ends_its_session_and_says_so(stranger: Browser, service: Service) -> None:
    made = service.api("POST", "/api/admin/keys", {"role": "admin", "name": "short", "expires_in_s": 3600})
    assert stranger.sign_in(made["key"]).status_code == 200
    service.api("DELETE", f"/api/admin/keys/{made['id']}")

    def signed_out() -> bool:
        return stranger.get("/deliveries").url.path == "/sign-in"

    service.until(signed_out, 30)
    assert "tocsin_console" not in stranger.cookies


@pytest.mark.parametrize("address", ["/live", "/phones/live", "/jobs/live"])
def test_a_window_that_was_closed_gives_its_stream_back(operator: Browser, service: Service, address: str) -> None:
    """A session has eight; what nobody reads any more is ended."""

    def opened(count: int) -> list[int]:
        with ExitStack() as windows:
            answers = [windows.enter_context(operator.stream("GET", address)) for _ in range(count)]
            return [answer.status_code for answer in answers]

    assert opened(9) == [200] * 8 + [429]
    service.until(lambda: opened(8) == [200] * 8, 60)


def test_signing_out_ends_what_is_streamed_to_other_windows(operator: Browser) -> None:
    with operator.stream("GET", "/live") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry:")
        operator.post("/sign-out", data={"csrf": operator.csrf()})
        assert not any("Overview" in line for line in lines)


@pytest.mark.parametrize("address", ["/live", "/phones/live", "/jobs/live"])
def test_what_is_streamed_ends_when_the_session_was_not_used_for_too_long(service: Service, address: str) -> None:
    env = service.environment
    started = Options(env.url, None, timedelta(seconds=3), emulator_url=service.control)
    with TestClient(console(started)) as client:
        page = client.get("/sign-in").text
        csrf = re.findall(r'name="csrf" value="([0-9a-f]{64})"', page)[0]
        assert client.post("/sign-in", data={"csrf": csrf, "key": service.admin_key}).status_code < 400
        with client.stream("GET", address) as stream:
            assert [line for line in stream.iter_lines() if line][-2:] == ["event: end", "data:"]
        assert client.get(address).status_code == 401


def test_a_stream_that_the_browser_asks_for_again_is_no_use_of_the_session() -> None:
    now = [0.0]
    sessions = Sessions(timedelta(minutes=10), lambda: now[0])
    cookie, session = sessions.create("key")
    now[0] = 599
    assert sessions.find(cookie, use=False) is session
    assert not sessions.is_over(session)
    now[0] = 601
    assert sessions.is_over(session)
    assert sessions.find(cookie) is None


def test_a_session_that_was_dropped_has_ended() -> None:
    now = [0.0]
    sessions = Sessions(timedelta(minutes=10), lambda: now[0])
    cookie, idle = sessions.create("key")
    now[0] = 601
    assert sessions.find(cookie) is None
    assert idle.ended
    _, displaced = sessions.create("key")
    assert not displaced.ended
    for _ in range(1000):
        sessions.create("key")
    assert displaced.ended


def test_a_session_ends_when_it_is_not_used() -> None:
    now = [0.0]
    sessions = Sessions(timedelta(minutes=10), lambda: now[0])
    cookie, session = sessions.create("key")
    now[0] = 599
    assert sessions.find(cookie) is session
    now[0] += 599
    assert sessions.find(cookie) is session
    now[0] += 601
    assert sessions.find(cookie) is None
    assert len(sessions) == 0


def test_a_thousand_sessions_at_most_are_kept_and_the_oldest_gives_way() -> None:
    sessions = Sessions(timedelta(hours=1), lambda: 0.0)
    first, _ = sessions.create("key")
    second, _ = sessions.create("key")
    sessions.find(first)
    for _ in range(999):
        sessions.create("key")
    assert len(sessions) == 1000
    assert sessions.find(first) is not None
    assert sessions.find(second) is None
    assert sessions.find("") is sessions.find(None) is sessions.find("x") is None


def test_a_session_shows_no_key_where_it_is_printed() -> None:
    _, session = Sessions(timedelta(hours=1), lambda: 0.0).create("tocsin_admin_secret")
    assert "secret" not in repr(session)
