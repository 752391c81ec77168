"""The examples in the documentation are accepted as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tocsin.api.problems import TYPE_PREFIX, Kind

DOCS = Path(__file__).parents[2] / "docs"


def examples(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("body", examples("for-app-developers.md", "json"))
async def test_the_app_developers_examples_work(api, body):
    assert (await api.push(body.encode())).json() == {}


@pytest.mark.parametrize("body", examples("for-producers.md", "json"))
async def test_the_producers_examples_work(api, body):
    assert (await api.events(body.encode())).status_code == 202


async def test_the_producers_batch_works(api):
    (body,) = examples("for-producers.md", "ndjson")
    answer = await api.events(body.encode(), headers={"content-type": "application/x-ndjson"})
    assert answer.json()["accepted"] == 2


def test_every_problem_type_is_documented():
    page = (DOCS / "api.md").read_text()
    assert f"`{TYPE_PREFIX}`" in page
    for kind in Kind:
        if not kind.named:
            assert f"| `{kind.slug}` | {kind.status} |" in page
