"""The rules of all providers that tocsin ships: what may be registered, and what may be sent. Cheap to import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from tocsin.domain.devices import Device, DeviceToken
from tocsin.domain.events import EventError, ParsedEvent
from tocsin.providers.apns.address import ApnsRules
from tocsin.providers.base import Rules
from tocsin.providers.fcm.address import FcmRules
from tocsin.providers.fitting import cut_text

_LONGEST_NAME: Final = 40
"""So long may a reserved name be that an error quotes: most of one can be anything (`google.…`)."""
_LONGEST_TEXT: Final = 5120
"""No provider takes a larger payload (Apple, VoIP notifications)."""


class RuleBook(Mapping[str, Rules]):
    """The rules of several providers, by name, in the order in which answers name them."""

    def __init__(self, rules: Iterable[Rules]) -> None:
        self._by_name = {one.name: one for one in rules}
        self.fields = frozenset().union(*(one.fields for one in self._by_name.values()))
        """Every field that some provider's registrations have."""
        self._always_fits_bytes = min(one.always_fits_bytes for one in self._by_name.values())

    @property
    def must_be(self) -> str:
        """The rule that another name breaks, for a message."""
        return f"must be {' or '.join(sorted(self))}"

    def __getitem__(self, name: str) -> Rules:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def of(self, device: Device) -> Rules:
        return self._by_name[device.provider]

    def is_token_of(self, text: str, device: Device) -> bool:
        """Whether a token that somebody names, in whatever spelling its provider allows, is this device's."""
        rules = self._by_name.get(device.provider)
        if rules is None:
            return text == device.token
        try:
            return rules.token(text) == device.token
        except ValueError:
            return False

    def stored_tokens(self, text: str) -> list[DeviceToken]:
        """The forms in which a token that somebody names may be stored, whichever provider's it is.

        What is found by them is the token only where `is_token_of` says so: each form is one provider's, and another
        provider may have given out just that.
        """
        tokens = []
        for rules in self._by_name.values():
            try:
                tokens.append(rules.token(text))
            except ValueError:
                continue
        return list(dict.fromkeys(tokens)) or [DeviceToken(text)]

    def check_event(self, event: ParsedEvent) -> bytes:
        """Whether every provider could send the event; returns the body to be kept.

        Raises:
            EventError: one could not: a field's name is reserved, or it can never be made to fit.
        """
        for field in event.own_fields:
            if any(rules.reserves(field) for rules in self._by_name.values()):
                raise EventError(f"$.{field if len(field) <= _LONGEST_NAME else '*'}", "reserved by the providers")
        if len(event.body) <= self._always_fits_bytes:
            return event.body
        # Cut first: to shorten a text of megabytes takes long.
        body = cut_text(event.body, _LONGEST_TEXT)
        try:
            for rules in self._by_name.values():
                rules.check_fits(body)
        except ValueError as error:
            raise EventError("$", str(error)) from None
        return body


RULES: Final = RuleBook((FcmRules(), ApnsRules()))


def check_event(event: ParsedEvent) -> bytes:
    """`RuleBook.check_event` with the providers that tocsin ships."""
    return RULES.check_event(event)
