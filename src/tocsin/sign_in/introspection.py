"""Asks the platform's sign-in service about a session (RFC 7662, OAuth 2.0 Token Introspection).

Verdicts are cached by a digest of the session: for a short time where somebody is signed in, for a shorter one where
not. Both caches are bounded and apart, so that invented sessions drive out nobody's. A service that is down is
"unavailable", which is not cached.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from typing import Final
from urllib.parse import quote_plus

from msgspec import Struct

from tocsin.sign_in.cache import VerdictCache
from tocsin.sign_in.claims import Expected, user_of, violation
from tocsin.sign_in.exchange import Exchange, ExchangeFailed
from tocsin.sign_in.outage import Outage
from tocsin.sign_in.strict_json import read_object
from tocsin.sign_in.verdicts import Refused, SignedIn, Unavailable, Verdict

_MOST_ASKED: Final = 1000
"""Sessions that are asked about at a time."""


class Service(Struct, frozen=True):
    """The introspection endpoint, with what tocsin signs in to it."""

    url: str
    client_id: str
    client_secret: str

    def __repr__(self) -> str:
        return f"Service({self.url!r})"

    def authorization(self) -> str:
        """RFC 6749, 2.3.1: both are encoded as in a form, and then as in RFC 7617."""
        pair = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"
        return "Basic " + base64.b64encode(pair.encode()).decode()


class CacheLimits(Struct, frozen=True):
    signed_in_s: float
    refused_s: float
    most: int
    """Verdicts of either kind."""


class Introspection:
    """See `Verifier`. `wall_clock` is Unix seconds, `monotonic` measures times."""

    def __init__(
        self,
        service: Service,
        exchange: Exchange,
        expected: Expected,
        limits: CacheLimits,
        *,
        wall_clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._service = service
        self._exchange = exchange
        self._expected = expected
        self._limits = limits
        self._wall_clock = wall_clock
        self._signed_in = VerdictCache(limits.most, monotonic)
        self._refused = VerdictCache(limits.most, monotonic)
        self._asked: dict[bytes, asyncio.Task[Verdict]] = {}
        self._outage = Outage("introspection", monotonic)

    async def verify(self, text: str) -> Verdict:
        if not (text.isascii() and text.isprintable()):
            return Refused("it has characters that no token has")
        key = hashlib.sha256(text.encode()).digest()
        known = self._signed_in.get(key) or self._refused.get(key)
        if known is not None:
            return known
        asked = self._asked.get(key)
        if asked is None:
            if len(self._asked) >= _MOST_ASKED:
                return Unavailable("the sign-in service is asked about too many sessions at once")
            # One request for all who give the same session meanwhile; a caller who goes away does not end it.
            asked = self._asked[key] = asyncio.create_task(self._ask(key, text), name="introspection")
            asked.add_done_callback(lambda _: self._asked.pop(key))
        return await asyncio.shield(asked)

    async def _ask(self, key: bytes, text: str) -> Verdict:
        form = {"token": text, "token_type_hint": "access_token"}
        headers = {"authorization": self._service.authorization()}
        failure = None
        try:
            verdict = self._remembered(key, await self._exchange.post(self._service.url, form, headers))
        except ExchangeFailed as error:
            failure = str(error)
        except ValueError as error:
            failure = f"the answer of the sign-in service: {error}"
        self._outage.note(failure)
        return verdict if failure is None else Unavailable(failure)

    def _remembered(self, key: bytes, answer: bytes) -> Verdict:
        """The verdict in an answer, put into its cache.

        Raises:
            ValueError: it is not an answer of RFC 7662. The message quotes nothing.
        """
        claims = read_object(answer)
        active, now_s = claims.get("active"), self._wall_clock()
        if not isinstance(active, bool):
            raise ValueError("`active` is not true or false")
        verdict: Verdict = Refused("the sign-in service says that it is not valid")
        if active:
            broken = violation(claims, self._expected, now_s, complete=False)
            verdict = user_of(claims, self._expected, "the sign-in service") if broken is None else Refused(broken)
        if isinstance(verdict, SignedIn):
            lives_s = claims["exp"] - now_s + self._expected.leeway_s if "exp" in claims else self._limits.signed_in_s
            self._signed_in.put(key, verdict, min(self._limits.signed_in_s, lives_s))
        else:
            self._refused.put(key, verdict, self._limits.refused_s)
        return verdict
