"""Which topic, push type and priority may be combined, and what APNs then requires of the payload.

Source: Apple, "Sending notification requests to APNs", `apns-push-type` and `apns-priority`.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from tocsin.emulator.apns_reasons import ApnsRefusal, Reason

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
"""The suffix that the topic must have, by push type."""

_PAYLOAD_LIMIT_BYTES: Final = 4096
_VOIP_PAYLOAD_LIMIT_BYTES: Final = 5120
_TYPES_WITHOUT_APS: Final = frozenset({b"complication", b"fileprovider", b"mdm", b"pushtotalk", b"voip"})
_TOPIC: Final = re.compile(rb"[a-zA-Z0-9.-]{1,255}")
_PRIORITIES: Final = (b"", b"1", b"5", b"10")

TokenBinding = tuple[str, bytes]
"""Environment and topic. A device token is valid for one environment and one topic only."""


class PushRules(Struct, frozen=True):
    """What APNs requires of a push with one valid combination of topic, push type and priority.

    A handler has one object for each combination, so that bindings can be compared by identity first.
    """

    binding: TokenBinding
    """The environment and topic that the device token must be for."""
    payload_limit_bytes: int
    requires_aps: bool
    """Whether the payload must have an `aps` member. The app alone defines the payload for PushKit and MDM."""


def rules_for(environment: str, topic: bytes, push_type: bytes, priority: bytes, allowed: frozenset[str]) -> PushRules:
    """The rules for one combination; an absent header field is an empty `push_type` or `priority`.

    `allowed` are the only topics without suffix that are permitted; empty permits all.

    Raises:
        ApnsRefusal: APNs does not accept the combination.
    """
    if not topic:
        raise ApnsRefusal(Reason.MISSING_TOPIC)
    if _TOPIC.fullmatch(topic) is None:
        raise ApnsRefusal(Reason.BAD_TOPIC)
    text = topic.decode()
    if allowed and not any(is_topic_of(text, bundle_id) for bundle_id in allowed):
        raise ApnsRefusal(Reason.TOPIC_DISALLOWED)
    type_of_topic = _type_by_suffix(text)
    # Apple recommends `apns-push-type`, but accepts a push without it as the type that its topic implies.
    push_type = push_type or type_of_topic
    if push_type not in SUFFIXES or SUFFIXES[push_type] != SUFFIXES[type_of_topic]:
        raise ApnsRefusal(Reason.INVALID_PUSH_TYPE)
    if priority not in _PRIORITIES:
        raise ApnsRefusal(Reason.BAD_PRIORITY)
    # Apple: "Specifying priority 10 for a background notification is an error."
    if push_type == b"background" and priority == b"10":
        raise ApnsRefusal(Reason.BAD_PRIORITY)
    limit_bytes = _VOIP_PAYLOAD_LIMIT_BYTES if push_type == b"voip" else _PAYLOAD_LIMIT_BYTES
    return PushRules((environment, topic), limit_bytes, push_type not in _TYPES_WITHOUT_APS)


def is_topic_of(topic: str, bundle_id: str) -> bool:
    """Whether a topic is this bundle id, or this bundle id with one of Apple's suffixes."""
    return topic.startswith(bundle_id) and topic[len(bundle_id) :] in _ALL_SUFFIXES


def _type_by_suffix(topic: str) -> bytes:
    """The push type that a topic's suffix requires; `alert` for a topic without suffix."""
    for push_type, suffix in _LONGEST_FIRST:
        if topic.endswith(suffix):
            return push_type
    return b"alert"


_ALL_SUFFIXES: Final = frozenset(SUFFIXES.values())
_LONGEST_FIRST: Final = sorted(
    ((push_type, suffix) for push_type, suffix in SUFFIXES.items() if suffix), key=lambda pair: -len(pair[1])
)
