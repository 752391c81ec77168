"""How often a user, a key and an address may call: in memory, bounded, and of this process alone.

Every limit is a `RequestError` (429) with the time after which the caller may go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from tocsin.api.client_address import address_is_certain, client_address, counted_as
from tocsin.api.problems import Kind, RequestError
from tocsin.api.rates import Buckets
from tocsin.api.shared import Shared
from tocsin.api.wrong_secrets import WrongSecrets
from tocsin.domain.events import UserId
from tocsin.settings import Settings
from tocsin.store.records import ApiKey, Rate


class Limits(Shared):
    """The limits of `[limits]`, and the rates of the keys.

    Those by address apply only where it is certain whose address it is: an unknown proxy in front of the API would be
    one address for everybody.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        throttled: Callable[[str], None] = lambda limit: None,
        wrong: Callable[[], None] = lambda: None,
    ) -> None:
        """`throttled` is told of each request that is refused, with the name of its limit; `wrong` of each wrong key or
        session."""
        own = settings.limits
        self._of_user = _rate(own.user_per_minute, 60)
        self._of_key = _rate(own.key_per_s, 1)
        self._of_address = _rate(own.address_per_s, 1)
        self._of_wrong = _rate(own.wrong_secrets_per_minute, 60)
        self._users, self._keys, self._events, self._addresses, self._wrong = (Buckets(clock) for _ in range(5))
        self._throttled = throttled
        self._count_wrong = wrong
        self.wrong_secrets = WrongSecrets()

    def user(self, owner: UserId) -> None:
        """A request of this user."""
        rate = self._of_user
        if rate is not None and (wait_s := self._users.take(owner, rate)):
            raise self._too_many("user", f"Too many requests of this user: {_text(rate)} are allowed.", wait_s)

    def key(self, key: ApiKey) -> None:
        """A request with this key."""
        rate = self._of_key
        if rate is not None and (wait_s := self._keys.take(key.id, rate)):
            raise self._too_many("key", f"Too many requests with this key: {_text(rate)} are allowed.", wait_s)

    def may_send(self, key: ApiKey) -> None:
        """Whether this key may send an event now, before it is known how many there are."""
        rate = key.limits.rate
        if rate is not None and (wait_s := self._events.wait_s(key.id, rate)):
            raise self._too_many_events(rate, wait_s)

    def events(self, key: ApiKey, count: int) -> None:
        """So many events are sent with this key."""
        rate = key.limits.rate
        if rate is not None and (wait_s := self._events.take(key.id, rate, count)):
            raise self._too_many_events(rate, wait_s)

    def not_accepted(self, key: ApiKey, count: int) -> None:
        """So many events of this key, which `events` has counted, were not accepted after all."""
        rate = key.limits.rate
        if rate is not None:
            self._events.charge(key.id, rate, -count)

    def address(self, scope: Mapping[str, Any]) -> None:
        """A request without a valid key."""
        if self._of_address is None or not address_is_certain(scope):
            return
        wait_s = self._addresses.take(counted_as(client_address(scope)), self._of_address)
        if wait_s:
            raise self._too_many("address", "Too many requests from this address without a valid key.", wait_s)

    def may_try_secret(self, scope: Mapping[str, Any]) -> None:
        """Whether a key or a session from this address is looked at."""
        if self._of_wrong is None or not address_is_certain(scope):
            return
        address = client_address(scope)
        wait_s = self._wrong.wait_s(counted_as(address), self._of_wrong)
        if wait_s:
            self.wrong_secrets.not_looked_at(address)
            raise self._too_many("wrong_secrets", "Too many wrong keys or sessions came from this address.", wait_s)

    def wrong_secret(self, scope: Mapping[str, Any]) -> None:
        """A key or a session was wrong."""
        address = client_address(scope)
        self._count_wrong()
        self.wrong_secrets.wrong(address)
        if self._of_wrong is not None and address_is_certain(scope):
            self._wrong.charge(counted_as(address), self._of_wrong)

    def _too_many_events(self, rate: Rate, wait_s: float) -> RequestError:
        detail = f"Too many events with this key: {_text(rate)} are allowed; nothing was accepted."
        return self._too_many("events", detail, wait_s)

    def _too_many(self, limit: str, detail: str, wait_s: float) -> RequestError:
        self._throttled(limit)
        return RequestError(Kind.THROTTLED, f"{detail} Try again later.", retry_after_s=max(1, math.ceil(wait_s)))


def _rate(count: int, per_s: int) -> Rate | None:
    return Rate(count, per_s) if count else None


def _text(rate: Rate) -> str:
    period = {1: "a second", 60: "a minute", 3600: "an hour"}.get(rate.per_s, f"in {rate.per_s} seconds")
    return f"{rate.count} {period}"
