"""tocsin's client for backends: hand in events, and learn what became of them.

async with AsyncClient("http://127.0.0.1:8080", key) as client:
    event_id = await client.send(FaxNew(owner=owner, fax=fax, phone="+492215587412", page_count=2))
    report = await client.wait_settled(event_id)
"""

from tocsin_client.buffers import AsyncBuffer, Buffer
from tocsin_client.client import AsyncClient, Client
from tocsin_client.errors import (
    BadInput,
    Conflict,
    NotAllowed,
    NotFound,
    NotSettled,
    TocsinError,
    Unavailable,
    UnexpectedAnswer,
    Violation,
)
from tocsin_client.events import (
    ChatMessage,
    DialplanCallreverseStart,
    DialplanCallreverseStop,
    Event,
    FaxNew,
    RecordingNew,
    TextMessage,
)
from tocsin_client.reports import Attempt, Delivery, EventReport

__all__ = [
    "AsyncBuffer",
    "AsyncClient",
    "Attempt",
    "BadInput",
    "Buffer",
    "ChatMessage",
    "Client",
    "Conflict",
    "Delivery",
    "DialplanCallreverseStart",
    "DialplanCallreverseStop",
    "Event",
    "EventReport",
    "FaxNew",
    "NotAllowed",
    "NotFound",
    "NotSettled",
    "RecordingNew",
    "TextMessage",
    "TocsinError",
    "Unavailable",
    "UnexpectedAnswer",
    "Violation",
]
