"""The OpenAPI document is true: schemathesis makes requests of it and holds the answers against it."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from tocsin.api.app import create_app
from tocsin.providers.rules import RULES
from tocsin.settings import Settings

pytestmark = pytest.mark.slow

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
    """Where JSON Schema cannot say which input is good: one of two parameters, lines of JSON, 2.0 as an integer, a
    credential, a cursor."""
    either_or = case.path in ("/api/admin/devices", "/api/admin/devices/history") and case.method == "GET"
    floats = isinstance(case.body, dict) and any(isinstance(value, float) for value in case.body.values())
    credential = case.method == "PUT"
    cursor = "start" in (case.query or {})
    return either_or or floats or credential or cursor or case.media_type == "application/x-ndjson"


@pytest.fixture(scope="module")
def served(open_api_in, tmp_path_factory):
    """The API on a port, in a thread with a loop of its own; and by prefix of path, the secret that opens it."""
    started, stopping = threading.Event(), threading.Event()
    secrets: dict[str, str] = {}
    ports: list[int] = []

    async def serve():
        async with open_api_in(tmp_path_factory.mktemp("schema")) as api:
            server = uvicorn.Server(uvicorn.Config(api.app, port=0, lifespan="off", log_config=None, access_log=False))
            task = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.005)
            ports.append(server.servers[0].sockets[0].getsockname()[1])
            secrets.update({"/api/push": api.sid, "/api/events": api.producer, "/api/admin": api.admin})
            started.set()
            while not stopping.is_set():
                await asyncio.sleep(0.05)
            server.should_exit = True
            await task

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield ports[0], secrets
    stopping.set()
    thread.join()


def operations():
    """Every operation of the document, which needs no store to be written."""
    nothing = SimpleNamespace(
        **dict.fromkeys(("queue", "log", "registry", "access", "credentials", "signals", "now_ms"))
    )
    app = create_app(settings=Settings(), store=nothing, rules=RULES, delivery=None)
    document = app.openapi_schema.to_schema()
    return [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]


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
