"""The address that a request comes from, for limits and the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

UNKNOWN: Final = "unknown"
"""Where the server does not know it: a request through a Unix socket, say."""


def client_address(scope: Mapping[str, Any]) -> str:
    """The IP address of the connection's other end, as text."""
    client = scope.get("client")
    return UNKNOWN if client is None else client[0]
