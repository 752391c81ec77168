"""The doors to storage: `EventQueue` and `Registry` for the line, `DeadLetters` for what it could not deliver,
`Access` and `Applications` for who and what may use it.

Every operation is a batch, atomic, and durable when it returns. Times are Unix milliseconds unless named otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import Protocol

from msgspec import Struct

from tocsin.domain.devices import ApplicationId, Device, DeviceToken, System
from tocsin.domain.events import Event, EventId, UserId

# -- the queue ---------------------------------------------------------------------------------------------------------


class State(IntEnum):
    """Where an event stands. `docs/state-machine.md` draws it."""

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
    """The device token was deleted before its turn came."""


FINAL = frozenset({Result.DELIVERED, Result.TOKEN_DEAD, Result.REFUSED, Result.EXPIRED, Result.CANCELLED})
DEAD_LETTER = frozenset({Result.REFUSED, Result.EXPIRED})


class NewEvent(Struct, frozen=True, gc=False):
    """An event to append. `digest` is set where the producer chose the id: it tells a repeat from a conflict."""

    event: Event
    digest: str | None = None


class Item(Struct, eq=False, gc=False):
    """An event plus its targets, leased to one dispatcher until settled or until the lease ends.

    `targets` None means all devices of the owner, as they are when looked up; else the device keys that still wait.
    A lease ends by being taken back, so that the item may be offered again.
    `lease` is the fencing token: a settlement under an ended lease changes nothing.
    """

    event: Event
    seq: int
    lease: int
    parked_id: int | None = None
    lane: str | None = None
    targets: tuple[str, ...] | None = None
    tries: int = 0


class Attempt(Struct, frozen=True, array_like=True, gc=False):
    """The receipt of one attempt: when, to which device, what the provider said, what tocsin made of it."""

    at_ms: int
    device: str
    lane: str
    result: str
    status: int = 0
    reason: str = ""
    provider_id: str = ""
    retry_at_ms: int | None = None


class Parked(Struct, frozen=True, array_like=True):
    """Deliveries of one event that wait for their lane, or for their time."""

    lane: str
    due_ms: int
    tries: int
    targets: tuple[str, ...]


class Settlement(Struct, eq=False):
    """All that is to be recorded of one item: its receipts, and what is left of it."""

    item: Item
    attempts: list[Attempt]
    parked: list[Parked]


class EventRecord(Struct, frozen=True):
    """What is known of one event."""

    event: Event
    state: State
    attempts: list[Attempt]
    waiting: list[Parked]


class Backlog(Struct, frozen=True):
    """Events that are accepted and not settled for good."""

    events: int
    size_bytes: int


class BacklogFull(Exception):  # noqa: N818 (it says what is so, not what went wrong)
    """The configured bound would be exceeded; nothing was appended."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"backlog full, retry after {retry_after_s} s")
        self.retry_after_s = retry_after_s


class EventIdConflict(Exception):  # noqa: N818 (it says what is so, not what went wrong)
    """An `event_id` was used before for another event; nothing was appended. `index` counts from 0 in the batch."""

    def __init__(self, index: int) -> None:
        super().__init__("event_id was used before for another event")
        self.index = index


class StoreUnavailable(Exception):  # noqa: N818 (it says what is so, not what went wrong)
    """The store cannot write (disk full, I/O error, locked, read-only): nothing was changed."""


class EventQueue(Protocol):
    """The durable queue: append, claim, settle."""

    async def append(self, events: Sequence[NewEvent]) -> None:
        """Make a batch durable, all or nothing. A known id with the same digest is skipped: it was accepted before.

        Raises:
            BacklogFull, EventIdConflict, StoreUnavailable: nothing was appended.
        """

    async def claim(self, limit: int, lanes: Mapping[str, int]) -> list[Item]:
        """Lease up to `limit` fresh items, and of each lane named up to that many of its parked items that are due.

        Urgent items come first; the others never starve. A claimed item is not offered again until its lease ends.
        An item that was given back is offered again whatever the room of its lane.

        Raises:
            StoreUnavailable: what would be delivered could not be settled, so nothing is given out; leases stand still.
        """

    async def claim_expired(self, limit: int) -> list[Item]:
        """Lease parked items whose event's lifetime is over, whatever their lane: they are to be settled as expired."""

    async def wait(self, timeout_s: float) -> None:
        """Return when there may be something to claim, or after `timeout_s`."""

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Record attempts, park what is left and acknowledge the rest, in one transaction.

        Returns, for each settlement, whether its lease still held; where it did not, nothing was changed.

        Raises:
            StoreUnavailable: nothing was changed, and the leases go on: settle again.
        """

    async def wake(self, lanes: Sequence[str]) -> None:
        """Make what is parked for these lanes due now: what it waited for has been mended."""

    def release(self, items: Sequence[Item]) -> None:
        """Give items back untouched: they are offered again at once."""

    async def due_lanes(self) -> dict[str, int]:
        """The lanes that have parked items, with the earliest time that one of each is due."""

    async def record(self, event_id: EventId) -> EventRecord | None:
        """An event with every attempt, or None where the id is unknown (or forgotten: see retention)."""

    def backlog(self) -> Backlog: ...


# -- dead letters ------------------------------------------------------------------------------------------------------


class DeadLetter(Struct, frozen=True):
    """An event that ended in `refused` or `expired` for at least one device, with the last attempt of each of those."""

    event: Event
    devices: list[Attempt]


class DeadLetterPage(Struct, frozen=True):
    """Some dead letters, newest first; `next` is where the page after this one begins, None at the end."""

    letters: list[DeadLetter]
    next: int | None


class DeadLetters(Protocol):
    """What could not be delivered: to look at, to try again, or to let go."""

    async def list(self, limit: int, *, start: int | None = None) -> DeadLetterPage:
        """Up to `limit` of them; `start` is the `next` of the page before."""

    async def count(self) -> int: ...

    async def explain(self, event_id: EventId) -> EventRecord | None:
        """A dead letter with every attempt; None where there is none of this id."""

    async def replay(self, ids: Sequence[EventId] | None, lifetime_ms: int) -> int:
        """Deliver again, now, to exactly the devices that ended in `refused` or `expired`; None means all.

        The event lives for another `lifetime_ms` from now. Returns how many events were dead letters and are not any
        more; ids that are none are passed over. Many go in steps: after StoreUnavailable some may have been replayed.
        """

    async def discard(self, ids: Sequence[EventId] | None) -> int:
        """Let go: the event is done, its content is forgotten, its receipts stay. Returns how many."""


# -- the registry ------------------------------------------------------------------------------------------------------


class DeadToken(Struct, frozen=True):
    """A token that its provider declared dead: registrations older than `before_us` (Unix microseconds) go."""

    system: str
    token: str
    before_us: int
    reason: str
    application: str


class Learned(Struct, frozen=True, kw_only=True, gc=False):
    """What a delivery taught about a device; None leaves a field as it is."""

    owner: UserId
    system: str
    token: str
    sandbox: bool | None = None
    project: str | None = None
    field: str | None = None
    success_ms: int | None = None


class Removal(Struct, frozen=True, array_like=True):
    """A registration that is gone, as `tocsin device history` tells it; kept 30 days."""

    device: Device
    removed_ms: int
    reason: str
    quarantined: bool = False
    application: str = ""
    """The application id, or the Firebase project by which the device was reached."""


class Registry(Protocol):
    """Who has which devices."""

    async def add(self, device: Device, max_tokens: int) -> list[Device]:
        """Register, or register again; returns what was evicted to keep the owner within `max_tokens`."""

    async def delete(self, owner: UserId, system: System, token: DeviceToken, *, by_operator: bool = False) -> bool:
        """Remove one user's registration; whether there was one. What an operator has removed can be restored."""

    async def devices_of(self, owners: Sequence[UserId]) -> dict[UserId, list[Device]]:
        """The devices of each owner, as they are now, in order of registration; owners without any are absent."""

    async def remove_dead(self, tokens: Sequence[DeadToken], *, quarantine: bool = False) -> list[set[UserId]]:
        """Remove dead tokens for all their owners; returns, for each, who registered it again since and keeps it."""

    async def learn(self, learned: Sequence[Learned]) -> None:
        """Note what deliveries have taught. Of many, some may be noted when the rest fails: they may be given again."""

    async def find(self, token: DeviceToken) -> list[Device]:
        """Every registration of a token, whoever holds it."""

    async def history(
        self, *, owner: UserId | None = None, token: DeviceToken | None = None, quarantined_only: bool = False
    ) -> list[Removal]: ...

    async def restore(
        self, *, token: DeviceToken | None = None, application: str | None = None, quarantined_only: bool = True
    ) -> int:
        """Bring removed registrations back (those of a token, or the quarantined ones of an application).

        Not those that their users have deleted themselves, whatever became of the token before.
        """

    async def purge_quarantine(self, application: str) -> int: ...


# -- who may call, and with which credentials --------------------------------------------------------------------------


class Role(StrEnum):
    PRODUCER = "producer"
    ADMIN = "admin"


class ApiKey(Struct, frozen=True):
    id: str
    role: Role
    name: str
    created_ms: int
    expires_ms: int | None


class Session(Struct, frozen=True):
    id: str
    owner: UserId | None
    created_ms: int
    expires_ms: int | None


class Access(Protocol):
    """Keys and sessions: random, shown once, stored only as hashes, revocable, with an expiry."""

    async def create_session(self, owner: UserId | None, expires_ms: int | None) -> tuple[str, Session]:
        """Returns the secret (`sid`), which is not kept, and the session. No owner: nobody has signed in yet."""

    async def create_key(self, role: Role, name: str, expires_ms: int | None) -> tuple[str, ApiKey]: ...

    async def session(self, secret: str) -> Session | None:
        """The session that a secret opens, unless revoked or expired."""

    async def key(self, secret: str) -> ApiKey | None: ...

    async def sessions(self, owner: UserId | None = None) -> list[Session]: ...

    async def keys(self) -> list[ApiKey]: ...

    async def revoke_session(self, id_or_secret: str) -> bool: ...

    async def revoke_key(self, id_or_secret: str) -> bool: ...


class Application(Struct, frozen=True):
    """An app that may register APNs device tokens, with the credential to reach them: a key or a certificate."""

    id: ApplicationId
    key_pem: str | None = None
    key_id: str | None = None
    certificate_pem: str | None = None
    """Certificate chain and private key, both in PEM."""
    changed_ms: int = 0


class FcmProject(Struct, frozen=True):
    """A Firebase project, with its service account (the JSON file that Google hands out)."""

    name: str
    service_account: str
    default: bool = False
    changed_ms: int = 0


class Applications(Protocol):
    async def applications(self) -> list[Application]: ...

    async def put_application(self, application: Application) -> None: ...

    async def remove_application(self, id: ApplicationId) -> bool: ...

    async def projects(self) -> list[FcmProject]: ...

    async def put_project(self, project: FcmProject) -> None: ...

    async def remove_project(self, name: str) -> bool: ...
