"""The OpenAPI document is true: schemathesis makes requests of it and holds the answers against it."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from types import SimpleNamespace

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from tests.api.raw_http import serving

from tocsin.api import schemas
from tocsin.api.app import create_app
from tocsin.providers.rules import RULES
from tocsin.settings import Settings

CHECKED = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.ignored_auth,
]


def unless_too_large(check):
    """A body over the route's bound is 413 before anybody looks into it, good or bad."""

    def judge(ctx, response, case):
        return None if response.status_code == 413 else check(ctx, response, case)

    return judge


ABOUT_INPUT = [unless_too_large(checks.positive_data_acceptance), unless_too_large(checks.negative_data_rejection)]


def says_less_than_it_means(case):
    """Where the schema cannot say which input is good: one of two parameters, lines of JSON, a credential, a cursor."""
    either_or = case.path in ("/api/admin/devices", "/api/admin/devices/history") and case.method == "GET"
    credential = case.method == "PUT"
    cursor = "start" in (case.query or {}) or (isinstance(case.body, dict) and "start" in case.body)
    cursor = cursor or case.path.startswith("/api/admin/jobs")
    return either_or or credential or cursor or case.media_type == "application/x-ndjson"


@pytest.fixture(scope="module")
def served(open_api_in, tmp_path_factory):
    """The API on a port, in a thread with a loop of its own; and by prefix of path, the secret that opens it."""
    started, stopping = threading.Event(), threading.Event()
    secrets: dict[str, str] = {}
    ports: list[int] = []

    async def serve():
        async with open_api_in(tmp_path_factory.mktemp("schema")) as api, serving(api.app) as (port, _):
            ports.append(port)
            secrets.update({"/api/push": api.sid, "/api/events": api.producer, "/api/admin": api.admin})
            started.set()
            while not stopping.is_set():
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield ports[0], secrets
    stopping.set()
    thread.join()


def operations():
    """Every operation of the document, which needs no store to be written."""
    nothing = SimpleNamespace(
        **dict.fromkeys(
            ("queue", "log", "registry", "access", "credentials", "audit", "signals", "search", "jobs", "now_ms")
        )
    )
    app = create_app(settings=Settings(), store=nothing, rules=RULES, delivery=SimpleNamespace(accepted=None))
    document = app.openapi_schema.to_schema()
    found = [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]
    # A stream has no end that could be waited for; `test_operators_view.py` reads it.
    return [operation for operation in found if not operation.path.endswith("/stream")]


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.label)
def test_every_answer_is_as_documented(operation, mode, served):
    port, secrets = served
    secret = next((secret for prefix, secret in secrets.items() if operation.path.startswith(prefix)), "")

    @given(operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    def answers(case):
        judged = CHECKED if says_less_than_it_means(case) else [*CHECKED, *ABOUT_INPUT]
        headers = {"Authorization": f"Bearer {secret}"}
        case.call_and_validate(base_url=f"http://127.0.0.1:{port}", headers=headers, checks=judged)

    if mode is GenerationMode.POSITIVE or not operation.path.startswith("/health"):
        answers()


def body_schema(schema):
    return jsonschema_rs.validator_for(schema.to_schema())


KEY = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
ACCOUNT = {"client_email": "a@b", "private_key": KEY, "token_uri": "https://t", "project_id": "p", "type": "x"}


@pytest.mark.parametrize(
    ("schema", "body", "valid"),
    [
        (schemas.APPLICATION, {"key_pem": KEY, "key_id": "ABC123DEFG"}, True),
        (schemas.APPLICATION, {"key_pem": KEY.replace("PRIVATE", "EC PRIVATE"), "key_id": "ABC123DEFG"}, True),
        (schemas.APPLICATION, {"key_pem": "", "key_id": "ABC123DEFG"}, False),
        (schemas.APPLICATION, {"key_pem": CERTIFICATE, "key_id": "ABC123DEFG"}, False),
        (schemas.APPLICATION, {"certificate_pem": CERTIFICATE + KEY}, True),
        (schemas.APPLICATION, {"certificate_pem": KEY + CERTIFICATE}, True),
        (schemas.APPLICATION, {"certificate_pem": ""}, False),
        (schemas.APPLICATION, {"certificate_pem": CERTIFICATE}, False),
        (schemas.PROJECT, {"service_account": ACCOUNT}, True),
        (schemas.PROJECT, {"service_account": {}}, False),
        (schemas.PROJECT, {"service_account": ACCOUNT | {"project_id": ""}}, False),
        (schemas.PROJECT, {"service_account": ACCOUNT | {"project_id": "a b"}}, False),
        (schemas.PROJECT, {"service_account": ACCOUNT | {"project_id": "example.com:calls"}}, True),
        (schemas.PROJECT, {"service_account": ACCOUNT | {"private_key": ""}}, False),
        (schemas.PROJECT, {"service_account": ACCOUNT | {"private_key_id": 1}}, False),
    ],
)
def test_the_schema_of_a_credential_says_what_is_checked_first(schema, body, valid):
    assert body_schema(schema).is_valid(body) is valid


async def test_as_many_dead_letters_may_be_named_as_the_schema_says(api):
    ids = [str(uuid.UUID(int=number)) for number in range(schemas.MOST_IDS)]
    for path, schema in (("replay", schemas.REPLAY), ("discard", schemas.DISCARD)):
        body, longer = {"ids": ids}, {"ids": [*ids, ids[0]]}
        assert body_schema(schema).is_valid(body)
        # However they are written: each on a line of its own is a usual form.
        answer = await api.operate("POST", f"/dead-letters/{path}", content=json.dumps(body, indent=4))
        assert (answer.status_code, answer.json()) == (200, {"count": 0})
        assert not body_schema(schema).is_valid(longer)
        answer = await api.operate("POST", f"/dead-letters/{path}", json=longer)
        assert (answer.status_code, answer.json()["errors"][0]["at"]) == (400, "$.ids")


async def test_an_integer_may_be_written_with_a_fraction_wherever_the_schema_says_integer(api, golden):
    replay = {"ids": None, "lifetime_s": 24894.0}
    assert body_schema(schemas.REPLAY).is_valid(replay)
    assert (await api.operate("POST", "/dead-letters/replay", json=replay)).status_code == 200
    assert (await api.events(golden("fax_new") | {"page_count": 24894.0})).status_code == 202


async def test_the_document_says_that_owner_and_token_exclude_each_other(api):
    paths = (await api.client.get("/schema/openapi.json")).json()["paths"]
    for path in ("/api/admin/devices", "/api/admin/devices/history"):
        assert "either `owner` or `token`" in paths[path]["get"]["description"]
        for query in ("", f"?token=t&owner={api.owner}"):
            assert (await api.operate("GET", path.removeprefix("/api/admin") + query)).status_code == 400


@pytest.mark.parametrize("name", ["openapi.json", "openapi.yaml", "openapi.yml"])
async def test_the_document_is_rendered_once(api, monkeypatch, name):
    first = await api.client.get(f"/schema/{name}")
    monkeypatch.setattr("litestar.openapi.plugins.encode_json", None)
    monkeypatch.setattr("litestar.openapi.plugins.yaml", None)
    again = await api.client.get(f"/schema/{name}")
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["content-type"] == first.headers["content-type"]
