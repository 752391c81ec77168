"""The ports of a store: all that the rest of tocsin knows of where its data is.

`EventQueue`, `Schedule` and `EventLog` for events; `Registry` for devices; `Access` and `Credentials` for who may call
and with what providers are reached; `Audit` for who has changed what, and `Pseudonyms` for what users are called there;
`Users` to erase one; `Signals` for what was changed; `Search` for what an operator looks for; `Jobs` for bulk actions;
`Positions` for how far a source was taken; `Store` holds them all.

Every operation is a batch, atomic, and durable when it returns. What two hosts would compare is the store's time
(`Store.now_ms`). A write has three ends: it returns (done), it raises `StoreUnavailable` (not done), or it raises
`CommitUnknown`, where the answer of its commit was lost. `append` and `settle` may then be repeated safely.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from tocsin.domain.credentials import Check, Credential
from tocsin.domain.devices import Device, DeviceToken, Registration
from tocsin.domain.events import Event, EventId, UserId
from tocsin.domain.nodes import NodeStatus
from tocsin.histogram import Histogram
from tocsin.store.audit_chain import Change, Ends, Recorded
from tocsin.store.records import (
    NO_LIMITS,
    ApiKey,
    AuditPage,
    Backlog,
    Bound,
    Cursor,
    DeadLetterPage,
    DeadToken,
    DevicePage,
    Erased,
    EventRecord,
    Findings,
    IndexState,
    Item,
    Job,
    JobPage,
    KeyLimits,
    Learned,
    Quarantine,
    Query,
    Removal,
    RemovalPage,
    Replica,
    Retention,
    Role,
    Session,
    Settlement,
    Signal,
    TopicReached,
    WholeBacklog,
)
from tocsin.store.share import Told

# -- errors ------------------------------------------------------------------------------------------------------------


class StoreError(Exception):
    """The store cannot be opened; the message names it, the reason and the remedy."""


class StorageFailure(StoreError):  # noqa: N818 (it says what is so)
    """The storage fails at present; once that is mended the same call works. `reason` does without the store's name."""

    def __init__(self, store: object, reason: str) -> None:
        super().__init__(f"{store}: {reason}")
        self.reason = reason


class WriteFailure(Exception):  # noqa: N818
    """A write did not succeed, or nobody knows whether it did."""


class StoreUnavailable(WriteFailure):
    """The store cannot be used (disk full, I/O error, locked, read-only): nothing was changed."""


class SearchUnavailable(StoreUnavailable):
    """There is no index to be searched; the message says why, for whoever searches."""


class CommitUnknown(WriteFailure):
    """The answer of the commit was lost: whether it took effect is not known."""


class BacklogFull(Exception):  # noqa: N818
    """The configured bound would be exceeded; nothing was appended."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"backlog full, retry after {retry_after_s} s")
        self.retry_after_s = retry_after_s


class BatchTooLarge(Exception):  # noqa: N818
    """The batch is larger than the whole bound, so it never fits; nothing was appended."""

    def __init__(self, bound: Bound, most: int) -> None:
        super().__init__(f"more than the {most} {bound} that the backlog may hold in all")
        self.bound = bound
        self.most = most


class EventIdConflict(Exception):  # noqa: N818
    """An event id was used before for another event; nothing was appended. `index` counts from 0 in the batch."""

    def __init__(self, index: int) -> None:
        super().__init__("event_id was used before for another event")
        self.index = index


class UnknownCursor(ValueError):  # noqa: N818
    """No page of this store begins there."""


# -- events ------------------------------------------------------------------------------------------------------------

LostItems = Callable[[Sequence[Item]], None]
"""Told that ownership of these items is lost: nothing of them may be sent any more, and nothing can be settled."""


class EventQueue(Protocol):
    """The durable queue: append, claim, settle.

    Who may settle an item is the store's to say. An item is owned by whoever claimed it until it is settled or
    released, or until the store says that it is lost.
    """

    async def append(self, events: Sequence[Event]) -> None:
        """Make a batch durable, all or nothing. Every id is remembered with a digest of its content: a known id with
        the same content is skipped, it was accepted before.

        The bounds hold for every process that appends, each by what it can know: two at once may exceed them a little.

        Raises:
            BacklogFull, BatchTooLarge, EventIdConflict, StoreUnavailable: nothing was appended.
            CommitUnknown: it may have been appended; appending the same again is safe.
        """

    async def claim(self, limit: int) -> list[Item]:
        """Take up to `limit` items that no lane has to be asked for: new events, and what was released.

        Urgent ones come first; the others never starve. An event that was claimed before without being settled comes
        without the devices whose outcome in this round is final.

        Raises:
            StoreUnavailable: what would be delivered could not be settled, so nothing is given out.
        """

    async def extend(self, items: Sequence[Item]) -> None:
        """Their `deadline`, where they have one, begins anew from now. Those that are not owned any more are passed
        over."""

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Record attempts, park what is left and acknowledge the rest, in one transaction.

        A due time that was worked out before the wall clock was set back is moved with the clock.

        Returns, for each settlement, whether it is on record; where it is not, ownership had ended and nothing was
        changed. A settlement that is repeated is on record once.

        Raises:
            StoreUnavailable: nothing was changed, and ownership goes on: settle again.
            CommitUnknown: settle the same again.
        """

    async def release(self, items: Sequence[Item]) -> None:
        """Give items back untouched: they are offered again at once, by `claim`."""

    async def wait(self, timeout_s: float) -> None:
        """Return when there may be something to claim, when something was parked that is due before all else of its
        lane, or after `timeout_s`. It may be cancelled."""

    async def backlog(self) -> Backlog:
        """What is accepted and not settled for good. A server knows it; in another process it is counted, which takes
        the longer the more there is."""

    def held(self) -> Backlog:
        """What of the backlog is this process's to deliver, as it was counted last; nothing where it is no server."""

    async def oldest_ms(self) -> int | None:
        """When the oldest event of those was accepted; None where there is none."""

    async def whole_backlog(self) -> WholeBacklog:
        """All that waits, whoever is to deliver it, also where nobody does. It is read from the store, which takes the
        longer the more there is.

        Raises:
            StoreUnavailable: it cannot be read.
        """

    def held_up_s(self) -> float:
        """For how long this process has found events that it may not read yet, because a transaction that began before
        them has not ended (seconds); 0 where nothing is held up."""

    def may_send(self) -> bool:
        """Whether what is claimed may be sent now: False while this process cannot know that it still owns it."""

    def when_lost(self, lost: LostItems) -> None:
        """Have `lost` called whenever ownership of items is lost."""


class Schedule(Protocol):
    """What is parked: deliveries that wait for their lane, or for their time."""

    async def due(self) -> Mapping[str, int]:
        """The lanes that have parked deliveries, with the earliest time at which some of each are due.

        Raises:
            StoreUnavailable: the wall clock was set back, and the due times could not be moved with it.
        """

    async def claim_due(
        self, lanes: Mapping[str, int], size_bytes: int = 2**31, only: Mapping[str, bool] = {}
    ) -> list[Item]:
        """Take, of each lane named, items that are due: with up to that many targets and `size_bytes` of content
        together, and one item in any case where the number is not 0. Urgent ones first; the others never starve. Of a
        lane in `only` nothing is taken but what is urgent (True), or nothing but what is not (False).

        What a store takes at a time may have a bound of its own, of which each lane has its share.

        Raises:
            StoreUnavailable: nothing is given out.
        """

    async def expire(self, limit: int) -> list[Item]:
        """Take up to `limit` items whose event's lifetime is over, whatever their lane: they are to be settled as
        expired."""

    async def wake(self, lanes: Sequence[str]) -> None:
        """Make what is parked for these lanes due now, and tell every node (`LanesWoken`)."""


EachStep = Callable[[int], Awaitable[bool]]
"""Told how many a step of a long action was done to; whether the next one is to be taken."""


class EventLog(Protocol):
    """What became of events."""

    async def record(self, event_id: EventId) -> EventRecord | None:
        """An event with every attempt, or None where the id is unknown (or forgotten: see retention)."""

    async def dead_letters(self, limit: int, *, start: Cursor | None = None) -> DeadLetterPage:
        """Up to `limit` dead letters, newest first; `start` is the `next` of the page before.

        Raises:
            UnknownCursor: `start` was not given by this store.
        """

    async def count_dead_letters(self) -> int: ...

    async def replay(self, ids: Sequence[EventId] | None, lifetime_ms: int, each: EachStep | None = None) -> int:
        """Deliver dead letters again, now, to exactly the devices that ended in `refused` or `expired`: a new round.

        None means all. The event lives for another `lifetime_ms` from now. Returns how many events were dead letters
        and are not any more; ids that are none are passed over. Many go in steps, of which `each` is told: after
        StoreUnavailable some may have been replayed.
        """

    async def discard(self, ids: Sequence[EventId] | None, each: EachStep | None = None) -> int:
        """End dead letters: they are done, their content is forgotten, their receipts stay. Returns how many; in steps
        as `replay`."""


# -- devices -----------------------------------------------------------------------------------------------------------


class Registry(Protocol):
    """Who has which devices. Every change is signalled before its call returns."""

    async def add(self, registration: Registration, max_tokens: int) -> list[Device]:
        """Register, or register again; returns what was evicted to keep the owner within `max_tokens`."""

    async def add_many(self, registrations: Sequence[Registration], max_tokens: int) -> list[Device]:
        """Register all, in their order and as `add` does, or none; returns what was evicted."""

    async def delete(self, owner: UserId, provider: str, token: DeviceToken, *, by_operator: bool = False) -> bool:
        """Remove one user's registration; whether there was one.

        What an operator has removed can be restored. What its user has deleted cannot, even if it was removed before
        for another reason: from then on nothing of it comes back, until the user registers it again.
        """

    async def devices_of(self, owners: Sequence[UserId]) -> dict[UserId, list[Device]]:
        """The devices of each owner, as they are now, in order of registration; owners without any are absent."""

    async def page(self, limit: int, *, start: Cursor | None = None) -> DevicePage:
        """Up to `limit` devices of all users, in an order that means nothing; `start` is the `next` of the page before.

        What is registered or removed while pages are read may be on one of them or not; all else is on one.

        Raises:
            UnknownCursor: `start` was not given by this store.
        """

    async def remove_dead(self, tokens: Sequence[DeadToken], *, quarantine: bool = False) -> list[bool]:
        """Remove dead tokens for all their owners; returns, for each, whether its device's owner has registered it
        again since, and keeps it."""

    async def learn(self, learned: Sequence[Learned]) -> None:
        """Note what deliveries have taught. Of many, some may be noted when the rest fails: they may be given again."""

    async def note_topics(self, reached: Sequence[TopicReached]) -> None:
        """Note on which topics devices were reached. Of each topic, what is noted last counts."""

    async def topics(self) -> list[TopicReached]:
        """On which topics devices were reached, and when that was noted last."""

    async def quarantine_complaining(self, days: int, limit: int) -> list[Device]:
        """Put up to `limit` registrations into quarantine, and return them: those whose complaint is about a topic and
        was still said that many days after it was said first, while another device was reached on that topic.

        They are restored as all that is in quarantine is; their complaint then begins anew. No fuse is concerned.
        """

    async def find(self, token: DeviceToken) -> list[Device]:
        """Every registration of a token, whoever holds it."""

    async def history(
        self, *, owner: UserId | None = None, token: DeviceToken | None = None, quarantined_only: bool = False
    ) -> list[Removal]: ...

    async def removals(self, limit: int, *, start: Cursor | None = None) -> RemovalPage:
        """Up to `limit` registrations that are gone, newest removal first; `start` is the `next` of the page before.

        Raises:
            UnknownCursor: `start` was not given by this store.
        """

    async def restore(self, provider: str, token: DeviceToken, max_tokens: int) -> int:
        """Bring a provider's token back for every user who lost it, as each had registered it last; returns how many.

        Nothing is brought back that its user has deleted, that is registered again, or that would give its owner more
        than `max_tokens`; its removal then stays in the history.
        """

    async def quarantine(self) -> list[Quarantine]:
        """What is in quarantine, by account. All of it is counted: `quarantined_accounts` costs less."""

    async def quarantined_accounts(self, *, by_fuse: bool = False) -> list[tuple[str, str]]:
        """The accounts that have anything in quarantine, each as provider and account: quick, however much it is.

        `by_fuse`: only what `remove_dead` has put there.
        """

    async def release_quarantine(self, account: str, max_tokens: int, each: EachStep | None = None) -> int:
        """Bring the quarantined registrations of an account back, as `restore` does; returns how many.

        What is there now: none of it is in quarantine afterwards, what is not brought back counts as removed. It goes
        in steps, with room for other writes in between: after StoreUnavailable some may be back, and to call it again
        goes on with the rest. `each` is told of each step how many that were, and says whether it goes on.
        """

    async def purge_quarantine(self, account: str, each: EachStep | None = None) -> int:
        """Take the quarantined registrations of an account for removed, in the same way; returns how many."""


# -- who may call, and with which credentials --------------------------------------------------------------------------


class Access(Protocol):
    """Keys and sessions: random, shown once, stored only as hashes, revocable, with an expiry."""

    async def create_session(self, owner: UserId | None, expires_ms: int | None) -> tuple[str, Session]:
        """Returns the secret (`sid`), which is not kept, and the session. No owner: nobody has signed in yet."""

    async def create_key(
        self, role: Role, name: str, expires_ms: int | None, limits: KeyLimits = NO_LIMITS
    ) -> tuple[str, ApiKey]:
        """Returns the secret, which is not kept, and the key."""

    async def session(self, secret: str) -> Session | None:
        """The session that a secret opens, unless revoked or expired."""

    async def key(self, secret: str) -> ApiKey | None: ...

    async def sessions(self, owner: UserId | None = None) -> list[Session]: ...

    async def keys(self) -> list[ApiKey]: ...

    async def revoke_session(self, id_or_secret: str) -> bool: ...

    async def revoke_key(self, id_or_secret: str) -> bool: ...


class Credentials(Protocol):
    """With what the providers are reached. Their contents are encrypted where they are stored (`store/sealing.py`).

    A master key that is missing, or a record that was changed, raises `StoreError` where a content is read or written;
    to remove a credential no key is needed.
    """

    async def of(self, provider: str) -> list[Credential]:
        """The provider's credentials, in order of their accounts."""

    async def put(self, credential: Credential) -> None:
        """Add or replace the credential of an account."""

    async def remove(self, provider: str, account: str) -> bool:
        """Whether there was one."""

    async def note_check(self, credential: Credential, check: Check) -> None:
        """Note what the provider said of a credential; nothing where that was replaced or removed meanwhile."""

    async def checks(self, provider: str) -> dict[str, Check]:
        """By account, the last check of each of the provider's credentials as it is now; those that were not checked
        since they were put are absent."""

    async def rewrap(self, looked_at: Told | None = None) -> int:
        """Read the master keys again, and bring all that is encrypted under the newest: credentials, the keys of
        contents and digests, those of pseudonyms. How many records were under another.

        All of it is one transaction. `looked_at` is told how many of how many records were looked at.
        """


class Pseudonyms(Protocol):
    """What users are called where that must outlive them (the audit log): see `store/pseudonyms.py`.

    A master key that is missing raises `StoreError`.
    """

    async def of(self, owner: UserId) -> str:
        """The user's pseudonym: the same every time, until the user is erased."""

    async def find(self, owner: UserId) -> str | None:
        """The pseudonym where the user has one; None is made."""


class Audit(Protocol):
    """Who has changed what: append-only, hash-chained (`audit_chain.py`), one chain for each node.

    Where somebody is acting (`acting.py`), the other ports write the entry themselves, in the transaction of the
    change: after a crash both are there, or neither. That holds for every call of `Access`, `Credentials`, `Registry`,
    `EventLog` and `Jobs` that an operator or a user can cause. Nothing is written where nothing was changed. A user is
    named by the pseudonym (`Pseudonyms`), made in the same transaction where there is none yet.
    """

    async def note(self, change: Change) -> None:
        """Write an entry for what is done elsewhere than in this store. Call it before that is done.

        Raises:
            LookupError: nobody is acting.
        """

    async def page(self, limit: int, *, start: Cursor | None = None) -> AuditPage:
        """Up to `limit` entries of all chains, newest first; `start` is the `next` of the page before.

        Raises:
            UnknownCursor: `start` was not given by this store.
        """

    async def chains(self) -> list[Ends]:
        """The chains in order of their names, each with where it begins and ends."""

    async def read(self, chain: str, after: int, limit: int) -> list[Recorded]:
        """Up to `limit` entries of one chain, from the one after the number `after` on, in order."""


class Users(Protocol):
    """What is done to a user as a whole."""

    async def erase(self, owner: UserId) -> Erased:
        """Remove every trace of a user: devices and their history, sessions, events with their receipts (those that
        wait are cancelled), and the key of the pseudonym; then search for what is left.

        It goes in steps: whatever it raises, some of it may be done, and it may be called again. Events that a producer
        sends afterwards are new traces.

        Raises:
            StoreError: all is removed, but what tells of it could not be removed yet.
        """


# -- between processes -------------------------------------------------------------------------------------------------


class Signals(Protocol):
    """What was changed, by whichever process. The process that changes something is told before its call returns, all
    others as soon as the store can.

    Of one registration, the last signal says how it is, whichever processes have changed it: news of another process
    that come late are followed by what is true now.
    """

    def subscribe(self, receive: Callable[[Signal], None]) -> None:
        """Have `receive` called with every signal from now on. It must not block, and must not raise."""


class Search(Protocol):
    """Looks for deliveries, in an index that is filled beside the path of delivery: it is some seconds behind."""

    async def find(self, query: Query, limit: int, *, start: Cursor | None = None, for_s: float = ...) -> Findings:
        """A page of the deliveries that match, those of the newest events first. It ends with a whole event, so it may
        have some more than `limit`; and it ends after about `for_s`, however much is left. `start` is the `next` of the
        page before.

        Raises:
            UnknownCursor: `start` was not given by this store.
            SearchUnavailable: the search is switched off, or its index was never made.
            StoreUnavailable: it cannot be read.
        """

    async def fill(self, for_s: float) -> bool:
        """Bring the index up to date, for about `for_s` at most; whether there is more to do. For the server alone."""

    async def state(self) -> IndexState: ...


class Jobs(Protocol):
    """Bulk actions that outlive a restart: one at a time of each is run, in steps, by whoever takes it."""

    async def create(self, kind: str, arguments: bytes, *, total: int | None = None) -> Job: ...

    async def take(self, kinds: Sequence[str]) -> Job | None:
        """The oldest job of these kinds that nobody runs, running from now on; None where there is none.

        A job that was running when its process ended is taken again, and goes on at its `position`.
        """

    async def progress(self, id: str, position: str, *, done: int, skipped: int = 0) -> bool:
        """Note how far it is; whether it is to go on (False: somebody has asked it to stop, or another node has it)."""

    async def finish(self, id: str, error: str = "") -> Job:
        """It has ended: done, stopped where that was asked for, or failed where there is an error. Where another node
        has taken it over nothing is changed, and the job is returned as it is: that node ends it.

        Raises:
            KeyError: there is no such job.
        """

    async def stop(self, id: str) -> bool:
        """Ask it to stop; whether it was waiting or running."""

    async def get(self, id: str) -> Job | None: ...

    async def page(self, limit: int, *, start: Cursor | None = None) -> JobPage:
        """Up to `limit` jobs, the newest first; `start` is the `next` of the page before.

        Raises:
            UnknownCursor: `start` was not given by this store.
        """


class Positions(Protocol):
    """How far something outside has been taken, by a name: kept for whoever takes it next, on whichever node."""

    async def get(self, name: str) -> int | None: ...

    async def set(self, name: str, position: int) -> None:
        """The last one that is set counts, also where it is lower."""


# -- all of it ---------------------------------------------------------------------------------------------------------


class Store(Protocol):
    """A store that is open, with every port. `service` uses nothing else of it."""

    @property
    def queue(self) -> EventQueue: ...

    @property
    def schedule(self) -> Schedule: ...

    @property
    def log(self) -> EventLog: ...

    @property
    def registry(self) -> Registry: ...

    @property
    def access(self) -> Access: ...

    @property
    def credentials(self) -> Credentials: ...

    @property
    def audit(self) -> Audit: ...

    @property
    def pseudonyms(self) -> Pseudonyms: ...

    @property
    def users(self) -> Users: ...

    @property
    def signals(self) -> Signals: ...

    @property
    def search(self) -> Search: ...

    @property
    def jobs(self) -> Jobs: ...

    @property
    def positions(self) -> Positions: ...

    def now_ms(self) -> int:
        """The store's time: Unix milliseconds."""

    async def start(self) -> None:
        """Begin to deliver from it, where the process before left off, and to notice what other processes change.

        Raises:
            StoreError, StorageFailure: it cannot be used.
        """

    def failures(self) -> list[str]:
        """What is wrong with the storage at present, a sentence each; empty when all is well."""

    @property
    def commits(self) -> Histogram:
        """How long this process's commits took."""

    async def size_bytes(self) -> int:
        """How much room all of it takes where it is stored.

        Raises:
            StoreUnavailable: it cannot be read.
        """

    async def replicas(self) -> list[Replica]:
        """The copies that follow it now, a few at most; none where there are none, or this process may not see them.

        Raises:
            StoreUnavailable: it cannot be read.
        """

    async def prune(self, retention: Retention) -> bool:
        """Forget for about a second, in small steps, what is older than its retention: settled events, dead letters,
        removed tokens, jobs that have ended, and audit entries, from the front of each chain. Returns whether there is
        more to forget.

        The age of an event counts from when it was settled last (a dead letter that is discarded is settled then). What
        is not settled is never forgotten. Ids of events are remembered for 24 hours at least.

        The keys of contents are dropped, too (`store/content_keys.py`), and what is not settled carried forward.
        """

    async def publish(self, status: NodeStatus) -> None:
        """Let every node know how this one is doing."""

    async def nodes(self) -> list[NodeStatus]:
        """What each node published last."""

    async def close(self) -> None: ...
