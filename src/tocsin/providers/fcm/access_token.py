"""The OAuth access token of one service account: renewed in the background, the old one used until then.

Source: Google, "Authorize send requests": an access token lives about an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from tocsin.domain.backoff import doubled_s
from tocsin.providers.fcm.credentials import ServiceAccount
from tocsin.providers.fcm.oauth import OAuthClient, Token, TokenRefused, TokenUnavailable

log = structlog.get_logger(__name__)

_RENEWED_AHEAD_S: Final = 300
_RETRY_S: Final = (1.0, 30.0)
"""The longest is the shortest pause of a breaker that has opened many times: each of its probes may ask."""
_CLOCK_STEP_S: Final = 1.0
"""A wall clock that differs by more from the monotonic one than before was set."""


class AccessToken:
    """The access token of one service account.

    Its lifetime and the pauses after failures count by the monotonic clock; only what Google is told when it is asked
    is the wall clock's time.
    """

    def __init__(
        self,
        account: ServiceAccount,
        client: OAuthClient,
        *,
        wall_clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """`wall_clock` gives Unix seconds, `monotonic` seconds."""
        self._account = account
        self._client = client
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._header: bytes | None = None
        self._expires = 0.0
        self._asked = 0.0
        """When the token in use was asked for."""
        self._renewed_ahead_s: float = _RENEWED_AHEAD_S
        self.in_doubt = False
        """Google has called a token invalid, and has accepted none since: see `accepted`."""
        self._invalid: bytes | None = None
        """The header that Google has called invalid: it is being replaced."""
        self._renewing: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._failures = 0
        self.error: str | None = None
        """Why the last renewal failed."""
        self.rejected = False
        """Whether Google itself refused the service account, rather than the link."""

    @property
    def age_s(self) -> float | None:
        """How old the token in use is; None while there is none."""
        return None if self._header is None else self._monotonic() - self._asked

    def header(self) -> bytes | None:
        """The `authorization` header's value, or None while there is none: then await `ready`."""
        now = self._monotonic()
        if now > self._expires - self._renewed_ahead_s:
            if self._expires:
                self.in_doubt = False
            self._renew_soon()
        return self._header if now < self._expires else None

    async def ready(self) -> bytes | None:
        """Wait for the renewal that is going on, if any."""
        header = self.header()
        if header is None and self._renewing is not None:
            await asyncio.shield(self._renewing)
            header = self._header if self._monotonic() < self._expires else None
        return header

    def expired(self, used: bytes | None) -> bool:
        """Google calls the token `used` invalid: it is not used again.

        Returns whether trying again makes sense: False when the next token is called invalid too, and none was accepted
        in between. Then the one after that is asked for when it is needed.
        """
        if used is not None and (used != self._header or used == self._invalid):
            return True
        self._invalid = used
        self._expires = 0.0
        if self.in_doubt:
            return False
        self.in_doubt = True
        self._renew_soon()
        return True

    def accepted(self, used: bytes | None) -> None:
        """Google has accepted the token `used`. To be called only while one is in doubt."""
        if used == self._header:
            self.in_doubt = False

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    def _renew_soon(self) -> None:
        if self._renewing is None and self._monotonic() >= self._not_before:
            self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        asked = self._monotonic()
        try:
            token = await self._ask()
        except (TokenRefused, TokenUnavailable) as error:
            self._failed(str(error), rejected=isinstance(error, TokenRefused))
        except Exception as error:
            log.exception("fcm: asking for an access token failed", account=self._account.client_email)
            self._failed(type(error).__name__, rejected=False)
        else:
            self._header, self._expires = b"Bearer " + token.value.encode(), asked + token.lifetime_s
            self._asked = asked
            # One that lives for less would be renewed with every push.
            self._renewed_ahead_s = min(_RENEWED_AHEAD_S, token.lifetime_s / 2)
            self.error, self.rejected, self._failures = None, False, 0
        finally:
            self._renewing = None

    async def _ask(self) -> Token:
        """Once more at once where it is refused and the clock was set on the way: its time was wrong for Google."""
        ahead_s = self._ahead_s()
        try:
            return await self._client.token(self._account, self._wall_clock())
        except TokenRefused:
            if abs(self._ahead_s() - ahead_s) < _CLOCK_STEP_S:
                raise
            return await self._client.token(self._account, self._wall_clock())

    def _ahead_s(self) -> float:
        return self._wall_clock() - self._monotonic()

    def _failed(self, error: str, *, rejected: bool) -> None:
        self.error, self.rejected = error, rejected
        self._failures += 1
        self._not_before = self._monotonic() + doubled_s(*_RETRY_S, self._failures)
        log.error("no access token", account=self._account.client_email, error=error)
