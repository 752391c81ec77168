"""The issuer's keys, kept in memory: read by a timer, and when a token names a key that is not among them.

Whether the issuer can be reached now matters to nobody whose key is known, until the keys were not confirmed for
`valid_s`. What cannot be known, because the keys could not be read, is "unavailable", never "refused".
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from tocsin.sign_in.exchange import ExchangeFailed
from tocsin.sign_in.key_set import KeySet, PublicKey, read_key_set
from tocsin.sign_in.outage import Outage
from tocsin.sign_in.verdicts import Refused, Unavailable

_ASK_AGAIN_S: Final = 60.0
"""How often tokens with an unknown `kid` may have the keys read: whoever invents them cannot load the issuer."""
_AFTER_FAILURE_S: Final = 5.0

Read = Callable[[], Awaitable[bytes]]
"""Reads the JWK set; raises ExchangeFailed."""


class IssuerKeys:
    """See the module. `monotonic` measures times, `wall_clock` is Unix seconds."""

    def __init__(
        self,
        read: Read,
        algorithms: Collection[str],
        *,
        valid_s: float,
        wall_clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._read_set = read
        self._algorithms = algorithms
        self._valid_s = valid_s
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._keys: KeySet | None = None
        self._confirmed_at = 0.0
        """When the keys were last asked for with success (monotonic)."""
        self._confirmed_s = 0.0
        """The same, in Unix seconds."""
        self._outage = Outage("the issuer's keys", monotonic)
        """What the last reading found."""
        self._asked_at: float | None = None
        """When an unknown key had them read (monotonic)."""
        self._reading: asyncio.Task[None] | None = None

    @property
    def failure(self) -> str | None:
        """Why the last reading gave no keys; None where it did."""
        return self._outage.reason

    async def refresh(self) -> float | None:
        """Read the keys. Returns in how many seconds to try again where that failed."""
        await self._read()
        return None if self._outage.reason is None else _AFTER_FAILURE_S

    async def find(self, key_id: str, algorithm: str, issued_s: float | None) -> PublicKey | Refused | Unavailable:
        """The key with this id, for this algorithm. `issued_s` is when the token says that it was issued."""
        found = self._known(key_id, algorithm)
        if found is None and (self._reading is not None or self._may_ask()):
            await self._read()
            found = self._known(key_id, algorithm)
        return self._missing(issued_s) if found is None else found

    def _known(self, key_id: str, algorithm: str) -> PublicKey | Refused | None:
        keys = None if self._keys is None or self._are_too_old() else self._keys.by_id.get(key_id)
        if keys is None:
            return None
        return keys.get(algorithm) or Refused("its alg is not one that its key may be used with")

    def _are_too_old(self) -> bool:
        return self._monotonic() - self._confirmed_at > self._valid_s

    def _missing(self, issued_s: float | None) -> Refused | Unavailable:
        if self._outage.reason is not None:
            return Unavailable(self._outage.reason)
        if self._keys is None or self._are_too_old():
            return Unavailable("the issuer's keys were not confirmed for longer than sessions.jwks_valid_s")
        if issued_s is not None and issued_s > self._confirmed_s:
            # The issuer may have taken a new key since. After the next reading it is known.
            wait_s = 0.0 if self._asked_at is None else self._asked_at + _ASK_AGAIN_S - self._monotonic()
            reason = "its kid is unknown, and the keys were read before it was issued"
            return Unavailable(reason, max(1, math.ceil(wait_s)))
        return Refused("its kid is none of the issuer's keys")

    def _may_ask(self) -> bool:
        now = self._monotonic()
        if self._asked_at is not None and now - self._asked_at < _ASK_AGAIN_S:
            return False
        self._asked_at = now
        return True

    async def _read(self) -> None:
        """Read the keys, or wait for whoever reads them already. A caller who goes away does not end the reading."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_once(), name="issuer's keys")
        await asyncio.shield(self._reading)

    async def _read_once(self) -> None:
        began_at, began_s = self._monotonic(), self._wall_clock()
        failure = None
        try:
            self._keys = read_key_set(await self._read_set(), self._algorithms)
            self._confirmed_at, self._confirmed_s = began_at, began_s
            if not self._keys.by_id:
                # Nobody is let in by a key that was withdrawn, and nobody is signed out by what may be a mistake.
                failure = "the issuer has no key with a kid that fits one of sessions.algorithms"
        except ExchangeFailed as error:
            failure = str(error)
        except ValueError as error:
            failure = f"the issuer's keys: {error}"
        finally:
            self._reading = None
        self._outage.note(failure)
