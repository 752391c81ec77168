"""Proves against Apple that a credential works, without disturbing anybody: a push to a device token that cannot
exist must come back as BadDeviceToken, and the same push without the credential must not; whatever else comes back
tells what is wrong."""

from __future__ import annotations

import ssl
import time
from collections.abc import Collection
from typing import Final

from tocsin.http2.dial import client_tls
from tocsin.http2.messages import Header, Request
from tocsin.http2.network import Network
from tocsin.providers.apns.address import bundle_id, team_id
from tocsin.providers.apns.answers import read_body
from tocsin.providers.apns.channels import ApnsOptions
from tocsin.providers.apns.credentials import ApnsCredential, certificate_tls
from tocsin.providers.apns.provider_token import ProviderToken
from tocsin.providers.apns.requests import topic_headers
from tocsin.providers.asking import NOT_NOW, ask
from tocsin.providers.base import CheckResult, CredentialError

_WRONG_KEY: Final = (
    "Apple does not accept the key: the .p8 file and the key id do not belong together, or the key was revoked;"
    " add the application again with the key and the key id of the same line in the developer account"
)
_ONLY_THE_TOKEN: Final = (
    "{url} ({where}) answers BadDeviceToken without any credential, too: it judges the device token first, which says"
    " nothing of the credential; Apple does not do that, so check the URL in the settings"
)
_OTHER_TEAM: Final = (
    "the key is good, but it is of the team {team}, and not of the one that {id} begins with; give the application a"
    " key of its own team, or add it with the team id {team}"
)
_SENTENCES: Final = {
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


async def check(
    application_id: str,
    credential: ApnsCredential,
    options: ApnsOptions,
    *,
    network: Network,
    sandbox: bool,
    other_teams: Collection[str] = (),
) -> CheckResult:
    """Send one push to a token that cannot exist, with this application's credential and topic.

    Apple has one reason for a wrong key and for a good key of another team. Only a try under the other team tells them
    apart: `other_teams` are the ids to try it with, once each.

    BadDeviceToken says that the credential was accepted only where it is not the answer to everybody. So the push is
    sent once more, on a connection of its own, without the credential: Apple answers MissingProviderToken.
    """
    topic = bundle_id(application_id)
    where = "sandbox" if sandbox else "production"
    headers: list[Header] = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", b"/3/device/" + b"0" * 63 + b"x"),
    ]
    try:
        if credential.certificate_pem is not None:
            tls = certificate_tls(credential.certificate_pem, options.ca_file)
        elif credential.key_pem is not None and credential.key_id is not None:
            tls = client_tls(options.ca_file)
            headers.append(_signed(credential, team_id(application_id)))
        else:
            return CheckResult(False, "the application has no credential: add a key (.p8) or a certificate")
    except (CredentialError, ValueError) as error:
        return CheckResult(False, f"the credential cannot be used: {error}")
    headers += [*topic_headers(topic), (b"apns-expiration", b"0")]
    url = options.sandbox_url if sandbox else options.production_url

    async def answer_to(headers: list[Header], tls: ssl.SSLContext = tls) -> Request:
        return await ask(url, tls, options.pool, headers, b'{"aps":{}}', network)

    unsigned = [header for header in headers if header[0] != b"authorization"]
    request = await answer_to(headers)
    if request.failure is not None:
        return CheckResult(False, f"{url} ({where}) cannot be reached: {request.failure.detail}; check the network")
    reason = read_body(request.response_body).reason
    if reason == "BadDeviceToken":
        without = await answer_to(unsigned, client_tls(options.ca_file))
        if read_body(without.response_body).reason == reason:
            return CheckResult(False, _ONLY_THE_TOKEN.format(url=url, where=where))
        return CheckResult(True, f"Apple accepts the credential of {application_id} in {where}")
    if request.status == 429 or request.status >= 500:
        return CheckResult(False, NOT_NOW.format(who=f"Apple ({where})", status=request.status, reason=reason))
    if reason == "InvalidProviderToken" and credential.key_pem is not None:
        for team in other_teams:
            answer = await answer_to([*unsigned, _signed(credential, team)])
            if answer.status and read_body(answer.response_body).reason != reason:
                return CheckResult(False, f"{where}: " + _OTHER_TEAM.format(id=application_id, team=team))
    sentence = _SENTENCES.get(reason, "Apple answered {status} {reason}, which says that the credential is refused")
    return CheckResult(False, f"{where}: " + sentence.format(topic=topic, status=request.status, reason=reason))


def _signed(credential: ApnsCredential, team: str) -> Header:
    assert credential.key_pem is not None
    assert credential.key_id is not None
    token = ProviderToken(credential.key_pem, credential.key_id, team, wall_clock=time.time, monotonic=time.monotonic)
    return (b"authorization", token.header())
