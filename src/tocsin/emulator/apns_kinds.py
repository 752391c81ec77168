"""What topic, push type and priority must be to each other.

Source: Apple, "Sending notification requests to APNs", `apns-push-type`, `apns-priority`.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from tocsin.emulator.apns_reasons import Reason, Refused

SUFFIXES: Final = {
    b"alert": "",
    b"background": "",
    b"controls": "",
    b"mdm": "",
    b"widgets": "",
    b"complication": ".complication",
    b"fileprovider": ".pushkit.fileprovider",
    b"liveactivity": ".push-type.liveactivity",
    b"location": ".location-query",
    b"pushtotalk": ".voip-ptt",
    b"voip": ".voip",
}
"""Push type, and the end that it demands of the topic."""

_LIMIT_BYTES: Final = 4096
_VOIP_LIMIT_BYTES: Final = 5120
_OWN_PAYLOAD: Final = frozenset({b"complication", b"fileprovider", b"mdm", b"pushtotalk", b"voip"})
_TOPIC: Final = re.compile(rb"[a-zA-Z0-9.-]{1,255}")
_PRIORITIES: Final = (b"", b"1", b"5", b"10")


class Kind(Struct, frozen=True):
    """One combination that Apple accepts. There is one object per combination and environment."""

    home: tuple[str, bytes]
    """Environment and topic: what a device token belongs to."""
    limit_bytes: int
    needs_aps: bool
    """Otherwise the payload is the app's own (PushKit, MDM)."""


def check_kind(environment: str, topic: bytes, push_type: bytes, priority: bytes, allowed: frozenset[str]) -> Kind:
    """The combination; `allowed` are the only base topics that there are, or empty for all.

    Raises:
        Refused: with Apple's reason.
    """
    if not topic:
        raise Refused(Reason.MISSING_TOPIC)
    if _TOPIC.fullmatch(topic) is None:
        raise Refused(Reason.BAD_TOPIC)
    text = topic.decode()
    if allowed and not any(belongs(text, base) for base in allowed):
        raise Refused(Reason.TOPIC_DISALLOWED)
    own_type = _type_of(text)
    # Apple recommends the header, and takes a push without it for what its topic says.
    push_type = push_type or own_type
    if push_type not in SUFFIXES or SUFFIXES[push_type] != SUFFIXES[own_type]:
        raise Refused(Reason.INVALID_PUSH_TYPE)
    if priority not in _PRIORITIES:
        raise Refused(Reason.BAD_PRIORITY)
    # Apple: "Specifying priority 10 for a background notification is an error."
    if push_type == b"background" and priority == b"10":
        raise Refused(Reason.BAD_PRIORITY)
    limit_bytes = _VOIP_LIMIT_BYTES if push_type == b"voip" else _LIMIT_BYTES
    return Kind((environment, topic), limit_bytes, push_type not in _OWN_PAYLOAD)


def belongs(topic: str, base: str) -> bool:
    """Whether a topic is a bundle id's, or that with one of Apple's suffixes."""
    return topic.startswith(base) and topic[len(base) :] in _ALL_SUFFIXES


def _type_of(topic: str) -> bytes:
    """The push type that a topic's end asks for; plain topics are for alerts."""
    for push_type, suffix in _LONGEST_FIRST:
        if topic.endswith(suffix):
            return push_type
    return b"alert"


_ALL_SUFFIXES: Final = frozenset(SUFFIXES.values())
_LONGEST_FIRST: Final = sorted(
    ((push_type, suffix) for push_type, suffix in SUFFIXES.items() if suffix), key=lambda pair: -len(pair[1])
)
