"""Who may call which route: every route, with every kind of caller."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
from litestar import Litestar, get
from prometheus_client import CollectorRegistry
from tests.api.conftest import Api, OpenApi, StubDelivery, bearer

from tocsin.api.app import create_private_app
from tocsin.api.needs import NEEDS, Needs, check_complete, routes_of
from tocsin.store.records import Area, KeyLimits, Rate, Role

KEYS: dict[str, tuple[Role, KeyLimits]] = {
    "a producer key": (Role.PRODUCER, KeyLimits()),
    "a limited producer key": (Role.PRODUCER, KeyLimits(events=frozenset({"fax_new"}), rate=Rate(1000, 1))),
    "a monitoring key": (Role.MONITORING, KeyLimits()),
    "an admin key": (Role.ADMIN, KeyLimits()),
    "a reading admin key": (Role.ADMIN, KeyLimits(read_only=True)),
    **{f"an admin key for {area}": (Role.ADMIN, KeyLimits(areas=frozenset({area}))) for area in Area},
    "a reading admin key for two": (Role.ADMIN, KeyLimits(read_only=True, areas=frozenset(list(Area)[1:]))),
}
STRANGERS = ("nobody", "a wrong secret", "an expired key", "a revoked key")
SESSIONS = ("a session", "a session of nobody")

PARTS = {
    "application_id": "39JSDKGJ38.de.cospace.app",
    "application": "39JSDKGJ38.de.cospace.app",
    "name": "main",
    "event_id": str(uuid4()),
    "id": str(uuid4()),
    "path": "nope",
    "system": "apns",
    "account": "39JSDKGJ38.de.cospace.other",
}
UNAUTHENTICATED, FORBIDDEN = (401, "unauthenticated"), (403, "forbidden")
AREA, READ_ONLY = (403, "area-not-allowed"), (403, "read-only-key")


async def secret_of(caller: str, api: Api) -> str:
    access = api.store.access
    match caller:
        case "nobody":
            return ""
        case "a wrong secret":
            return "tocsin_admin_x"
        case "an expired key":
            return (await access.create_key(Role.ADMIN, "", int(time.time() * 1000) - 1))[0]
        case "a revoked key":
            secret, key = await access.create_key(Role.ADMIN, "", None)
            await access.key(secret)
            await access.revoke_key(key.id)
            return secret
        case "a session":
            return api.sid
        case "a session of nobody":
            return await api.sign_in(None)
        case _:
            role, limits = KEYS[caller]
            return (await access.create_key(role, caller, None, limits))[0]


def refusal(caller: str, needs: Needs) -> tuple[int, str] | None:
    """Status and problem type of the answer; None where the caller is let in."""
    if needs.user:
        return None if caller == "a session" else UNAUTHENTICATED
    if not needs.roles:
        return None
    if caller not in KEYS:
        return UNAUTHENTICATED
    role, limits = KEYS[caller]
    if role not in needs.roles:
        return FORBIDDEN
    if limits.areas and (needs.whole or (needs.area is not None and needs.area not in limits.areas)):
        return AREA
    return READ_ONLY if needs.write and limits.read_only else None


def missing(kind: str, needs: Needs) -> str:
    """What the answer says is missing."""
    if kind == "read-only-key":
        return "this key may only read"
    if kind == "area-not-allowed":
        return "needs an admin key without areas" if needs.whole else f"needs a key for {needs.area}"
    return "needs the session of a signed-in user" if needs.user else " or ".join(needs.roles)


@pytest.mark.parametrize("caller", [*STRANGERS, *SESSIONS, *KEYS])
async def test_every_route_refuses_every_caller_but_those_it_is_for(open_api: OpenApi, caller: str) -> None:
    async with open_api(metrics=CollectorRegistry()) as api:
        secret = await secret_of(caller, api)
        headers = bearer(secret) if secret else {}
        routes = set(routes_of(api.app.routes))
        assert routes == NEEDS.keys()
        assert len(routes) >= 30
        for method, path in sorted(routes):
            needs = NEEDS[method, path]
            expected = refusal(caller, needs)
            address = path.format(**PARTS)
            if expected is None and path.endswith("/stream"):
                continue  # it has no end
            answer = await api.client.request(method, address, headers=headers)
            if expected is None:
                assert answer.status_code not in (401, 403), (method, path)
            else:
                problem = answer.json()
                assert (answer.status_code, problem["type"]) == (expected[0], f"urn:tocsin:problem:{expected[1]}")
                if (caller, needs.user) != ("a session of nobody", True):
                    assert missing(expected[1], needs) in problem["detail"], (method, path)
                assert secret not in answer.text or not secret
                assert (answer.headers.get("www-authenticate") == "Bearer") == (expected[0] == 401)
            if method == "GET":
                head = await api.client.head(address, headers=headers)
                assert head.status_code == answer.status_code, (method, path)


def test_the_table_says_what_the_documentation_says() -> None:
    for (method, path), needs in NEEDS.items():
        where = (method, path)
        assert needs.user == (path == "/api/push"), where
        assert (Role.PRODUCER in needs.roles) == path.startswith("/api/events"), where
        admin = path.startswith("/api/admin/") or path in ("/api/events/{event_id}", "/metrics")
        assert (Role.ADMIN in needs.roles) == admin, where
        assert (Role.MONITORING in needs.roles) == (path == "/metrics"), where
        if path.startswith("/api/admin/") and path != "/api/admin/me":
            # What was done in all areas, and what makes keys, is for those who may act in all of them.
            assert (needs.area is None) == needs.whole, where
            only_reads = method == "GET" or path.endswith(("/search", "/preview"))
            assert needs.write == (not only_reads), where
        if not needs.user and not needs.roles:
            assert path.startswith(("/health/", "/schema")), where


async def test_the_schema_names_the_callers_of_each_route(open_api: OpenApi) -> None:
    names = {Role.PRODUCER: "producerKey", Role.ADMIN: "adminKey", Role.MONITORING: "monitoringKey"}
    async with open_api() as api:
        document = (await api.client.get("/schema")).json()
    documented = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            needs = NEEDS[method.upper(), path]
            expected = [names[role] for role in needs.roles] + (["session", "sessionCookie"] if needs.user else [])
            if needs.more_for:
                expected = ["", *(names[role] for role in needs.more_for)]
            schemes = ["".join(requirement) for requirement in operation.get("security", [])]
            assert sorted(schemes) == sorted(expected), (method, path)
            refused = {"401", "403", "429"} & operation["responses"].keys()
            assert refused == ({"401", "403", "429"} if needs.roles or needs.user else set()), (method, path)
            documented += 1
    assert documented >= 20


def test_a_route_of_which_nobody_says_what_it_needs_is_refused() -> None:
    @get("/api/admin/passwords", sync_to_thread=False)
    def passwords() -> str:
        return ""

    app = Litestar([passwords], openapi_config=None)
    with pytest.raises(LookupError, match=r"GET /api/admin/passwords has no row in NEEDS"):
        check_complete(app.routes)


async def test_an_application_with_such_a_route_does_not_start(
    open_api: OpenApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(NEEDS, ("GET", "/api/admin/lanes"))  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="GET /api/admin/lanes"):
        async with open_api():
            pass


async def test_what_would_make_a_key_stronger_is_refused_to_keys_that_are_limited_to_areas(
    open_api: OpenApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Needs(roles=(Role.ADMIN,), whole=True)
    monkeypatch.setitem(NEEDS, ("GET", "/api/admin/backlog"), whole)  # type: ignore[arg-type]
    async with open_api() as api:
        assert (await api.operate("GET", "/backlog")).status_code == 200
        limits = KeyLimits(areas=frozenset(Area))
        api.admin, _ = await api.store.access.create_key(Role.ADMIN, "", None, limits)
        refused = await api.operate("GET", "/backlog")
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:tocsin:problem:area-not-allowed")
        assert "needs an admin key without areas" in refused.json()["detail"]


async def test_an_admin_key_can_ask_what_it_may_do(open_api: OpenApi) -> None:
    async with open_api() as api:
        limits = KeyLimits(read_only=True, areas=frozenset({Area.DEVICES, Area.CREDENTIALS}))
        secret, key = await api.store.access.create_key(Role.ADMIN, "support", 4_000_000_000_000, limits)
        own = await api.client.get("/api/admin/me", headers=bearer(secret))
        assert own.json() == {
            "id": key.id,
            "role": "admin",
            "name": "support",
            "read_only": True,
            "areas": ["credentials", "devices"],
            "expires_at": "2096-10-02T07:06:40.000Z",
        }
        own = await api.operate("GET", "/me")
        assert (own.json()["read_only"], own.json()["areas"], own.json()["expires_at"]) == (False, [], None)


def test_the_private_address_has_health_and_metrics_and_nothing_else() -> None:
    app = create_private_app(StubDelivery(), CollectorRegistry())
    assert set(routes_of(app.routes)) == {("GET", "/health/live"), ("GET", "/health/ready"), ("GET", "/metrics")}


async def test_a_key_for_some_events_can_send_and_look_up_no_others(open_api: OpenApi, golden) -> None:
    async with open_api() as api:
        all_events = api.producer
        limits = KeyLimits(events=frozenset({"fax_new", "recording_new"}))
        api.producer, _ = await api.store.access.create_key(Role.PRODUCER, "", None, limits)
        own = await api.events(golden("fax_new"))
        assert own.status_code == 202
        refused = await api.events(golden("chat_message"))
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:tocsin:problem:event-not-allowed")
        reason = "this key may send fax_new, recording_new only"
        assert refused.json()["detail"] == f"$.message: {reason}; nothing was accepted."
        assert refused.json()["errors"] == [{"at": "$.message", "reason": reason}]
        refused = await api.ndjson(golden("fax_new"), golden("recording_new"), golden("chat_message"))
        assert refused.json()["errors"] == [{"at": "$.message", "line": 3, "reason": reason}]
        assert (await api.store.queue.backlog()).events == 1

        others = await api.client.post("/api/events", json=golden("chat_message"), headers=bearer(all_events))
        for answer, with_own in ((own, 200), (others, 404)):
            (id,) = answer.json()["events"]
            found = await api.client.get(f"/api/events/{id}", headers=bearer(api.producer))
            assert found.status_code == with_own
            assert (await api.client.get(f"/api/events/{id}", headers=bearer(all_events))).status_code == 200
