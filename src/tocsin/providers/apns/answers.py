"""What Apple's answers mean: every row of the table, on one page.

Source: Apple, "Handling notification responses from APNs" (Table 4 for the reasons), and what senders report of it.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import msgspec
from msgspec import Struct

from tocsin.domain.outcomes import Backoff
from tocsin.providers.answers import AT_ONCE, LINK_FAILURE, SLOWLY, UNREADABLE, name_of


class Act(Enum):
    DELIVERED = auto()
    OTHER_ENVIRONMENT = auto()
    """Try the other environment once; there too: the token is dead."""
    TOKEN_DEAD = auto()
    RETRY = auto()
    RETRY_NEW_CONNECTION = auto()
    """At once, and not on this connection."""
    NEW_PROVIDER_TOKEN = auto()
    """Mint a new provider token and try at once; a second time running the clock is wrong: misconfigured."""
    PAUSE_KEY = auto()
    """The provider token was changed too often: keep the old one and wait until it may be changed."""
    REFUSED = auto()
    OUR_BUG = auto()
    """Refused, and logged at error: tocsin should not have sent this."""
    MISCONFIGURED = auto()
    MISCONFIGURED_TOPIC = auto()
    MISCONFIGURED_DEVICE = auto()
    """About one token: any user can register another application's, so no other device waits. The device's record
    says so; after a week of nothing else the registration goes into quarantine (`service/complaints.py`)."""


class Row(Struct, frozen=True):
    act: Act
    backoff: Backoff = LINK_FAILURE
    failure: bool = False
    """Counts towards the lane's breaker."""


_SERVER_FAILURE: Final = Row(Act.RETRY, LINK_FAILURE, failure=True)
_DEVICE_RATE: Final = Row(Act.RETRY, Backoff(30.0, 900.0, jitter=False))

TABLE: Final[dict[tuple[int, str], Row]] = {
    (400, "BadDeviceToken"): Row(Act.OTHER_ENVIRONMENT),
    (400, "DeviceTokenNotForTopic"): Row(Act.MISCONFIGURED_DEVICE),
    (400, "TopicDisallowed"): Row(Act.MISCONFIGURED_TOPIC),
    (400, "BadTopic"): Row(Act.MISCONFIGURED_TOPIC),
    (400, "MissingTopic"): Row(Act.MISCONFIGURED_TOPIC),
    (400, "BadCollapseId"): Row(Act.OUR_BUG),
    (400, "BadExpirationDate"): Row(Act.OUR_BUG),
    (400, "BadMessageId"): Row(Act.OUR_BUG),
    (400, "BadPriority"): Row(Act.OUR_BUG),
    (400, "InvalidPushType"): Row(Act.OUR_BUG),
    (400, "DuplicateHeaders"): Row(Act.OUR_BUG),
    (400, "MissingDeviceToken"): Row(Act.OUR_BUG),
    (400, "PayloadEmpty"): Row(Act.OUR_BUG),
    (400, "IdleTimeout"): Row(Act.RETRY_NEW_CONNECTION, AT_ONCE),
    (403, "ExpiredProviderToken"): Row(Act.NEW_PROVIDER_TOKEN, AT_ONCE),
    (403, "InvalidProviderToken"): Row(Act.MISCONFIGURED),
    (403, "MissingProviderToken"): Row(Act.MISCONFIGURED),
    (403, "BadCertificate"): Row(Act.MISCONFIGURED),
    (403, "BadCertificateEnvironment"): Row(Act.MISCONFIGURED),
    (403, "UnrelatedKeyIdInToken"): Row(Act.MISCONFIGURED),
    (403, "BadEnvironmentKeyInToken"): Row(Act.MISCONFIGURED),
    (403, "BadEnvironmentKeyIdInToken"): Row(Act.MISCONFIGURED),
    (403, "Forbidden"): Row(Act.MISCONFIGURED),
    (404, "BadPath"): Row(Act.OUR_BUG),
    (405, "MethodNotAllowed"): Row(Act.OUR_BUG),
    (410, "Unregistered"): Row(Act.TOKEN_DEAD),
    (410, "ExpiredToken"): Row(Act.TOKEN_DEAD),
    (413, "PayloadTooLarge"): Row(Act.OUR_BUG),
    (429, "TooManyRequests"): _DEVICE_RATE,
    (429, "TooManyProviderTokenUpdates"): Row(Act.PAUSE_KEY, Backoff(1.0, 1200.0, jitter=False)),
    (500, "InternalServerError"): _SERVER_FAILURE,
    (503, "ServiceUnavailable"): _SERVER_FAILURE,
    (503, "Shutdown"): Row(Act.RETRY_NEW_CONNECTION, AT_ONCE),
}

BY_STATUS: Final[dict[int, Row]] = {
    200: Row(Act.DELIVERED),
    400: Row(Act.REFUSED),
    403: Row(Act.MISCONFIGURED),
    404: Row(Act.OUR_BUG),
    405: Row(Act.OUR_BUG),
    413: Row(Act.OUR_BUG),
    429: _DEVICE_RATE,
    500: _SERVER_FAILURE,
    502: _SERVER_FAILURE,
    503: _SERVER_FAILURE,
    504: _SERVER_FAILURE,
}
"""Where the reason is not in the table. A 410 without a known reason is not here: it must not kill a token."""

UNKNOWN: Final = Row(Act.RETRY, SLOWLY)
"""An answer that the table does not describe: tried again slowly, counted, and logged."""


class ErrorBody(Struct, frozen=True):
    reason: str = ""
    timestamp: int | None = None
    """410 only: Unix milliseconds since when the token is known to be dead."""


def read_body(body: bytes) -> ErrorBody:
    try:
        found = msgspec.json.decode(body, type=ErrorBody)
    except UNREADABLE:
        return ErrorBody()
    return ErrorBody(name_of(found.reason), found.timestamp)


def find_row(status: int, reason: str) -> tuple[Row, bool]:
    """The row for an answer, and whether the answer is one that the table knows."""
    row = TABLE.get((status, reason))
    if row is not None:
        return row, True
    if status == 200:
        return BY_STATUS[200], True
    return BY_STATUS.get(status, UNKNOWN), False
