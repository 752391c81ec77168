"""How things are called on the pages. What is said of a push is what is known: that a provider accepted it."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from tocsin.console.records import Preview, Quarantined

_PROVIDERS: Final = {"apns": "Apple", "fcm": "Google"}
EVENTS: Final = {
    "fax_new": "New fax",
    "recording_new": "New recording",
    "dialplan_callreverse_start": "Call-reverse started",
    "dialplan_callreverse_stop": "Call-reverse stopped",
    "chat_message": "Chat message",
}


class Label(Struct, frozen=True):
    """A few words, and how they are coloured: `good`, `wait`, `bad`, `quiet`."""

    text: str
    tone: str


_OUTCOMES: Final = {
    "token_dead": Label("token no longer valid", "quiet"),
    "refused": Label("refused", "bad"),
    "expired": Label("expired", "bad"),
    "cancelled": Label("cancelled", "quiet"),
    "waiting": Label("waiting", "wait"),
    "retry": Label("to be tried again", "wait"),
    "misconfigured": Label("misconfigured", "bad"),
    "no_device": Label("no device", "quiet"),
    "accepted": Label("not tried yet", "wait"),
}
_STATES: Final = {
    "accepted": Label("accepted by tocsin", "wait"),
    "delivering": Label("being delivered", "wait"),
    "done": Label("done", "good"),
    "dead": Label("dead letter", "bad"),
    "running": Label("running", "good"),
    "open": Label("provider fails", "bad"),
    "paused": Label("paused", "bad"),
    "waiting": Label("waiting", "wait"),
    "stopping": Label("stopping", "wait"),
    "stopped": Label("stopped", "quiet"),
    "failed": Label("failed", "bad"),
}
_REMOVALS: Final = {
    "deleted": "deleted by its user",
    "evicted": "its user registered more devices than are allowed",
    "removed": "removed by an operator",
}
_PAUSES: Final = {
    "provider": "The provider fails",
    "rate": "The provider asked for a pause",
    "credential": "The credential is wrong",
    "topic": "A topic is wrong",
}
ACTIONS: Final = {
    "replay": "Replay dead letters",
    "discard": "Discard dead letters",
    "restore": "Restore removed devices",
    "release": "Release quarantined devices",
    "purge": "Purge quarantined devices",
}
_FILTERS: Final = {
    "owner": "user",
    "message": "event",
    "system": "provider",
    "account": "application",
    "outcome": "outcome",
    "reason": "reason",
    "from": "from",
    "until": "until",
}


def provider(system: str | None) -> str:
    """`Apple`; a provider that the console does not know is called as the API calls it."""
    return _PROVIDERS.get(system or "", system or "")


def outcome(result: str, system: str | None = None) -> Label:
    """The outcome of a delivery or of one attempt."""
    if result == "delivered":
        return Label(f"accepted by {provider(system) or 'the provider'}", "good")
    return _OUTCOMES.get(result) or Label(result.replace("_", " "), "quiet")


def state(name: str) -> Label:
    """The state of an event, a lane or a job."""
    return _STATES.get(name) or Label(name, "quiet")


def event_name(message: str) -> str:
    """`New fax`."""
    return EVENTS.get(message, message)


def removal(reason: str) -> str:
    """Why a registration is gone, where the API has only a word for it."""
    return _REMOVALS.get(reason, reason)


def pause(cause: str) -> str:
    """What kind of pause it is."""
    return _PAUSES.get(cause, cause)


def action(name: str) -> str:
    """What a job does."""
    return ACTIONS.get(name, name)


def quarantine(held: Quarantined) -> str:
    """Why the tokens are there."""
    not_for_topic = "not for their topic for a week"
    if not held.for_topic:
        return "declared dead in suspicious numbers"
    if held.for_topic >= held.tokens:
        return not_for_topic
    return f"{held.tokens - held.for_topic:,} declared dead in suspicious numbers, {held.for_topic:,} {not_for_topic}"


def how_exact(preview: Preview) -> str:
    """What stands before the number of those that match, with a space."""
    return "" if preview.exact else "at least " if preview.at_least else "about "


def filter_key(name: str) -> str:
    """How a condition of a filter is called."""
    return _FILTERS.get(name, name)


def lane(provider_: str, environment: str, account: str, name: str) -> str:
    """`Apple, production`; the account stands beside it."""
    parts = [part for part in (provider(provider_), environment) if part]
    return ", ".join(parts) if parts and account else name
