"""What the API believes of proxies, what it tells browsers, and which pages may call it."""

from __future__ import annotations

import httpx
import pytest
from tests.api.conftest import bearer
from tests.api.raw_http import exchange, serving

from tocsin.api.client_address import address_is_certain, client_address
from tocsin.settings import Server

PAGE = "https://app.example.com"
CLIENT = "203.0.113.9"


async def answer_address(scope, receive, send):
    body = f"{client_address(scope)} {scope['scheme']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def test_the_server_itself_believes_no_proxy_unasked(monkeypatch):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    async with serving(answer_address) as (port, _), httpx.AsyncClient() as client:
        fields = {"x-forwarded-for": CLIENT, "x-forwarded-proto": "https"}
        answer = await client.get(f"http://127.0.0.1:{port}/", headers=fields)
    assert answer.text == "127.0.0.1 http"


async def test_the_api_believes_the_proxies_that_the_settings_name(open_api, monkeypatch):
    seen = []
    fields = {"x-forwarded-for": CLIENT, "x-forwarded-proto": "https"}
    for trusted in (["127.0.0.0/8"], ["10.0.0.0/8"], [], None):
        async with open_api(server=Server(trusted_proxies=trusted)) as api:

            async def noting(scope, receive, send, serve=api.app.fast_paths["GET", "/api/push"]):
                seen.append((client_address(scope), address_is_certain(scope), scope["scheme"]))
                await serve(scope, receive, send)

            api.app.fast_paths = {("GET", "/api/push"): noting}
            answer = await api.client.get("/api/push", headers=bearer(api.sid) | fields)
            assert ("strict-transport-security" in answer.headers) == (trusted == ["127.0.0.0/8"])
    direct = "127.0.0.1"
    assert seen == [(CLIENT, True, "https"), (direct, True, "http"), (direct, True, "http"), (direct, False, "http")]


PRIVATE = ["/api/push", "/api/events", "/api/admin/backlog", "/health/ready", "/health/live", "/nowhere", "/"]


@pytest.mark.parametrize("path", PRIVATE)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
async def test_every_response_says_what_browsers_may_not_do_with_it(api, path, method):
    answer = await api.client.request(method, path, headers=bearer(api.sid))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers.get_list("cache-control") == ["no-store"]
    assert "strict-transport-security" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_the_description_of_the_api_is_no_secret(api):
    answer = await api.client.get("/schema/openapi.json")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "cache-control" not in answer.headers


async def test_what_the_server_refuses_itself_has_the_same_fields(api):
    async with serving(api.app) as (port, _):
        answers, _ = await exchange(port, b"nonsense\r\n\r\n")
    for field in (b"x-content-type-options: nosniff", b"referrer-policy: no-referrer", b"cache-control: no-store"):
        assert answers[0].head.count(field) == 1


# -- CORS --------------------------------------------------------------------------------------------------------------


def preflight(origin, method="POST"):
    asked = {"access-control-request-method": method, "access-control-request-headers": "authorization,content-type"}
    return {"origin": origin, **asked}


async def test_a_listed_page_may_ask_first_and_then_call(open_api):
    async with open_api(origins=(PAGE,)) as api:
        asked = await api.client.options("/api/push", headers=preflight(PAGE))
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert asked.headers["access-control-allow-credentials"] == "true"
        assert asked.headers["access-control-allow-methods"] == "GET, HEAD, POST"
        assert asked.headers["access-control-allow-headers"] == "authorization, content-type"
        assert asked.headers["vary"] == "Origin"
        called = await api.client.get("/api/push", headers=bearer(api.sid) | {"origin": PAGE})
        assert called.status_code == 200
        assert called.headers["access-control-allow-origin"] == PAGE
        assert called.headers["access-control-expose-headers"] == "retry-after"
        # It may read why, too.
        refused = await api.client.get("/api/push", headers={"origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)


STRANGERS = ["https://evil.example", "null", f"{PAGE}.evil.example", f"{PAGE}:8443", "http://app.example.com", ""]


@pytest.mark.parametrize("origins", [(), (PAGE,)])
@pytest.mark.parametrize("origin", STRANGERS)
async def test_no_other_page_may(open_api, origins, origin):
    async with open_api(origins=origins) as api:
        for answer in (
            await api.client.options("/api/push", headers=preflight(origin)),
            await api.client.get("/api/push", headers=bearer(api.sid) | {"origin": origin}),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_a_listed_page_may_call_nothing_else(open_api):
    async with open_api(origins=(PAGE,)) as api:
        for path in ("/api/events", "/api/admin/backlog", "/metrics", "/health/ready", "/api/push/"):
            answer = await api.client.options(path, headers=preflight(PAGE))
            assert not [name for name in answer.headers if name.startswith("access-control-")]
