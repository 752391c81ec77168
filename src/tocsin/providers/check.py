"""Proves against the provider that a credential works, without ringing anybody's phone.

APNs: a push to a device token that cannot exist must come back as BadDeviceToken; whatever else comes back tells what
is wrong. FCM: a message that is only validated.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection
from typing import Final

import msgspec
from msgspec import Struct

from tocsin.domain.devices import bundle_id, team_id
from tocsin.http2.dial import client_tls
from tocsin.http2.messages import Failure, FailureKind, Header, Request
from tocsin.http2.pool import Pool
from tocsin.providers.apns import ApnsCredential, ApnsOptions, topic_headers
from tocsin.providers.apns_answers import read_body as read_apns_body
from tocsin.providers.credentials import AccessToken, CredentialError, ProviderToken, certificate_tls
from tocsin.providers.fcm import FcmCredential, FcmOptions
from tocsin.providers.fcm_answers import read_body as read_fcm_body

_TIMEOUT_S: Final = 15.0


class CheckResult(Struct, frozen=True):
    """Whether a credential works, in one sentence with the remedy."""

    ok: bool
    sentence: str


_WRONG_KEY: Final = (
    "Apple does not accept the key: the .p8 file and the key id do not belong together, or the key was revoked;"
    " add the application again with the key and the key id of the same line in the developer account"
)
_OTHER_TEAM: Final = (
    "the key is good, but it is of the team {team}, and not of the one that {id} begins with; give the application a"
    " key of its own team, or add it with the team id {team}"
)
_NOT_NOW: Final = "{who} answered {status} {reason}, which says nothing of the credential; check again in a while"
_APNS_SENTENCES: Final = {
    "InvalidProviderToken": _WRONG_KEY + ", and check that the team id (the first ten characters of the application"
    " id) is the team that owns the key",
    "ExpiredProviderToken": "Apple calls a provider token expired that was made just now: this machine's clock is"
    " wrong; set it by NTP",
    "MissingProviderToken": "Apple got no provider token: the application needs a key (.p8) or a certificate",
    "BadCertificate": "Apple does not accept the certificate: it is not an APNs certificate, or it was revoked",
    "BadCertificateEnvironment": "the certificate is for the other environment; check with --sandbox, or add a"
    " certificate for both",
    "BadEnvironmentKeyInToken": "the key is for the other environment; check with --sandbox, or use a key for both",
    "BadEnvironmentKeyIdInToken": "the key is for the other environment; check with --sandbox, or use a key for both",
    "UnrelatedKeyIdInToken": "the key belongs to another team or topic than this application's; use a key of its team",
    "TopicDisallowed": "the credential is good, but not for the topic {topic}: the bundle id in the application id is"
    " wrong, or the key is restricted to other topics",
    "BadTopic": "Apple does not know the topic {topic}: the bundle id in the application id is wrong",
    "DeviceTokenNotForTopic": "the credential is good, but not for the topic {topic}",
}


async def check_apns(
    credential: ApnsCredential, options: ApnsOptions, *, sandbox: bool, other_teams: Collection[str] = ()
) -> CheckResult:
    """Send one push to a token that cannot exist, with this application's credential and topic.

    Apple has one reason for a wrong key and for a good key of another team. Only a try under the other team tells them
    apart: `other_teams` are the ids to try it with, once each.
    """
    topic = bundle_id(credential.application_id)
    where = "sandbox" if sandbox else "production"
    headers: list[Header] = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b""),
        (b":path", b"/3/device/" + b"0" * 63 + b"x"),
    ]
    try:
        if credential.certificate_pem is not None:
            tls = certificate_tls(credential.certificate_pem, options.ca_file)
        elif credential.key_pem is not None and credential.key_id is not None:
            tls = client_tls(options.ca_file)
            headers.append(_signed(credential, team_id(credential.application_id)))
        else:
            return CheckResult(False, "the application has no credential: add a key (.p8) or a certificate")
    except (CredentialError, ValueError) as error:
        return CheckResult(False, f"the credential cannot be used: {error}")
    headers += [*topic_headers(topic), (b"apns-expiration", b"0")]
    url = options.sandbox_url if sandbox else options.production_url

    async def ask(headers: list[Header]) -> Request:
        return await _ask(lambda done: Pool(url, lambda: tls, done, options.pool), headers, b'{"aps":{}}')

    request = await ask(headers)
    if request.failure is not None:
        return CheckResult(False, f"{url} ({where}) cannot be reached: {request.failure.detail}; check the network")
    reason = read_apns_body(request.response_body).reason
    if reason == "BadDeviceToken":
        return CheckResult(True, f"Apple accepts the credential of {credential.application_id} in {where}")
    if request.status == 429 or request.status >= 500:
        return CheckResult(False, _NOT_NOW.format(who=f"Apple ({where})", status=request.status, reason=reason))
    if reason == "InvalidProviderToken" and credential.key_pem is not None:
        for team in other_teams:
            others = [header for header in headers if header[0] != b"authorization"] + [_signed(credential, team)]
            answer = await ask(others)
            if answer.status and read_apns_body(answer.response_body).reason != reason:
                return CheckResult(False, f"{where}: " + _OTHER_TEAM.format(id=credential.application_id, team=team))
    sentence = _APNS_SENTENCES.get(
        reason, "Apple answered {status} {reason}, which says that the credential is refused"
    )
    return CheckResult(False, f"{where}: " + sentence.format(topic=topic, status=request.status, reason=reason))


def _signed(credential: ApnsCredential, team: str) -> Header:
    assert credential.key_pem is not None
    assert credential.key_id is not None
    return (b"authorization", ProviderToken(credential.key_pem, credential.key_id, team).header())


async def check_fcm(credential: FcmCredential, options: FcmOptions) -> CheckResult:
    """Have one message validated, which delivers nothing."""
    access = AccessToken(credential.service_account, options.ca_file, options.pool.proxy)
    authorization = await access.ready()
    if authorization is None:
        remedy = (
            "the service account was deleted or its key was revoked; download a new one"
            if access.rejected
            else "check the network"
        )
        return CheckResult(False, f"Google issues no access token: {access.error}; {remedy}")
    tls = client_tls(options.ca_file)
    headers: list[Header] = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b""),
        (b":path", credential.path.encode()),
        (b"authorization", authorization),
        (b"content-type", b"application/json"),
    ]
    message = {"validate_only": True, "message": {"token": secrets.token_urlsafe(24), "data": {"tocsin": "check"}}}
    request = await _ask(
        lambda done: Pool(options.url, lambda: tls, done, options.pool), headers, msgspec.json.encode(message)
    )
    if request.failure is not None:
        return CheckResult(False, f"{options.url} cannot be reached: {request.failure.detail}; check the network")
    body = read_fcm_body(request.response_body)
    # An unknown token is about the token: the credential got that far.
    about_token = any(field in ("message.token", "message.fid") for field in body.fields)
    unregistered = request.status == 404 and body.error_code == "UNREGISTERED"
    if request.status == 200 or about_token or unregistered:
        return CheckResult(True, f"Google accepts the service account for the project {credential.project}")
    if request.status in (403, 404):
        what = "the service account may not send for the project {project}, or the project does not exist; add it with"
        what += " the role Firebase Cloud Messaging API Admin, and enable the FCM API"
        return CheckResult(False, what.format(project=credential.project))
    if request.status == 429 or request.status >= 500:
        return CheckResult(False, _NOT_NOW.format(who="Google", status=request.status, reason=body.code))
    return CheckResult(False, f"Google answered {request.status} {body.code}: the credential is refused")


async def _ask(
    open_pool: Callable[[Callable[[list[Request]], None]], Pool], headers: list[Header], body: bytes
) -> Request:
    """One request on a pool of its own."""
    answered: asyncio.Future[Request] = asyncio.get_running_loop().create_future()

    def done(requests: list[Request]) -> None:
        if not answered.done():
            answered.set_result(requests[0])

    pool = open_pool(done)
    request = Request(
        [(b":authority", pool.authority) if name == b":authority" else (name, value) for name, value in headers], body
    )
    try:
        pool.send([request])
        async with asyncio.timeout(_TIMEOUT_S):
            return await answered
    except TimeoutError:
        request.failure = Failure(FailureKind.TIMEOUT, f"no answer within {_TIMEOUT_S:g} s", unknown=True)
        return request
    finally:
        await pool.close()
