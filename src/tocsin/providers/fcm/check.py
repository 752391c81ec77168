"""Proves against Google that a service account works: a message that is only validated, which delivers nothing."""

from __future__ import annotations

import secrets
import time
from typing import Final

import msgspec

from tocsin.http2.dial import client_tls
from tocsin.http2.messages import Header
from tocsin.http2.network import Network
from tocsin.providers.asking import NOT_NOW, ask
from tocsin.providers.base import CheckResult
from tocsin.providers.fcm.access_token import AccessToken
from tocsin.providers.fcm.answers import read_body
from tocsin.providers.fcm.credentials import ServiceAccount
from tocsin.providers.fcm.oauth import HttpOAuthClient, OAuthClient
from tocsin.providers.fcm.projects import FcmOptions

_MAY_NOT: Final = (
    "the service account may not send for the project {project}, or the project does not exist; add it with"
    " the role Firebase Cloud Messaging API Admin, and enable the FCM API"
)


async def check(
    project: str, account: ServiceAccount, options: FcmOptions, *, network: Network, oauth: OAuthClient | None = None
) -> CheckResult:
    """Have one message validated with the service account of `project`."""
    tls = client_tls(options.ca_file)
    client = oauth or HttpOAuthClient(options.token_hosts, options.ca_file, options.pool.proxy)
    access = AccessToken(account, client, wall_clock=time.time, monotonic=time.monotonic)
    authorization = await access.ready()
    if authorization is None:
        remedy = (
            "the service account was deleted or its key was revoked; download a new one"
            if access.rejected
            else "check the network"
        )
        return CheckResult(False, f"Google issues no access token: {access.error}; {remedy}")
    headers: list[Header] = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", account.path.encode()),
        (b"authorization", authorization),
        (b"content-type", b"application/json"),
    ]
    message = {"validate_only": True, "message": {"token": secrets.token_urlsafe(24), "data": {"tocsin": "check"}}}
    request = await ask(options.url, tls, options.pool, headers, msgspec.json.encode(message), network)
    if request.failure is not None:
        return CheckResult(False, f"{options.url} cannot be reached: {request.failure.detail}; check the network")
    body = read_body(request.response_body)
    # An unknown token is about the token: the credential got that far.
    about_token = any(field in ("message.token", "message.fid") for field in body.fields)
    unregistered = request.status == 404 and body.error_code == "UNREGISTERED"
    if request.status == 200 or about_token or unregistered:
        return CheckResult(True, f"Google accepts the service account for the project {project}")
    if request.status in (403, 404):
        return CheckResult(False, _MAY_NOT.format(project=project))
    if request.status == 429 or request.status >= 500:
        return CheckResult(False, NOT_NOW.format(who="Google", status=request.status, reason=body.code))
    return CheckResult(False, f"Google answered {request.status} {body.code}: the credential is refused")
