"""The ways to sign in that the settings want, behind one `Verifier`."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tocsin.secret_files import readable_by_others
from tocsin.settings import Sessions
from tocsin.sign_in.claims import Expected
from tocsin.sign_in.exchange import Exchange, ExchangeFailed
from tocsin.sign_in.introspection import CacheLimits, Introspection, Service
from tocsin.sign_in.issuer_keys import IssuerKeys
from tocsin.sign_in.json_web_token import JsonWebTokens
from tocsin.sign_in.own import OwnSessions
from tocsin.sign_in.verdicts import Refused, Verdict, Verifier
from tocsin.store.ports import Access

_LONGEST: Final = 8192
"""Characters of a session; those of issuers that put many roles into a JWT have up to some 4,000."""
_LARGEST_FILE_BYTES: Final = 256 * 1024


class SignInError(Exception):
    """The settings cannot be used; the message names the key, the reason and the remedy."""


class SignIn:
    """See `Verifier`: asks whoever may know the session.

    What has the form of a JWT (a session of tocsin has no dots) is one where an issuer is configured. Anything else is
    looked for among tocsin's own sessions, and the sign-in service is asked about what is not there.
    """

    def __init__(
        self,
        own: Verifier,
        *,
        tokens: Verifier | None = None,
        introspection: Verifier | None = None,
        keys: IssuerKeys | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        self._own = own
        self._tokens = tokens
        self._introspection = introspection
        self.keys = keys
        """To be read by a timer, where there are any."""
        self._exchange = exchange

    async def verify(self, text: str) -> Verdict:
        if len(text) > _LONGEST:
            return Refused(f"it is longer than {_LONGEST} characters")
        if self._tokens is not None and text.count(".") == 2:
            return await self._tokens.verify(text)
        verdict = await self._own.verify(text)
        if self._introspection is not None and isinstance(verdict, Refused) and not verdict.nobody:
            return await self._introspection.verify(text)
        return verdict

    async def close(self) -> None:
        if self._exchange is not None:
            await self._exchange.close()


def configured(
    settings: Sessions,
    access: Access,
    *,
    wall_clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> SignIn:
    """What `[sessions]` wants.

    Raises:
        SignInError: a file that it names cannot be used.
    """
    own = OwnSessions(access)
    if settings.keys_from is None and settings.introspection_url is None:
        return SignIn(own)
    try:
        exchange = Exchange(settings.ca_file, settings.timeout_s)
    except OSError as error:
        reason = error.strerror or "not a file with certificates"
        raise SignInError(f"sessions.ca_file {settings.ca_file}: {reason}; name a PEM file") from None
    expected = Expected(settings.issuer, frozenset(settings.audiences), settings.user_claim, settings.leeway_s)
    keys = tokens = introspection = None
    if settings.keys_from is not None:
        read = partial(_read_keys, settings.keys_from, exchange)
        keys = IssuerKeys(
            read, settings.algorithms, valid_s=settings.jwks_valid_s, wall_clock=wall_clock, monotonic=monotonic
        )
        tokens = JsonWebTokens(keys, settings.algorithms, expected, wall_clock=wall_clock)
    if settings.introspection_url is not None:
        service = Service(settings.introspection_url, settings.introspection_client_id or "", _client_secret(settings))
        limits = CacheLimits(settings.cache_s, settings.refused_cache_s, settings.cache_entries)
        introspection = Introspection(service, exchange, expected, limits, wall_clock=wall_clock, monotonic=monotonic)
    return SignIn(own, tokens=tokens, introspection=introspection, keys=keys, exchange=exchange)


async def _read_keys(keys_from: str | Path, exchange: Exchange) -> bytes:
    """The JWK set at a URL or in a file.

    Raises:
        ExchangeFailed: it cannot be read.
    """
    if isinstance(keys_from, str):
        return await exchange.get(keys_from)
    try:
        return await asyncio.to_thread(_read_file, keys_from)
    except OSError as error:
        raise ExchangeFailed(f"sessions.jwks_file {keys_from}: {error.strerror}") from None


def _read_file(path: Path) -> bytes:
    """Raises OSError where it cannot be read, or is too large."""
    with path.open("rb") as file:
        content = file.read(_LARGEST_FILE_BYTES + 1)
    if len(content) > _LARGEST_FILE_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


def _client_secret(settings: Sessions) -> str:
    """With what tocsin signs in to the sign-in service.

    Raises:
        SignInError: its file cannot be read, is empty or no text, or others may read it.
    """
    path = settings.introspection_client_secret_file
    if path is None:
        assert settings.introspection_client_secret is not None
        return settings.introspection_client_secret.get_secret_value()
    named = f"sessions.introspection_client_secret_file {path}"
    try:
        content, status = _read_file(path), path.stat()
    except OSError as error:
        raise SignInError(f"{named}: {error.strerror}; name another file") from None
    if (wrong := readable_by_others(path, status)) is not None:
        raise SignInError(f"{named}: {wrong}")
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SignInError(f"{named}: not UTF-8; a secret is text") from None
    if not secret:
        raise SignInError(f"{named}: empty; the secret must stand in it")
    return secret
