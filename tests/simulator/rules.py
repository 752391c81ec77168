"""Whether tocsin keeps the providers' rules: no provider has refused anything but what it was told to refuse, and what
cannot be known beforehand.

So provider tokens and access tokens are renewed in time and not too often, and no request is malformed. How long
tocsin waits before it tries again is judged in `waits.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.simulator.judge import Invariant
from tests.simulator.troubles import Trouble
from tests.simulator.world import World

Refusal = tuple[str, int, str]
"""Provider, status and reason."""

_OF_DEVICES: Final = frozenset({("apns", 400, "BadDeviceToken"), ("fcm", 403, "SENDER_ID_MISMATCH")})
"""What tocsin cannot know of a device before it is told: its environment, and its project."""
_TOO_MANY_TOKENS: Final = ("apns", 429, "TooManyProviderTokenUpdates")
_OF_WRONG_KEYS: Final = frozenset(
    {
        ("apns", 403, "InvalidProviderToken"),
        ("fcm", 403, "PERMISSION_DENIED"),
        _TOO_MANY_TOKENS,
    }
)
"""What an operator earns who puts a wrong key, and replaces it."""
_OF_CLOCKS: Final = frozenset(
    {
        ("apns", 403, "InvalidProviderToken"),
        ("apns", 403, "ExpiredProviderToken"),
        _TOO_MANY_TOKENS,
        ("fcm", 401, "UNAUTHENTICATED"),
        ("oauth", 400, "invalid_grant"),
    }
)
"""What a token earns whose time is not the provider's, and one that is made anew for that."""


def check_rules(world: World) -> None:
    """Judge all answers so far."""
    world.judge.waits.check_jitter()
    expected = _OF_DEVICES | world.deaths | _told(world.all_troubles)
    if "operator" in world.plan.troubles:
        expected |= _OF_WRONG_KEYS
    if not world.clocks_agree:
        expected |= _OF_CLOCKS
    for answer in world.emulator.stats()["answers"]:
        refusal = (answer["provider"], answer["status"], answer["reason"])
        if answer["status"] >= 400 and refusal not in expected:
            provider, status, reason = refusal
            world.judge.violated(Invariant.RULES, f"{answer['count']} times {provider} answered {status} {reason}")


def _told(troubles: Iterable[Trouble]) -> frozenset[Refusal]:
    """What the providers were told to refuse, and what they then refuse by themselves."""
    told: set[Refusal] = set()
    for trouble in troubles:
        if (rule := trouble.rule or trouble.answer) is None:
            continue
        status = 404 if rule.html_404 else 401 if rule.expire_tokens else rule.status
        if status is not None:
            told.add((trouble.provider, status, rule.reason))
        if rule.expire_tokens:
            told.add(("fcm", 401, "UNAUTHENTICATED"))
    if ("apns", 403, "ExpiredProviderToken") in told:
        # A provider token that is called expired is renewed at once, also where it was new: that may be too soon.
        told.add(_TOO_MANY_TOKENS)
    return frozenset(told)
