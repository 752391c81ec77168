"""The rows of the providers' tables, and the ways of not answering: each may be a trouble of some scopes."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from tocsin.emulator.faults import Goaway


class Scope(IntEnum):
    """Whom a trouble affects; also the order in which a provider looks: the broader first."""

    EVERYTHING = 0
    PROVIDER = 1
    APPLICATION = 2
    TOPIC = 3
    DEVICE = 4


class Row(Struct, frozen=True, kw_only=True):
    """One row of a provider's table, or one way of not answering."""

    name: str
    provider: str
    scopes: tuple[Scope, ...]
    fields: dict[str, Any]
    recovery_s: float
    """For how long those whom it affected may still feel it after its end."""
    refuses: bool = False
    """A delivery may end as refused by it."""
    fails: bool = False
    """The provider or the link to it has failed, as far as tocsin can tell: it counts towards the lane's breaker."""
    instead: tuple[str, ...] = ()
    """Other reasons with the same status that mean the same; one of all of them is drawn."""


NOT_FOR_TOPIC: Final = "DeviceTokenNotForTopic"
_DEVICE: Final = (Scope.DEVICE,)
_TOPIC: Final = (Scope.TOPIC,)
_APPLICATION: Final = (Scope.APPLICATION,)
_PROVIDER: Final = (Scope.PROVIDER,)
_BROAD: Final = (Scope.APPLICATION, Scope.PROVIDER)
_ANY: Final = (Scope.DEVICE, Scope.APPLICATION, Scope.PROVIDER)

_MISCONFIGURED_S: Final = 16 * 60.0
_BREAKER_S: Final = 2 * 60.0
_RATE_S: Final = 16 * 60.0
_LONG_AGO_MS: Final = 1_000_000_000_000


def _apns(
    status: int, reason: str, scopes: tuple[Scope, ...], recovery_s: float, *, refuses: bool = False, **more: Any
) -> Row:
    return _answer("apns", status, reason, scopes, recovery_s, refuses=refuses, **more)


def _fcm(
    status: int, code: str, scopes: tuple[Scope, ...], recovery_s: float, *, refuses: bool = False, **more: Any
) -> Row:
    return _answer("fcm", status, code, scopes, recovery_s, refuses=refuses, **more)


def _answer(
    provider: str,
    status: int,
    reason: str,
    scopes: tuple[Scope, ...],
    recovery_s: float,
    *,
    refuses: bool,
    instead: tuple[str, ...] = (),
    **more: Any,
) -> Row:
    name = f"{provider} {status} {reason}" + (f" {more['headers']}" if "headers" in more else "")
    fields = {"status": status, "reason": reason, **more}
    return Row(
        name=name,
        provider=provider,
        scopes=scopes,
        fields=fields,
        recovery_s=recovery_s,
        refuses=refuses,
        fails=status >= 500,
        instead=instead,
    )


def _html(status: int, scopes: tuple[Scope, ...], recovery_s: float, *, refuses: bool = False) -> Row:
    """A page of Google's front end, in place of FCM's answer."""
    page = f"<!DOCTYPE html><title>Error {status}</title>"
    row = _answer("fcm", status, "", scopes, recovery_s, refuses=refuses, body=page, headers=_HTML)
    return replace(row, name=f"fcm HTML {status}")


def _unanswered(name: str, provider: str, scopes: tuple[Scope, ...], **fields: Any) -> Row:
    return Row(
        name=f"{provider} {name}",
        provider=provider,
        scopes=scopes,
        fields=fields,
        recovery_s=_BREAKER_S,
        fails=True,
    )


def _ways_of_not_answering(provider: str) -> list[Row]:
    return [
        _unanswered("no answer", provider, _ANY, no_answer=True),
        _unanswered("no answer, accepted", provider, _BROAD, no_answer=True, processed=True),
        _unanswered("answers after 3 s", provider, _ANY, delay_s=3.0),
        _unanswered("answers after 40 s", provider, _ANY, delay_s=40.0),
        _unanswered("stream reset", provider, _ANY, reset=2),
        _unanswered("stream reset, accepted", provider, _ANY, reset=2, processed=True),
        _unanswered("stream refused", provider, _ANY, reset=7),
        # These end or slow the connection, which all of a provider's applications share.
        _unanswered("cut in header fields", provider, _PROVIDER, cut="mid_headers"),
        _unanswered("cut in body, accepted", provider, _PROVIDER, cut="mid_body", processed=True),
        _unanswered("cut before the answer", provider, _PROVIDER, cut="before_answer"),
        _unanswered("GOAWAY", provider, _PROVIDER, goaway=Goaway(mode="graceful", every=20)),
        _unanswered("GOAWAY, in the middle", provider, _PROVIDER, goaway=Goaway(mode="mid", every=7)),
        _unanswered("GOAWAY, at once", provider, _PROVIDER, goaway=Goaway(mode="immediate", every=15)),
        _unanswered("GOAWAY to every request", provider, _PROVIDER, goaway=Goaway(mode="mid")),
        _unanswered("one stream at a time", provider, _PROVIDER, max_concurrent_streams=1),
        _unanswered("no stream at all", provider, _PROVIDER, max_concurrent_streams=0),
        _unanswered("reads slowly", provider, _PROVIDER, slow_read_s=5.0),
    ]


_AFTER_0: Final = {"retry-after": "0"}
_AFTER_5: Final = {"retry-after": "5"}
_AFTER_LONG: Final = {"retry-after": "600"}
_HTML: Final = {"content-type": "text/html; charset=UTF-8"}
_UNKNOWN: Final = "SomethingNew"
_UNKNOWN_CODE: Final = "SOMETHING_NEW"
_OUR_BUGS: Final = (
    *("BadExpirationDate", "BadMessageId", "BadPriority", "InvalidPushType", "DuplicateHeaders", "MissingDeviceToken"),
    *("PayloadEmpty", _UNKNOWN),
)
_OF_KEYS: Final = (
    *("MissingProviderToken", "BadCertificate", "BadCertificateEnvironment", "UnrelatedKeyIdInToken"),
    *("BadEnvironmentKeyInToken", "BadEnvironmentKeyIdInToken", "Forbidden", _UNKNOWN),
)

ROWS: Final[tuple[Row, ...]] = (
    _apns(400, NOT_FOR_TOPIC, _DEVICE, _MISCONFIGURED_S),
    _apns(429, "TooManyRequests", _DEVICE, _RATE_S, instead=(_UNKNOWN,)),
    _apns(429, "TooManyRequests", _DEVICE, _RATE_S, headers=_AFTER_0),
    _apns(429, "TooManyRequests", _DEVICE, _RATE_S, headers=_AFTER_LONG),
    _apns(410, "Unregistered", _DEVICE, _RATE_S, timestamp=_LONG_AGO_MS),
    _apns(410, "SomethingNew", _DEVICE, _RATE_S),
    _apns(400, "BadCollapseId", _DEVICE, 0.0, refuses=True, instead=_OUR_BUGS),
    _apns(404, "BadPath", _DEVICE, 0.0, refuses=True, instead=(_UNKNOWN,)),
    _apns(405, "MethodNotAllowed", _DEVICE, 0.0, refuses=True, instead=(_UNKNOWN,)),
    _apns(413, "PayloadTooLarge", _DEVICE, 0.0, refuses=True, instead=(_UNKNOWN,)),
    _apns(400, "TopicDisallowed", _TOPIC, _MISCONFIGURED_S),
    _apns(400, "BadTopic", _TOPIC, _MISCONFIGURED_S, instead=("MissingTopic",)),
    _apns(400, NOT_FOR_TOPIC, _TOPIC, _MISCONFIGURED_S),
    _apns(403, "InvalidProviderToken", _APPLICATION, _MISCONFIGURED_S, instead=_OF_KEYS),
    _apns(403, "ExpiredProviderToken", _PROVIDER, _MISCONFIGURED_S),
    _apns(429, "TooManyProviderTokenUpdates", _PROVIDER, 21 * 60.0),
    _apns(500, "InternalServerError", _ANY, _BREAKER_S, instead=(_UNKNOWN,)),
    _apns(502, _UNKNOWN, _ANY, _BREAKER_S),
    _apns(504, _UNKNOWN, _BROAD, _BREAKER_S),
    _apns(503, "ServiceUnavailable", _ANY, _BREAKER_S, instead=(_UNKNOWN,)),
    _apns(503, "ServiceUnavailable", _BROAD, _BREAKER_S, headers=_AFTER_0),
    _apns(503, "ServiceUnavailable", _BROAD, 11 * 60.0, headers=_AFTER_LONG),
    _apns(503, "Shutdown", _PROVIDER, _BREAKER_S),
    _apns(400, "IdleTimeout", _PROVIDER, _BREAKER_S),
    *_ways_of_not_answering("apns"),
    _fcm(401, "THIRD_PARTY_AUTH_ERROR", _DEVICE, _MISCONFIGURED_S),
    _fcm(429, "RESOURCE_EXHAUSTED", _DEVICE, _RATE_S, message="The device's message rate is exceeded"),
    _fcm(400, "INVALID_ARGUMENT", _DEVICE, 0.0, refuses=True, field="message.data"),
    _fcm(429, "QUOTA_EXCEEDED", _BROAD, _RATE_S),
    _fcm(429, "QUOTA_EXCEEDED", _BROAD, _RATE_S, headers=_AFTER_5),
    _fcm(500, "INTERNAL", _ANY, _BREAKER_S),
    _fcm(503, "UNAVAILABLE", _ANY, _BREAKER_S),
    _fcm(503, "UNAVAILABLE", _BROAD, _BREAKER_S, headers=_AFTER_5),
    _fcm(502, "", _BROAD, _BREAKER_S),
    _fcm(504, "", _BROAD, _BREAKER_S),
    _fcm(418, _UNKNOWN_CODE, _DEVICE, _RATE_S),
    _fcm(401, "UNAUTHENTICATED", _BROAD, _MISCONFIGURED_S),
    _fcm(403, "PERMISSION_DENIED", _BROAD, _MISCONFIGURED_S),
    *(_html(status, _BROAD, _BREAKER_S) for status in (500, 502, 503, 504)),
    *(_html(status, _BROAD, _MISCONFIGURED_S) for status in (401, 403, 429)),
    _html(400, _DEVICE, 0.0, refuses=True),
    Row(name="fcm HTML 404", provider="fcm", scopes=_BROAD, fields={"html_404": True}, recovery_s=_MISCONFIGURED_S),
    Row(
        name="fcm expires its access tokens",
        provider="fcm",
        scopes=_PROVIDER,
        fields={"expire_tokens": True},
        recovery_s=_MISCONFIGURED_S,
    ),
    *_ways_of_not_answering("fcm"),
)

DEATHS: Final = {
    "apns": ((410, "Unregistered"), (410, "ExpiredToken"), (400, "BadDeviceToken")),
    "fcm": ((404, "UNREGISTERED"), (400, "INVALID_ARGUMENT"), (403, "SENDER_ID_MISMATCH")),
}
"""The answers that a token is dead, by status and reason: Apple's last one in both environments, Google's second one
about the field of the token, whichever that is, and its last one in every project."""
TOKEN_FIELD: Final = "message.token"
