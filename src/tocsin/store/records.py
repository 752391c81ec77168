"""The values that go through the ports of a store. Times are Unix milliseconds of the store's time, unless named
otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import Final, NewType

from msgspec import Struct

from tocsin.domain.devices import Address, Complaint, Device, DeviceToken
from tocsin.domain.events import Event, UserId
from tocsin.store.audit_chain import Recorded

Cursor = NewType("Cursor", str)
"""Where a page begins. Only the store that gave it knows what it means."""

# -- events ------------------------------------------------------------------------------------------------------------


class State(IntEnum):
    """Where an event stands. `docs/state-machine.md` draws it; `states.py` has its rules."""

    ACCEPTED = 0
    """Durable, no device tried yet."""
    DELIVERING = 1
    """At least one device still waits for another attempt."""
    DONE = 2
    """Every device has its final outcome: delivered, dead, or cancelled."""
    DEAD = 3
    """Final, and at least one device ended in `refused` or `expired`: a dead letter until replayed or discarded."""


class Result(StrEnum):
    """How one attempt of one delivery ended, as its receipt says."""

    DELIVERED = "delivered"
    TOKEN_DEAD = "token_dead"
    RETRY = "retry"
    REFUSED = "refused"
    MISCONFIGURED = "misconfigured"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    """The device token was deleted before it was sent."""


FINAL: Final = frozenset({Result.DELIVERED, Result.TOKEN_DEAD, Result.REFUSED, Result.EXPIRED, Result.CANCELLED})
DEAD_LETTER: Final = frozenset({Result.REFUSED, Result.EXPIRED})


class Handle(Struct, eq=False, gc=False):
    """What a store knows a claimed item by. Each store has its own kind; nobody else looks into it."""


class Item(Struct, eq=False, gc=False):
    """An event plus its targets, owned by one dispatcher from the claim until it is settled, released or lost."""

    event: Event
    handle: Handle
    targets: tuple[str, ...] | None = None
    """The keys of the devices that still wait; None means all devices of the owner, as they are when looked up."""
    lane: str | None = None
    """The lane that its deliveries waited for; None where they waited for none."""
    tries: int = 0
    """Attempts that each of its targets has had in this round."""
    round: int = 0
    """How often the event was replayed."""
    deadline: float | None = None
    """When ownership ends by itself (event loop's time); None where this store has no such limit."""


class Attempt(Struct, frozen=True, array_like=True, gc=False):
    """The receipt of one attempt: when, to which device, what the provider said, what tocsin made of it.

    (event, device, round, number) identifies it, so that a settlement that is repeated records nothing twice.
    """

    at_ms: int
    device: str
    """The device's key."""
    lane: str
    result: str
    status: int = 0
    reason: str = ""
    provider_id: str = ""
    retry_at_ms: int | None = None
    round: int = 0
    number: int = 1
    """The attempt's number within the round, from 1."""


class Parked(Struct, frozen=True, array_like=True):
    """Deliveries of one event that wait for their lane, or for their time."""

    lane: str
    due_ms: int
    tries: int
    targets: tuple[str, ...]


class Settlement(Struct, eq=False, gc=False):
    """All that is to be recorded of one item: its receipts, and what is left of it."""

    item: Item
    attempts: Sequence[Attempt]
    parked: Sequence[Parked]


class EventRecord(Struct, frozen=True):
    """What is known of one event. Its body is empty once it is forgotten."""

    event: Event
    state: State
    attempts: list[Attempt]
    waiting: list[Parked]
    round: int = 0


class Backlog(Struct, frozen=True):
    """Events that are accepted and not settled for good. Approximate where several nodes append."""

    events: int
    size_bytes: int


class WholeBacklog(Struct, frozen=True):
    """The backlog of all nodes together, and when its oldest event was accepted; None where there is none."""

    events: int
    size_bytes: int
    oldest_ms: int | None


class Replica(Struct, frozen=True):
    """A copy of the store that follows it, and how far it is behind."""

    name: str
    lag_bytes: int
    lag_s: float


class Bound(StrEnum):
    """What is bounded of the backlog."""

    EVENTS = "events"
    BYTES = "bytes"


class DeadLetter(Struct, frozen=True):
    """An event that ended in `refused` or `expired` for at least one device, with the last attempt of each of those."""

    event: Event
    devices: list[Attempt]


class DeadLetterPage(Struct, frozen=True):
    """Some dead letters, newest first; `next` is where the page after this one begins, None at the end."""

    letters: list[DeadLetter]
    next: Cursor | None


class DevicePage(Struct, frozen=True):
    """Some devices; `next` is where the page after this one begins, None at the end."""

    devices: list[Device]
    next: Cursor | None


class Retention(Struct, frozen=True, kw_only=True):
    """How long what is no longer needed is kept, in seconds."""

    events_s: float
    """Events that are done, with their receipts, from when they were settled."""
    dead_letters_s: float
    """Events that ended in `refused` or `expired`, with their content, from then; unless replayed or discarded."""
    removals_s: float
    """Tokens that were removed, and jobs that have ended."""
    audit_s: float = 365 * 24 * 3600.0
    """Entries of the audit log."""


# -- devices -----------------------------------------------------------------------------------------------------------


class DeadToken(Struct, frozen=True):
    """A token that its provider declared dead in its answer to a push for `device`.

    With the provider's timestamp (`before_us`, Unix microseconds) every registration older than that is removed.
    Without one, `device` and the registrations of the token that are older than it are, if `device` is still the very
    registration (its generation) that was read for the push.
    """

    device: Device
    account: str
    """The application or project by which the device was reached."""
    reason: str
    before_us: int | None = None


class Learned(Struct, frozen=True, gc=False):
    """What a delivery taught about a registration; it is noted if the registration is still that one.

    A success ends what was complained of before.
    """

    device: Device
    address: Address | None = None
    success_ms: int | None = None
    complaint: Complaint | None = None


class TopicReached(Struct, frozen=True, gc=False):
    """A device of this account was reached on this topic, so the topic is right."""

    provider: str
    account: str
    topic: str
    at_ms: int
    """When that was last noted, which is done about once an hour."""


class Removal(Struct, frozen=True):
    """A registration that is gone, as `tocsin device history` tells it."""

    device: Device
    removed_ms: int
    reason: str
    quarantined: bool = False
    account: str = ""
    """The application or project by which the device was reached, where its provider declared it dead."""

    @property
    def is_for_topic(self) -> bool:
        """Whether it is in quarantine for what was said of this device alone: that it is not for its topic."""
        complaint = self.device.complaint
        return self.quarantined and complaint is not None and self.reason.startswith(f"{complaint.reason} for ")


class RemovalPage(Struct, frozen=True):
    """Some removals; `next` is where the page after this one begins, None at the end."""

    removals: list[Removal]
    next: Cursor | None


class Quarantine(Struct, frozen=True):
    """The tokens of one account that are kept until somebody decides: those that were declared dead in suspicious
    numbers, and `for_topic` of which it was said for days that they are not for their topic."""

    provider: str
    account: str
    tokens: int
    oldest_ms: int
    for_topic: int = 0


class GivenUp(Struct, frozen=True):
    """What was lost with a master key."""

    accounts: tuple[str, ...]
    """The applications and projects whose credentials are gone."""
    events: int
    """Events that were not settled, or dead letters: they are done, without having been delivered."""


class Erased(Struct, frozen=True, kw_only=True):
    """What was removed of a user who was erased."""

    devices: int
    removals: int
    """Registrations that were gone before, in the history."""
    sessions: int
    events: int
    waiting: int
    """Those of the events that waited to be delivered: they are cancelled."""
    receipts: int
    pseudonym: bool
    """Whether the user had a pseudonym in the audit log: nobody can say any more whose it was."""
    searched: tuple[str, ...]
    """Where was searched for anything that is left of the user."""
    left: tuple[str, ...]
    """Where something was found."""


# -- who may call -----------------------------------------------------------------------------------------------------


class Role(StrEnum):
    PRODUCER = "producer"
    ADMIN = "admin"
    MONITORING = "monitoring"


class Area(StrEnum):
    """A part of what the operator's routes are about."""

    CREDENTIALS = "credentials"
    DEVICES = "devices"
    DELIVERIES = "deliveries"


class Rate(Struct, frozen=True):
    """So many, within so many seconds. Both are at least 1."""

    count: int
    per_s: int


class KeyLimits(Struct, frozen=True, omit_defaults=True):
    """What a key may not do of that which its role may. By default nothing is limited."""

    events: frozenset[str] = frozenset()
    """The names of the events that a producer may send; empty: all of them."""
    rate: Rate | None = None
    """Of the events that a producer sends."""
    read_only: bool = False
    areas: frozenset[Area] = frozenset()
    """Those of an admin; empty: all of them."""


NO_LIMITS: Final = KeyLimits()


class ApiKey(Struct, frozen=True):
    id: str
    role: Role
    name: str
    created_ms: int
    expires_ms: int | None
    limits: KeyLimits = NO_LIMITS


class Session(Struct, frozen=True):
    id: str
    owner: UserId | None
    created_ms: int
    expires_ms: int | None


class AuditPage(Struct, frozen=True):
    """Some entries of the audit log, newest first; `next` is where the page after this one begins, None at the end."""

    entries: list[Recorded]
    next: Cursor | None


# -- signals -----------------------------------------------------------------------------------------------------------


class TokenDeleted(Struct, frozen=True, tag=True):
    """Nothing may be sent any more to this registration."""

    owner: UserId
    provider: str
    token: DeviceToken


class TokenRegistered(Struct, frozen=True, tag=True):
    """A token was registered (again): an earlier deletion no longer counts."""

    owner: UserId
    provider: str
    token: DeviceToken


class TokenRestored(Struct, frozen=True, tag=True):
    """A removed registration is back: an earlier deletion no longer counts."""

    owner: UserId
    provider: str
    token: DeviceToken


class CredentialsChanged(Struct, frozen=True, tag=True):
    """A credential of this provider was added, replaced or removed."""

    provider: str


class AccessRevoked(Struct, frozen=True, tag=True):
    """A key or a session was revoked."""


class QuarantineChanged(Struct, frozen=True, tag=True):
    """Tokens of this account went into quarantine, or came out of it: its fuse may have changed."""

    account: str


class LanesWoken(Struct, frozen=True, tag=True):
    """What these lanes waited for has been mended."""

    lanes: tuple[str, ...]


class Appended(Struct, frozen=True, tag=True):
    """There may be something new to claim."""


Signal = (
    TokenDeleted
    | TokenRegistered
    | TokenRestored
    | CredentialsChanged
    | AccessRevoked
    | QuarantineChanged
    | LanesWoken
    | Appended
)

# -- jobs --------------------------------------------------------------------------------------------------------------


class JobState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    """Somebody asked it to stop; it ends at its next step."""
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


ENDED: Final = frozenset({JobState.DONE, JobState.STOPPED, JobState.FAILED})


class Job(Struct, frozen=True):
    """A bulk action that goes on in steps, over restarts. What it does is its kind's to know."""

    id: str
    kind: str
    arguments: bytes
    state: JobState
    created_ms: int
    changed_ms: int
    position: str = ""
    """Where the next step begins; empty before the first."""
    done: int = 0
    skipped: int = 0
    total: int | None = None
    """How many there are to do, estimated; None where nobody knows."""
    error: str = ""


class JobPage(Struct, frozen=True):
    """Some jobs, newest first; `next` is where the page after this one begins, None at the end."""

    jobs: list[Job]
    next: Cursor | None


# -- search ------------------------------------------------------------------------------------------------------------

WAITING: Final = "waiting"
"""The outcome of a delivery that has none yet: another attempt is to come."""
NO_DEVICE: Final = "no_device"
"""The outcome of an event whose owner had no device."""
ACCEPTED: Final = "accepted"
"""The outcome of an event that nobody has tried to deliver yet."""
OUTCOMES: Final = (*Result, WAITING, NO_DEVICE, ACCEPTED)


class Query(Struct, frozen=True, kw_only=True):
    """Which deliveries are looked for. All that is given must be true of one and the same delivery."""

    owners: frozenset[UserId] | None = None
    devices: frozenset[str] | None = None
    """Keys of devices. Without `owners` they are compared event by event, which takes long."""
    provider: str | None = None
    lanes: frozenset[str] | None = None
    outcomes: frozenset[str] | None = None
    """Of `OUTCOMES`."""
    reason: str | None = None
    """Of the last attempt, exactly as on record."""
    message: str | None = None
    from_ms: int | None = None
    """When the event was accepted: at this time or later, and before `until_ms`."""
    until_ms: int | None = None
    at_from_ms: int | None = None
    """The delivery's `DeliveryState.at_ms`: this time or later, and before `at_until_ms`."""
    at_until_ms: int | None = None
    states: frozenset[State] | None = None
    """Where the event stands."""


class DeliveryState(Struct, frozen=True, kw_only=True):
    """How one delivery stands: what its last attempt came to, and what it waits for."""

    device: str
    """The device's key; empty for an event without any (`NO_DEVICE`, `ACCEPTED`)."""
    outcome: str
    """Of `OUTCOMES`."""
    lane: str = ""
    status: int = 0
    reason: str = ""
    at_ms: int
    """Of the last attempt; where there was none, when the event was accepted."""
    attempts: int = 0
    due_ms: int | None = None
    """When the next attempt is due."""


class Finding(Struct, frozen=True):
    """An event, without its body, and those of its deliveries that were looked for."""

    record: EventRecord
    deliveries: list[DeliveryState]


class IndexState(Struct, frozen=True):
    """How far the index of the search is behind."""

    behind_s: float
    """For so long not everything that happened is in it; 0 where it has everything."""
    waiting_events: int
    """How many events are to be written into it (again)."""
    rebuilding: bool
    indexed_to_ms: int | None
    """When it last had everything; None where it never had."""


class Findings(Struct, frozen=True):
    """A page of what was found, newest event first. `next` is where the page after this one begins.

    `complete`: False where the time was over before the page was full; `next` then goes on behind what was looked at.
    """

    found: list[Finding]
    next: Cursor | None
    complete: bool
    looked_back_to_ms: int | None
    """The acceptance of the oldest event that was looked at; None where nothing older is left to be looked at."""
    index: IndexState
