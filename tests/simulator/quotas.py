"""Quotas that are counted: so many pushes a minute to a project or to a device, and 429 for what is beyond.

Google counts by minutes of its clock. What its 429 asks for is judged by what comes to it afterwards: nothing of the
project for a minute, and then few at first.

Source: Google, "Throttling and Quotas" of FCM; Apple, "Handling notification responses from APNs" (`TooManyRequests`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tests.simulator.judge import Invariant
from tests.simulator.phones import Phone
from tests.simulator.rows import Scope
from tests.simulator.troubles import Trouble
from tocsin.emulator.faults import Rule

if TYPE_CHECKING:
    from tests.simulator.world import World

_MINUTE_S: Final = 60.0
_ON_ITS_WAY_S: Final = 15.0
"""So long after its first 429 a provider may still get what was sent before tocsin knew of it."""
_A_MOMENT_S: Final = 1.0
_FIRST_OF_RAMP: Final = 11
"""The probe that ends the pause, and ten in the second after its answer."""
_RECOVERY_S: Final = 16 * 60.0
_OF_PROJECTS: Final = (5, 30, 150)
_OF_DEVICES: Final = (1, 3)


class Quota(Struct, eq=False, kw_only=True):
    trouble: Trouble
    answer: Rule
    """What is answered beyond it."""
    most_a_minute: int
    project: str = ""
    tokens: frozenset[str] = frozenset()
    minute: int = -1
    counted: dict[str, int] = {}
    """In this minute, by token; of a project under one name."""
    refused_s: float | None = None
    """When it refused first since it was asked for nothing for a minute (loop time)."""
    resumed: list[float] = []
    """When pushes came after that minute (loop time)."""

    def applies(self, request: Any) -> bool:
        if self.trouble.ended_s is not None or request.provider != self.trouble.provider:
            return False
        return request.token in self.tokens or bool(self.project and request.project == self.project)

    def is_exceeded(self, request: Any, now_s: float) -> bool:
        """Count one push."""
        minute, name = int(now_s // _MINUTE_S), "" if self.project else request.token
        if minute != self.minute:
            self.minute, self.counted = minute, {}
        count = self.counted[name] = self.counted.get(name, 0) + 1
        return count > self.most_a_minute


class Quotas:
    """Stands before the emulator's own rules."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._all: list[Quota] = []
        self._select: Callable[[Any, Any], Rule | None] = world.emulator.faults.select
        world.emulator.faults.select = self._limited  # type: ignore[method-assign]

    def begin(self, random: Random) -> Trouble | None:
        """A quota of some devices of Apple's, or of a project of Google's; None where there are none, or one is on."""
        world = self._world
        if any(quota.trouble.ended_s is None for quota in self._all):
            return None
        provider = random.choice(("apns", "fcm", "fcm"))
        own = [phone for phone in world.phones if phone.provider == provider and not phone.dead]
        if not own:
            return None
        quota = _of_project(random.choice(own), random) if provider == "fcm" else _of_devices(own, random)
        self._all.append(quota)
        return world.begin(quota.trouble)

    def _limited(self, request: Any, connection: Any) -> Rule | None:
        rule = self._select(request, connection)
        if rule is not None and rule.replaces_answer:
            return rule
        now_s = self._world.loop.time()
        for quota in self._all:
            if quota.applies(request):
                if quota.project:
                    self._check_pause(quota, now_s)
                if quota.is_exceeded(request, now_s):
                    if quota.refused_s is None:
                        quota.refused_s, quota.resumed = now_s, []
                    return quota.answer
        return rule

    def _check_pause(self, quota: Quota, now_s: float) -> None:
        """A push comes, and maybe its project has had to wait."""
        if quota.refused_s is None:
            return
        since_s = now_s - quota.refused_s
        # Other troubles delay what was sent before, end pauses, or make them longer.
        if any(one is not quota.trouble and not one.is_over(quota.refused_s) for one in self._world.all_troubles):
            quota.refused_s = None
            return
        if since_s < _ON_ITS_WAY_S:
            return
        if since_s < _MINUTE_S:
            what = f"{quota.trouble.name} was exceeded {since_s:.1f} s ago, and a push comes: it has to wait a minute"
            self._world.judge.violated(Invariant.RULES, what)
        quota.resumed.append(now_s)
        if now_s - quota.resumed[0] > _A_MOMENT_S:
            quota.refused_s = None
        elif len(quota.resumed) > _FIRST_OF_RAMP:
            what = f"{len(quota.resumed)} pushes come at once after {quota.trouble.name} was exceeded"
            self._world.judge.violated(Invariant.RULES, what)


def _of_project(phone: Phone, random: Random) -> Quota:
    most = random.choice(_OF_PROJECTS)
    trouble = Trouble(
        name=f"the quota of {most} a minute",
        scope=Scope.APPLICATION,
        provider="fcm",
        application=phone.application,
        recovery_s=_RECOVERY_S,
    )
    answer = trouble.answer = Rule(status=429, reason="QUOTA_EXCEEDED")
    return Quota(trouble=trouble, answer=answer, most_a_minute=most, project=phone.application)


def _of_devices(own: list[Phone], random: Random) -> Quota:
    most, victims = random.choice(_OF_DEVICES), random.sample(own, min(len(own), random.choice((1, 3, 8))))
    trouble = Trouble(
        name=f"the quota of {most} a minute for each",
        scope=Scope.DEVICE,
        provider="apns",
        phones=frozenset([phone.number for phone in victims]),
        recovery_s=_RECOVERY_S,
    )
    answer = trouble.answer = Rule(status=429, reason="TooManyRequests")
    tokens = frozenset([phone.token for phone in victims])
    return Quota(trouble=trouble, answer=answer, most_a_minute=most, tokens=tokens)
