"""Which token endpoints may be asked: what is sent there is signed, and opens the project for an hour.

A service account names its endpoint itself, and whoever may add one could name any.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

GOOGLE_HOSTS: Final = ("oauth2.googleapis.com", "accounts.google.com", "www.googleapis.com")
"""Of the `token_uri` in the files that Google hands out, those of earlier years included."""


def why_not(uri: str, hosts: Collection[str]) -> str | None:
    """Why an endpoint may not be asked; None where it may. It must be HTTPS, at one of `hosts`."""
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme != "https" or not host:
        return "is not an https:// URL"
    if parts.username is not None or parts.password is not None:
        return "has a user name in it"
    if host not in hosts:
        return "is at a host that is neither Google's nor named in fcm.token_hosts"
    return None


def origin(uri: str) -> str:
    """Scheme, host and port of an endpoint that may be asked."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}"
