"""Why a push did not arrive, and what to do: one sentence for the cause, one for the remedy.

A provider says what each of its answers means (`Rules.said`). Here that is put together with what tocsin knows besides:
what the delivery waits for, what became of the device, whether anybody delivers at all. Pure functions.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct


class Code(StrEnum):
    """The kinds of causes, for programs."""

    DELIVERED = "delivered"
    APP_UNINSTALLED = "app_uninstalled"
    WRONG_ENVIRONMENT = "wrong_environment"
    WRONG_TOPIC = "wrong_topic"
    WRONG_PROJECT = "wrong_project"
    BAD_CREDENTIAL = "bad_credential"
    PROVIDER_DOWN = "provider_down"
    THROTTLED = "throttled"
    NO_DEVICE = "no_device"
    EXPIRED = "expired"
    QUARANTINED = "quarantined"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    LANE_PAUSED = "lane_paused"
    NODE_GONE = "node_gone"
    RETRYING = "retrying"
    QUEUED = "queued"
    IN_PART = "in_part"
    """Of an event: its devices differ."""
    UNKNOWN = "unknown"


class Explanation(Struct, frozen=True):
    """`remedy` is empty where nothing is to be done."""

    code: Code
    cause: str
    remedy: str = ""


class Wait(Struct, frozen=True, kw_only=True):
    """What keeps a delivery from being sent, beside its own time."""

    lane: str
    since: str = ""
    """A time, as it is to be shown; empty where nobody knows."""
    next_at: str = ""
    reason: str = ""
    """Why the lane, the topic or the device is paused, as the provider said it; empty where it is not."""
    said: Explanation | None = None
    """What the provider means by that."""
    topic: str = ""
    """Where only a topic of the lane is paused."""


class Facts(Struct, frozen=True, kw_only=True):
    """All that is known of one delivery. Times are texts, as they are to be shown."""

    outcome: str
    """Of `store.records.OUTCOMES`."""
    result: str = ""
    """Of the last attempt."""
    status: int = 0
    reason: str = ""
    said: Explanation | None = None
    """What the provider means by its last answer."""
    at: str = ""
    due_at: str = ""
    expires_at: str = ""
    wait: Wait | None = None
    removed_because: str = ""
    quarantined: bool = False
    """The registration is in quarantine."""
    not_for_topic: bool = False
    """It is there because the provider said for days that it is not for its topic."""
    unserved_since: str | None = None
    """Since when no process delivers; empty where that is not known, None where one does."""


_REGISTER: Final = "Nothing on this side: the app registers its new token when it is opened again."
_LINK: Final = "Check the network and the provider's status page; tocsin tries again by itself."


def of_delivery(facts: Facts) -> Explanation:
    """Why it stands as it does."""
    match facts.outcome:
        case "delivered":
            return facts.said or Explanation(Code.DELIVERED, "The provider accepted the push.")
        case "token_dead":
            return _dead(facts)
        case "refused":
            return _answered(facts) or _refused(facts)
        case "expired":
            return _expired(facts)
        case "cancelled":
            what = "device token was deleted"
            if facts.removed_because:
                what = f"registration was removed ({facts.removed_because})"
            return Explanation(Code.CANCELLED, f"The {what} before the push was sent.", _REGISTER)
        case "no_device":
            why = f"; the last one was removed: {facts.removed_because}" if facts.removed_because else ""
            return Explanation(
                Code.NO_DEVICE,
                f"The user had no registered device when the event was to be sent{why}.",
                "Have the app register its device token (POST /api/push) when the user has signed in.",
            )
        case _:
            return _waiting(facts)


def of_answer(status: int, reason: str, result: str) -> Explanation | None:
    """What any provider means by an answer that it has no sentence of its own for; None where that is not clear."""
    if result == "misconfigured" and not status:
        return Explanation(Code.BAD_CREDENTIAL, f"{_sentence(reason)}.", "Add or replace the credential.")
    if result == "delivered":
        return Explanation(Code.DELIVERED, "The provider accepted the push; what the phone does with it is not known.")
    if not status:
        return Explanation(Code.PROVIDER_DOWN, f"The provider could not be reached: {reason or 'no answer'}.", _LINK)
    if status == 429:
        return Explanation(
            Code.THROTTLED, f"The provider limits the rate ({status} {reason}).", "None is needed: tocsin slows down."
        )
    if status >= 500:
        return Explanation(Code.PROVIDER_DOWN, f"The provider fails ({status} {reason}).", _LINK)
    if status in (401, 403) or result == "misconfigured":
        return Explanation(
            Code.BAD_CREDENTIAL,
            f"The provider does not accept the credential ({status} {reason}).",
            "Check the credential of the application or project, and replace it.",
        )
    return None


def of_removal(
    reason: str, said: Explanation | None, *, quarantined: bool = False, not_for_topic: bool = False
) -> Explanation:
    """Why a registration is gone. `said`: what the provider meant, where it declared the token dead."""
    if quarantined:
        return _dead(
            Facts(
                outcome="token_dead",
                reason=reason,
                said=said,
                removed_because=reason,
                quarantined=True,
                not_for_topic=not_for_topic,
            )
        )
    if said is not None:
        return said
    return Explanation(Code.CANCELLED, f"The registration is gone: {reason}.", _REGISTER)


def of_event(devices: list[Explanation]) -> Explanation:
    """Of an event, from those of its devices: theirs where they agree."""
    codes = list(dict.fromkeys(one.code for one in devices))
    if len(codes) == 1:
        return devices[0]
    accepted = sum(one.code is Code.DELIVERED for one in devices)
    worst = next(one for one in devices if one.code is not Code.DELIVERED)
    return Explanation(
        Code.IN_PART,
        f"For {accepted} of {len(devices)} devices the provider accepted the push."
        f" For another it did not: {worst.cause}",
        worst.remedy,
    )


def _dead(facts: Facts) -> Explanation:
    said = _answered(facts)
    if facts.quarantined and facts.not_for_topic:
        return Explanation(
            Code.QUARANTINED,
            f"The provider said for days that the device is not for its topic ({facts.removed_because}), so it is kept"
            " in quarantine.",
            "Have the app register the device with its own application and topic; it leaves the quarantine by that.",
        )
    if facts.quarantined:
        cause = said.cause if said is not None else f"The provider declared the token dead ({facts.reason})."
        return Explanation(
            Code.QUARANTINED,
            f"{cause} As suspiciously many tokens were declared dead at once, this one is kept in quarantine.",
            "If the tokens are good (a wrong key or environment, say), mend that and run `tocsin quarantine release`;"
            " if not, `tocsin quarantine purge`.",
        )
    if said is not None:
        return said
    return Explanation(
        Code.APP_UNINSTALLED, f"The provider declared the token dead ({facts.status} {facts.reason}).", _REGISTER
    )


def _refused(facts: Facts) -> Explanation:
    return Explanation(
        Code.REFUSED,
        f"The provider refused the push ({f'{facts.status} ' if facts.status else ''}{facts.reason}).",
        "Correct the event or the registration, then replay the dead letter with `tocsin deadletter replay`.",
    )


def _expired(facts: Facts) -> Explanation:
    before = _answered(facts)
    why = f" Before that: {before.cause}" if before is not None else ""
    remedy = before.remedy if before is not None and before.remedy else "Mend what it waited for."
    when = f" at {facts.expires_at}" if facts.expires_at else ""
    return Explanation(
        Code.EXPIRED,
        f"The event's lifetime ended{when} before a provider accepted the push.{why}",
        f"{remedy} If it is still worth delivering, replay it with `tocsin deadletter replay`.",
    )


def _waiting(facts: Facts) -> Explanation:
    """Not final: what it waits for, or what was said last."""
    if facts.unserved_since is not None:
        since = f" since {facts.unserved_since}" if facts.unserved_since else ""
        return Explanation(
            Code.NODE_GONE,
            f"No process of tocsin delivers{since}, so the event waits.",
            "Start the server (`tocsin serve`); what waits is sent then.",
        )
    again = f" It is tried again at {facts.due_at}." if facts.due_at else ""
    own = _answered(facts) if facts.result else None
    if facts.wait is not None and facts.wait.reason:
        return _paused(facts.wait, own)
    if own is not None:
        return Explanation(own.code, f"{own.cause}{again}", own.remedy)
    if facts.result:
        return Explanation(
            Code.RETRYING, f"The last attempt did not succeed ({facts.status} {facts.reason}).{again}", ""
        )
    where = f" in lane {facts.wait.lane}" if facts.wait is not None else ""
    return Explanation(Code.QUEUED, f"It waits for its turn{where}; no attempt was made yet.{again}")


def _paused(wait: Wait, own: Explanation | None) -> Explanation:
    what = f"Topic {wait.topic} of lane {wait.lane}" if wait.topic else f"Lane {wait.lane}"
    since = f" since {wait.since}" if wait.since else ""
    again = f" tocsin tries it again at {wait.next_at}." if wait.next_at else ""
    said = wait.said or own
    meaning = f" {said.cause}" if said is not None else ""
    # Who has been told the reason himself is told that; the others, that they wait behind it.
    code = own.code if own is not None else Code.LANE_PAUSED
    return Explanation(
        code,
        f"{what} is paused{since}: {wait.reason}.{meaning}{again}",
        said.remedy if said is not None and said.remedy else "Mend the cause; the lane goes on by itself.",
    )


def _answered(facts: Facts) -> Explanation | None:
    if facts.said is not None:
        return facts.said
    if not (facts.status or facts.result in ("retry", "misconfigured")):
        return None
    return of_answer(facts.status, facts.reason, facts.result)


def _sentence(reason: str) -> str:
    text = reason or "the credential cannot be used"
    return text[:1].upper() + text[1:].rstrip(".")
