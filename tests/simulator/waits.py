"""Whether tocsin waits for as long as the providers ask before it tries a delivery again.

The waits are those of the providers' tables, written down here once more: what tocsin takes for them is not asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

import msgspec
from msgspec import Struct

from tests.simulator.model import Model, Refusal

_LONGEST_RETRY_AFTER_S: Final = 3600
_CLOCK_TICK_S: Final = 0.01
"""Due times are milliseconds of a wall clock."""
_WAKES_WITHIN_S: Final = 5.0
"""After a credential was put, what waits for its lane is woken."""
_STANDSTILL_S: Final = 5 * 60.0
"""The same where storage or process may stand still meanwhile."""
_JITTER_NEEDS: Final = 40
_LEAST_MEDIAN_S: Final = 0.25
"""Full jitter of two seconds has its median at one second: with 40 waits hardly one in a million is below this."""


class Least(Struct, frozen=True):
    """The shortest wait: `first_s` after the first answer, doubling up to `cap_s`. A wait with jitter has the lower end
    of its range."""

    first_s: float = 0.0
    cap_s: float = 0.0

    def after(self, answers: int) -> float:
        """`answers`: how many there were to this delivery before."""
        return min(self.cap_s, self.first_s * 2.0 ** min(answers, 20))


_SLOWLY: Final = Least(60.0, 900.0)
_BY_REASON: Final = {
    ("apns", 429, "TooManyRequests"): Least(30.0, 900.0),
    ("apns", 429, "TooManyProviderTokenUpdates"): Least(1.0, 1.0),
    **{
        ("apns", 400, one): _SLOWLY for one in ("DeviceTokenNotForTopic", "TopicDisallowed", "BadTopic", "MissingTopic")
    },
    ("fcm", 401, "THIRD_PARTY_AUTH_ERROR"): _SLOWLY,
    ("fcm", 403, "PERMISSION_DENIED"): _SLOWLY,
    ("fcm", 429, "QUOTA_EXCEEDED"): _SLOWLY,
    ("fcm", 429, "RESOURCE_EXHAUSTED"): _SLOWLY,
    ("fcm", 429, ""): _SLOWLY,
    ("fcm", 404, ""): _SLOWLY,
}
_BY_STATUS: Final = {("fcm", status): Least(10.0, 10.0) for status in (502, 503, 504)}
"""Google asks for ten seconds at least before the first retry."""
_FAILURES: Final = (500, 502, 503, 504)
_AT_ONCE: Final = ("Shutdown",)


class Wait(Struct, frozen=True):
    """The last answer to a delivery, and for how long it has to wait."""

    what: str
    sent_s: float
    """When the request was sent that was answered so (loop time)."""
    answered_s: float
    least_s: float
    is_jittered: bool


class Waits:
    def __init__(self, model: Model, violated: Callable[[str], None]) -> None:
        self._model = model
        self._violated = violated
        self._loop = asyncio.get_running_loop()
        self._sent: dict[tuple[str, str], float] = {}
        self._answers: dict[tuple[str, str], int] = {}
        """How many were no success, in a row."""
        self._waits: dict[tuple[str, str], Wait] = {}
        self._jittered: list[float] = []
        self.brought_forward: list[float] = []
        """When something was asked for that wakes what waits, or moves its due time (loop time)."""
        self.may_stand_still = False

    def sent(self, requests: Sequence[Any]) -> None:
        """These were given to a connection just now."""
        now_s = self._loop.time()
        for request in requests:
            if (push := getattr(request, "push", None)) is None:
                continue
            key = (push.content.event.id, push.device.token)
            wait = self._waits.pop(key, None)
            if wait is not None:
                self._check(key, wait, now_s - wait.answered_s)
            self._sent[key] = now_s

    def _check(self, key: tuple[str, str], wait: Wait, waited_s: float) -> None:
        if self._may_be_early(key, wait):
            return
        if waited_s < wait.least_s - _CLOCK_TICK_S:
            self._violated(
                f"event {key[0]} was sent to {key[1][-6:]} again after {waited_s:.2f} s: after {wait.what} it has to "
                f"wait for {wait.least_s:g} s"
            )
        if wait.is_jittered:
            self._jittered.append(waited_s)

    def answered(self, requests: Sequence[Any]) -> None:
        """These requests have ended just now, with an answer or without."""
        for request in requests:
            if (push := getattr(request, "push", None)) is None or not request.status:
                continue
            key = (push.content.event.id, push.device.token)
            if request.status == 200:
                self._waits.pop(key, None)
                self._answers.pop(key, None)
                continue
            before = self._answers.get(key, 0)
            self._answers[key] = before + 1
            now_s = self._loop.time()
            answer = Refusal(self._sent.get(key, now_s), now_s, request.status, _reason(request.response_body))
            self._model.refusals.setdefault(key, []).append(answer)
            self._waits[key] = self._wait(push.route.provider, request, answer, before)

    def _wait(self, provider: str, request: Any, answer: Refusal, before: int) -> Wait:
        reason = answer.reason
        least = _BY_REASON.get((provider, request.status, reason)) or _BY_STATUS.get((provider, request.status))
        least_s = (least or Least()).after(before)
        is_failure = request.status in _FAILURES and reason not in _AT_ONCE
        asked_s = _retry_after_s(request) if is_failure or request.status == 429 else 0.0
        what = f"{provider} {request.status} {reason}" + (f", Retry-After: {asked_s:g}" if asked_s else "")
        is_jittered = is_failure and not least_s and not asked_s
        return Wait(what, answer.sent_s, answer.answered_s, max(least_s, asked_s), is_jittered)

    def _may_be_early(self, key: tuple[str, str], wait: Wait) -> bool:
        """What was not settled before a crash is sent again at once, and so is what an operator replays; a credential
        that is replaced wakes what waits for it; and a clock that is set moves when it is due."""
        crashed = any(at_s >= wait.sent_s for at_s in self._model.crashes)
        if crashed or key[0] in self._model.replaying:
            self._answers.pop(key, None)  # nor does it know how often it has tried
            return True
        since_s = wait.sent_s - (_STANDSTILL_S if self.may_stand_still else _WAKES_WITHIN_S)
        return any(at_s >= since_s for at_s in self.brought_forward)

    def check_jitter(self) -> None:
        """Whether waits that may be any up to a bound were all at the lower end."""
        if len(self._jittered) >= _JITTER_NEEDS and median(self._jittered) < _LEAST_MEDIAN_S:
            self._violated(
                f"half of {len(self._jittered)} deliveries were sent again within {median(self._jittered):.3f} s after "
                "their provider had failed"
            )


def _reason(body: bytes) -> str:
    """Apple's `reason`, Google's `errorCode` or `status`; empty where the body is none of theirs."""
    try:
        found = msgspec.json.decode(body)
        if "reason" in found:
            return str(found["reason"])
        error = found["error"]
        codes = [detail["errorCode"] for detail in error.get("details", []) if "errorCode" in detail]
        return str(codes[0] if codes else error.get("status", ""))
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return ""


def _retry_after_s(request: Any) -> float:
    value = request.response_header(b"retry-after") or b""
    return float(min(int(value), _LONGEST_RETRY_AFTER_S)) if value.isdigit() else 0.0
