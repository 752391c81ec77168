"""Asks Google for access tokens: a JWT that the service account's key has signed, for a token that lives an hour.

Source: Google, "Using OAuth 2.0 for Server to Server Applications"; RFC 7523, 2.1.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection
from pathlib import Path
from typing import Final, Protocol

import httpx
import jwt
import msgspec
from msgspec import Struct

from tocsin.bounded_answer import read_bounded
from tocsin.providers.fcm.credentials import ServiceAccount
from tocsin.providers.fcm.token_endpoint import why_not

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
_GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ASSERTION_LIVES_S: Final = 3600
_TIMEOUT_S: Final = 10.0
"""For the whole exchange."""
_MOST_BYTES: Final = 64 * 1024
_DEFAULT_LIFETIME_S: Final = 3600
_LONGEST_LIFETIME_S: Final = 86_400
# RFC 6749, 5.2: what the server says of the grant itself. Anything else may pass.
_REFUSALS: Final = frozenset({400, 401, 403})


class Token(Struct, frozen=True):
    """An access token, and how long it lives from now."""

    value: str
    lifetime_s: float


class TokenRefused(Exception):  # noqa: N818 (it says what is so)
    """Google refuses the service account, or it names no endpoint that may be asked: asking again will not help."""


class TokenUnavailable(Exception):  # noqa: N818
    """No answer, or none that could be used: asking again may help."""


class OAuthClient(Protocol):
    async def token(self, account: ServiceAccount, now_s: float) -> Token:
        """A new access token; `now_s` is Unix seconds.

        Raises:
            TokenRefused, TokenUnavailable: there is none, and why.
        """

    async def close(self) -> None: ...


class _Granted(Struct):
    access_token: str
    expires_in: int = _DEFAULT_LIFETIME_S


class _Refused(Struct):
    error: str = ""


class HttpOAuthClient:
    """See `OAuthClient`. Over HTTPS, to `hosts` alone; bounded in bytes and time, and follows no redirect."""

    def __init__(
        self,
        hosts: Collection[str],
        ca_file: Path | None = None,
        proxy: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._hosts = hosts
        self._ca_file = ca_file
        """Who may have signed the server's certificate; None: the system's authorities."""
        self._proxy = proxy
        self._transport = transport
        """What carries the requests; None is the network."""

    async def token(self, account: ServiceAccount, now_s: float) -> Token:
        if reason := why_not(account.token_uri, self._hosts):
            raise TokenRefused(f"the service account's token_uri {reason}")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                status, body = await self._exchange(account, now_s)
        except TimeoutError:
            raise TokenUnavailable(f"{account.token_uri}: no answer within {_TIMEOUT_S:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            # What is said of an answer that is not HTTP quotes it.
            said = "" if isinstance(error, httpx.ProtocolError) else str(error)
            raise TokenUnavailable(f"{account.token_uri}: {said or type(error).__name__}") from None
        return _granted(account, status, body)

    async def close(self) -> None:
        """Nothing is kept open: a token is asked for once an hour."""

    async def _exchange(self, account: ServiceAccount, now_s: float) -> tuple[int, bytes]:
        form = {"grant_type": _GRANT_TYPE, "assertion": _assertion(account, now_s)}
        # One of its own each time: the client sets in it which protocols it speaks.
        tls = ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))
        async with (
            httpx.AsyncClient(
                verify=tls, proxy=self._proxy, transport=self._transport, trust_env=False, timeout=_TIMEOUT_S
            ) as client,
            client.stream("POST", account.token_uri, data=form, headers={"accept-encoding": "identity"}) as response,
        ):
            body = await read_bounded(response, _MOST_BYTES)
            if body is None:
                raise TokenUnavailable(f"{account.token_uri}: the answer is larger than {_MOST_BYTES} bytes")
            return response.status_code, body


def _assertion(account: ServiceAccount, now_s: float) -> str:
    claims = {
        "iss": account.client_email,
        "scope": SCOPE,
        "aud": account.token_uri,
        "iat": int(now_s),
        "exp": int(now_s) + _ASSERTION_LIVES_S,
    }
    headers = {"kid": account.private_key_id} if account.private_key_id else None
    return jwt.encode(claims, account.private_key, algorithm="RS256", headers=headers)


def _granted(account: ServiceAccount, status: int, body: bytes) -> Token:
    """The token in an answer. Of what the server says, only the error's name is repeated."""
    where = account.token_uri
    if status == 200:
        try:
            granted = msgspec.json.decode(body, type=_Granted)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise TokenUnavailable(f"{where}: answered 200 without an access token") from None
        if not (granted.access_token.isascii() and granted.access_token.isprintable() and granted.access_token):
            raise TokenUnavailable(f"{where}: answered with an access token that no header can carry")
        if granted.expires_in <= 0:
            raise TokenUnavailable(f"{where}: answered with an access token that has expired already")
        return Token(granted.access_token, min(granted.expires_in, _LONGEST_LIFETIME_S))
    try:
        error = msgspec.json.decode(body, type=_Refused).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        error = ""
    name = error if error.isascii() and error.isidentifier() and len(error) <= 40 else ""
    said = f"{where}: answered {status} {name}".rstrip()
    if status in _REFUSALS and name:
        raise TokenRefused(said)
    raise TokenUnavailable(said)
