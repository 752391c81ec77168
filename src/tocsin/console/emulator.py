"""The phones of the demo: what an emulator's inbox has for each of them."""

from __future__ import annotations

from typing import Any, Final

import httpx
import msgspec
from msgspec import Struct

from tocsin.console.admin_api import ApiError
from tocsin.console.options import Options, Phone

_READ: Final = 400
_ON_SCREEN: Final = 4
_NO_FIELDS: Final[dict[str, Any]] = {}


class Push(Struct, frozen=True):
    """A push as `GET /inbox` of an emulator has it."""

    provider: str
    token: str
    id: str
    time: float
    body: Any = None
    environment: str | None = None


class Notification(Struct, frozen=True):
    """What the app on a phone would show of a push."""

    id: str
    title: str
    text: str
    time: float


class Screen(Struct, frozen=True):
    """A phone, with its newest notifications first, and how many pushes it has received."""

    phone: Phone
    notifications: list[Notification]
    received: int


class EmulatorPhones:
    """Reads an emulator's control API."""

    def __init__(self, options: Options) -> None:
        assert options.emulator_url is not None
        self._phones = options.phones
        self._http = httpx.AsyncClient(base_url=options.emulator_url, timeout=5.0, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def screens(self) -> list[Screen]:
        """Every phone with what it has received. A push to a token of no known phone makes one more.

        Raises:
            ApiError: the emulator does not answer.
        """
        try:
            response = await self._http.get("/inbox", params={"limit": _READ})
            response.raise_for_status()
            pushes = msgspec.json.decode(response.content, type=list[Push])
        except (httpx.HTTPError, msgspec.MsgspecError, OSError) as error:
            raise ApiError(0, "", f"The emulator does not answer ({error or type(error).__name__}).") from None
        received: dict[str, list[Push]] = {phone.token: [] for phone in self._phones}
        for push in reversed(pushes):
            received.setdefault(push.token, []).append(push)
        known = {phone.token: phone for phone in self._phones}
        return [
            Screen(
                known.get(token) or _unknown(token, listed[0]),
                [_notification(push) for push in listed[:_ON_SCREEN]],
                len(listed),
            )
            for token, listed in received.items()
        ]


def _unknown(token: str, push: Push) -> Phone:
    return Phone(
        "Other devices", "", "Another device", token, " ".join(filter(None, (push.provider, push.environment)))
    )


def _notification(push: Push) -> Notification:
    content = _content(push)
    title, text = _shown(content)
    return Notification(push.id, title, text, push.time)


def _content(push: Push) -> dict[str, Any]:
    """What the app is given: the body itself, or `message.data` in it."""
    body = push.body if isinstance(push.body, dict) else _NO_FIELDS
    message = body.get("message")
    data = message.get("data") if isinstance(message, dict) else None
    return data if isinstance(data, dict) else body


def _shown(content: dict[str, Any]) -> tuple[str, str]:
    def field(name: str) -> str:
        return str(content.get(name, ""))

    match content.get("message"):
        case "fax_new":
            pages = field("page_count")
            return "New fax", f"{field('phone') or 'Number withheld'}, {pages} {'page' if pages == '1' else 'pages'}"
        case "recording_new":
            return "New recording", f"Call from {field('phone') or 'a withheld number'}"
        case "dialplan_callreverse_start":
            return "Call-reverse", f"{field('phone_from')} is being connected to {field('phone_to')}"
        case "dialplan_callreverse_stop":
            return "Call-reverse", f"{field('phone_from')} to {field('phone_to')}: over"
        case "chat_message":
            return field("user_name") or "Chat", field("text") or f"({field('type')})"
        case other:
            return "Push", str(other)
