"""What the simulation knows for certain: who has registered what, what was accepted, and what arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto

from msgspec import Struct, field

from tests.simulator.phones import Phone
from tocsin.domain.events import Event, UserId


class Standing(Enum):
    CHANGING = auto()
    """A user has asked for a change that is not answered yet."""
    REGISTERED = auto()
    GONE = auto()


class Registered(Struct, eq=False):
    """One user's registration of one phone."""

    owner: UserId
    phone: Phone
    standing: Standing = Standing.CHANGING
    since_s: float = 0.0
    """When its last registration was answered (loop time)."""
    asked_s: float = 0.0
    """When its last registration was asked for."""
    gone_s: float = 0.0
    """When its deletion was answered."""
    was_deleted: bool = False
    """Its user has deleted it, and that was answered."""
    falsely_dead: bool = False
    """Its provider has called it dead, and it was not."""
    is_unfit: bool = False
    """It is in quarantine, as its provider has said for a week that it is not for its topic."""
    restored_s: float = 0.0
    """When an operator's bringing it back was answered."""

    @property
    def there_from_s(self) -> float:
        """It is registered from then on, where it is registered."""
        return max(self.since_s, self.restored_s)


class Accepted(Struct, eq=False):
    """An event that was accepted."""

    event: Event
    asked_s: float
    answered_s: float
    targets: list[Registered]
    """Those that were registered for certain when it was handed in."""


class Arrival(Struct, frozen=True):
    """A push that a provider accepted."""

    at_s: float
    id: bytes


class Refusal(Struct, frozen=True):
    """An answer to a delivery that was no success."""

    sent_s: float
    """When the request was sent (loop time)."""
    answered_s: float
    status: int
    reason: str


class Ended(Struct, frozen=True):
    """An event that has its end: when at the earliest and at the latest, by tocsin's clock (Unix milliseconds)."""

    from_ms: int
    until_ms: int
    is_letter: bool


class Model(Struct):
    clock: Callable[[], float]
    registered: dict[tuple[str, str], Registered] = field(default_factory=dict)
    """By owner and key."""
    by_owner: dict[UserId, list[Registered]] = field(default_factory=dict)
    accepted: dict[str, Accepted] = field(default_factory=dict)
    arrivals: dict[tuple[str, str], list[Arrival]] = field(default_factory=dict)
    """By event id and token."""
    refusals: dict[tuple[str, str], list[Refusal]] = field(default_factory=dict)
    """By event id and token."""
    ended: dict[str, Ended] = field(default_factory=dict)
    """Those that were found to have ended."""
    crashes: list[float] = field(default_factory=list)
    """When tocsin crashed, or had stood still for longer than its lease (loop time)."""
    replaying: set[str] = field(default_factory=set)
    """Dead letters whose replay was asked for."""
    replayed: dict[str, float] = field(default_factory=dict)
    """Dead letters that were replayed, and when that was answered."""
    discarded: set[str] = field(default_factory=set)
    """Dead letters whose discarding was answered, and that were not replayed since."""

    def of(self, owner: UserId, phone: Phone) -> Registered:
        one = self.registered.get((owner, phone.key))
        if one is None:
            one = self.registered[owner, phone.key] = Registered(owner, phone)
            self.by_owner.setdefault(owner, []).append(one)
        return one

    def of_owner(self, owner: UserId) -> Sequence[Registered]:
        return self.by_owner.get(owner, ())

    def standing(self, standing: Standing) -> list[Registered]:
        return [one for one in self.registered.values() if one.standing is standing]

    def is_changing(self, phone: Phone) -> bool:
        """Whether somebody registers or deletes it just now."""
        return any(one.phone is phone and one.standing is Standing.CHANGING for one in self.registered.values())

    # -- what users do -------------------------------------------------------------------------------------------------

    def registering(self, one: Registered) -> None:
        one.standing, one.asked_s = Standing.CHANGING, self.clock()

    def was_registered(self, one: Registered) -> None:
        one.standing, one.since_s, one.was_deleted = Standing.REGISTERED, self.clock(), False
        one.falsely_dead = False

    def was_restored(self, one: Registered) -> None:
        """An operator has brought it back, as it was."""
        one.standing, one.restored_s, one.falsely_dead = Standing.REGISTERED, self.clock(), False

    def deleting(self, one: Registered) -> None:
        one.standing = Standing.CHANGING

    def was_deleted(self, one: Registered) -> None:
        one.standing, one.gone_s, one.was_deleted = Standing.GONE, self.clock(), True

    # -- what producers do ---------------------------------------------------------------------------------------------

    def was_accepted(self, event: Event, asked_s: float) -> Accepted | None:
        """None where it is a repetition."""
        if event.id in self.accepted:
            return None
        targets = [
            one
            for one in self.of_owner(event.owner)
            if one.standing is Standing.REGISTERED and one.there_from_s <= asked_s
        ]
        accepted = self.accepted[event.id] = Accepted(event, asked_s, self.clock(), targets)
        return accepted
