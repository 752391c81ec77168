"""What schemathesis checks besides: loaded by it, as `schemathesis.toml` says."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection


@schemathesis.check
def bad_input_is_refused_by_status_or_body(ctx: Any, response: Any, case: Any) -> bool | None:
    """`/api/push` names some refusals in a body with status 200, as the document says that tocsin is built from."""
    if case.path != "/api/push" or (response.status_code == 200 and "status" in response.json()):
        return None
    return negative_data_rejection(ctx, response, case)
