"""Whether tocsin keeps the providers' rules: no provider has refused anything but what it was told to refuse.

So provider tokens and access tokens are renewed in time and not too often, and no request is malformed.
"""

from __future__ import annotations

from typing import Final

from tests.simulator.judge import Invariant
from tests.simulator.world import World

_OF_DEVICES: Final = {
    ("apns", 400, "BadDeviceToken"),
    ("apns", 410, "Unregistered"),
    ("fcm", 403, "SENDER_ID_MISMATCH"),
    ("fcm", 404, "UNREGISTERED"),
}
"""What tocsin cannot know of a device before it is told."""


def check_rules(world: World) -> None:
    """Judge all answers so far. Clocks that differ, and an operator's wrong keys, earn refusals of other kinds."""
    if not world.clocks_agree or "operator" in world.plan.troubles:
        return
    rules = [trouble.rule for trouble in world.all_troubles if trouble.rule is not None]
    told = {(rule.status, rule.reason) for rule in rules}
    tokens_expire = any(rule.expire_tokens for rule in rules)
    pages = any(rule.html_404 for rule in rules)
    if (403, "ExpiredProviderToken") in told:
        # A provider token that is called expired is renewed at once, also where it was new: that may be too soon.
        told.add((429, "TooManyProviderTokenUpdates"))
    for answer in world.emulator.stats()["answers"]:
        provider, status, reason = answer["provider"], answer["status"], answer["reason"]
        if status < 400 or (provider, status, reason) in _OF_DEVICES or (status, reason) in told:
            continue
        if provider == "fcm" and ((status == 401 and tokens_expire) or (status == 404 and pages)):
            continue
        world.judge.violated(Invariant.RULES, f"{answer['count']} times {provider} answered {status} {reason}")
