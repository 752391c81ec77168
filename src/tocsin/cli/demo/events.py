"""The five events that the demo sends, with the contents of the specification's examples."""

from __future__ import annotations

from typing import Any, Final

from tocsin.cli.demo.users import ANNA, JOHN

# All five are for Anna: the phones of the other two users must not get any of them.
EVENTS: Final[tuple[dict[str, Any], ...]] = (
    {
        "owner": ANNA.id,
        "message": "fax_new",
        "fax": "af729cc0-3251-11e2-81c1-0800200c9a66",
        "phone": "+492215587412",
        "page_count": 2,
    },
    {
        "owner": ANNA.id,
        "message": "recording_new",
        "recording": "af729cc0-3251-11e2-81c1-0800200c9a66",
        "phone": "+492215587412",
    },
    {
        "owner": ANNA.id,
        "message": "dialplan_callreverse_start",
        "phone_from": "+4989123248278",
        "phone_to": "+492216698000",
    },
    {
        "owner": ANNA.id,
        "message": "dialplan_callreverse_stop",
        "phone_from": "+4989123248278",
        "phone_to": "+492216698000",
    },
    {
        "owner": ANNA.id,
        "message": "chat_message",
        "chat": "52a9fd3c-8aad-11e0-9138-0024e8f90cc0",
        "uuid": "c1aa1566-84d7-11e2-a7a8-0024e8f90cc0",
        "time": 1362407297,
        "user": JOHN.id,
        "user_name": JOHN.name,
        "type": "text",
        "text": "what's for lunch today?",
    },
)
EXPECTED: Final = frozenset((event["message"], phone.token) for event in EVENTS for phone in ANNA.phones)
"""Every (event, device token) that must be received."""


def notification(content: dict[str, Any]) -> str:
    """What an app would show its user for the content of a push, whichever provider delivered it."""
    match content["message"]:
        case "fax_new":
            return f"New fax from {content['phone']}, pages: {content['page_count']}"
        case "recording_new":
            return f"New recording of a call from {content['phone']}"
        case "dialplan_callreverse_start":
            return f"Call from {content['phone_from']} to {content['phone_to']} is being set up"
        case "dialplan_callreverse_stop":
            return f"Call from {content['phone_from']} to {content['phone_to']} is over"
        case "chat_message":
            return f"{content['user_name']}: {content.get('text') or content['type']}"
        case other:
            return f"an event that this app does not know: {other}"
