"""What messages call a store that is a database on a server."""

from __future__ import annotations

from urllib.parse import urlsplit


def public_name(url: str) -> str:
    """Its URL, without user, password and parameters."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
