"""What is refused is called the same over HTTP and on a bus."""

from __future__ import annotations

import pytest

from tocsin.api.failures import problem_of
from tocsin.api.problems import Kind
from tocsin.ingest.errors import IngestError, Violation, Why


@pytest.mark.parametrize("why", Why)
def test_a_reason_is_a_problem_of_the_api(why: Why) -> None:
    kind = Kind.of_slug(why.slug)
    assert (kind.status, kind.slug, kind.title) == (why.status, why.slug, why.title)
    violation = Violation(at="$.owner", line=2, reason="missing")
    problem = problem_of(IngestError(why, "detail", violation), "/api/events")
    assert (problem.kind, problem.detail, problem.errors) == (kind, "detail", (violation,))
