"""A push as a request to Apple: `POST /3/device/<token>`, with what its topic decides.

Source: Apple, "Sending notification requests to APNs".
"""

from __future__ import annotations

from typing import Final

from tocsin.domain.routes import Route
from tocsin.http2.messages import Header
from tocsin.providers.apns.address import NAME
from tocsin.providers.apns.channels import Channel
from tocsin.providers.apns.payload import LIMIT_BYTES, VOIP_LIMIT_BYTES
from tocsin.providers.pools import PushRequest

PUSH_TYPE_BY_SUFFIX: Final = (
    (".voip", b"voip"),
    (".complication", b"complication"),
    (".pushkit.fileprovider", b"fileprovider"),
    (".location-query", b"location"),
    (".voip-ptt", b"pushtotalk"),
    (".push-type.liveactivity", b"liveactivity"),
)


def push_type(topic: str) -> bytes:
    """Apple's table of topic suffixes; every other topic gets a background push."""
    for suffix, kind in PUSH_TYPE_BY_SUFFIX:
        if topic.endswith(suffix):
            return kind
    return b"background"


def topic_headers(topic: str) -> list[Header]:
    """The fields that a topic decides. Priority 10 is an error for a background push; a call must ring at once."""
    kind = push_type(topic)
    return [
        (b"apns-topic", topic.encode()),
        (b"apns-push-type", kind),
        (b"apns-priority", b"5" if kind == b"background" else b"10"),
    ]


class ApnsRequest(PushRequest, kw_only=True, eq=False, gc=False):
    """`channel` is the one that it goes through: it may have been replaced when the answer comes."""

    channel: Channel


class HeaderBlock:
    """The header fields that all pushes by one route share, built once."""

    __slots__ = ("_after_path", "_signed", "_signed_for", "before_path", "channel", "limit_bytes", "payload_name")

    def __init__(self, channel: Channel, route: Route) -> None:
        self.channel = channel
        kind = push_type(route.topic)
        self.limit_bytes = VOIP_LIMIT_BYTES if kind == b"voip" else LIMIT_BYTES
        self.payload_name = f"{NAME} {self.limit_bytes}"
        """Pushes of the same limit share an event's payload."""
        self.before_path: list[Header] = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", channel.pool.authority),
        ]
        self._after_path = topic_headers(route.topic)
        self._signed: list[Header] = []
        self._signed_for: tuple[bytes | None, int] | None = None

    def signed(self, authorization: bytes | None, expires_s: int) -> list[Header]:
        """What follows the path: it changes with the provider token, and from second to second."""
        wanted = (authorization, expires_s)
        if self._signed_for != wanted:
            head = [] if authorization is None else [(b"authorization", authorization)]
            self._signed = [*head, *self._after_path, (b"apns-expiration", b"%d" % expires_s)]
            self._signed_for = wanted
        return self._signed
