"""Addresses that are not there, methods that are not known, and what needs no key."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nope",
        "/api",
        "/api/push/",
        "//api/push",
        "/api//push",
        "/api/push/x",
        "/api/events/",
        "/api/admin",
        "/api/admin/devices/",
        "/schema/",
        "/schema/nope",
        "/health",
        "/metrics",
        "/api/push%00",
        "/%ff",
    ],
)
async def test_an_unknown_path_is_a_404_problem(api, path):
    answer = await api.client.get(path, headers={"authorization": f"Bearer {api.admin}"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json() == {
        "type": "urn:tocsin:problem:not-found",
        "title": "Not found",
        "status": 404,
        "detail": "There is nothing at this address.",
    }


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/push", "GET, HEAD, OPTIONS, POST"),
        ("DELETE", "/api/push", "GET, HEAD, OPTIONS, POST"),
        ("TRACE", "/api/push", "GET, HEAD, OPTIONS, POST"),
        ("NONSENSE", "/api/push", "GET, HEAD, OPTIONS, POST"),
        ("GET", "/api/events", "OPTIONS, POST"),
        ("HEAD", "/api/events", "OPTIONS, POST"),
        ("POST", "/api/admin/backlog", "GET, HEAD, OPTIONS"),
        ("POST", "/health/live", "GET, HEAD, OPTIONS"),
        ("GET", "/api/admin/applications/x", "DELETE, OPTIONS, PUT"),
    ],
)
async def test_a_wrong_method_is_405_with_allow(api, method, path, allow):
    answer = await api.client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/api/push", "GET, HEAD, OPTIONS, POST"),
        ("/api/events", "OPTIONS, POST"),
        ("/api/events/01a20b73-e9eb-799a-af77-58b39d909c1f", "GET, HEAD, OPTIONS"),
        ("/health/ready", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_tells_the_methods(api, path, allow):
    answer = await api.client.options(path)
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allow, b"")


async def test_the_openapi_document_needs_nobody_elses_server(api):
    for path in ("/schema", "/schema/openapi.json"):
        answer = await api.client.get(path)
        assert answer.status_code == 200
        assert answer.json()["openapi"].startswith("3.1")
    assert (await api.client.get("/schema/openapi.yaml")).status_code == 200
    assert "http" not in (await api.client.get("/schema")).text.replace('"type":"http"', "")


async def test_every_operation_documents_its_errors_as_problems(api):
    document = (await api.client.get("/schema")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            for status, response in operation["responses"].items():
                if status >= "400" and not path.startswith("/health"):
                    assert list(response["content"]) == ["application/problem+json"], (method, path, status)


async def test_an_unknown_outcome_is_documented_with_the_ids_to_repeat_events_with(api):
    document = (await api.client.get("/schema")).json()
    problem = document["components"]["schemas"]["ProblemBody"]
    assert "events" in problem["properties"]
    assert "events" not in problem["required"]
    operation = document["paths"]["/api/events"]["post"]
    assert operation["operationId"] == "ingestEvents"
    unavailable = operation["responses"]["503"]
    assert "`outcome-unknown`" in unavailable["description"]
    assert unavailable["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/ProblemBody"}
