"""JWTs of the configured issuer (RFC 7519), checked as RFC 8725 ("JSON Web Token Best Current Practices") asks.

Algorithms, issuer and audiences come from the configuration. `jku`, `jwk`, `x5c` and `x5u` of a token are never used;
`kid` is looked up in memory, and is no path or URL anywhere.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import jwt

from tocsin.sign_in.claims import Expected, number, user_of, violation
from tocsin.sign_in.issuer_keys import IssuerKeys
from tocsin.sign_in.key_set import PublicKey
from tocsin.sign_in.strict_json import read_object
from tocsin.sign_in.verdicts import Refused, Unavailable, Verdict

_SIGNED: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
# RFC 8725, 3.11: a logout token or a security event of the same issuer is no proof of who is calling.
_TYPES: Final = frozenset({"jwt", "at+jwt"})


class JsonWebTokens:
    """See `Verifier`. `wall_clock` is Unix seconds."""

    def __init__(
        self, keys: IssuerKeys, algorithms: Collection[str], expected: Expected, *, wall_clock: Callable[[], float]
    ) -> None:
        self._keys = keys
        self._algorithms = frozenset(algorithms)
        self._expected = expected
        self._wall_clock = wall_clock
        self._signatures = jwt.PyJWS(algorithms=sorted(self._algorithms))

    async def verify(self, text: str) -> Verdict:
        try:
            header, claims = _parts(text)
        except ValueError as error:
            return Refused(str(error))
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            return Refused("its alg is none of sessions.algorithms")
        if not isinstance(key_id, str):
            return Refused("it names no key: its header has no kid")
        broken = _unusable(header) or self._violation(claims)
        if broken is not None:
            # Before its key is looked for: what is refused anyway does not have the keys read.
            return Refused(broken)
        key = await self._keys.find(key_id, algorithm, number(claims.get("iat")))
        if isinstance(key, Refused | Unavailable):
            return key
        if not self._is_signed(text, key, algorithm):
            return Refused("its signature is not that of its key")
        return user_of(claims, self._expected, f"a JWT of {self._expected.issuer}")

    def _violation(self, claims: Mapping[str, Any]) -> str | None:
        return violation(claims, self._expected, self._wall_clock(), complete=True)

    def _is_signed(self, text: str, key: PublicKey, algorithm: str) -> bool:
        try:
            self._signatures.decode(text, key, algorithms=[algorithm])
        except (jwt.PyJWTError, ValueError, TypeError):
            return False
        return True


def _parts(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims, not verified.

    Raises:
        ValueError: it is not a signed JWT in its compact form. The message quotes nothing.
    """
    if not _SIGNED.fullmatch(text):
        raise ValueError("it is not a signed JWT: three parts in base64url, none of them empty")
    header, claims, _ = text.split(".")
    return _read("header", header), _read("claims", claims)


def _read(what: str, part: str) -> dict[str, Any]:
    try:
        return read_object(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except binascii.Error:
        raise ValueError(f"its {what}: not base64url") from None
    except ValueError as error:
        raise ValueError(f"its {what}: {error}") from None


def _unusable(header: Mapping[str, Any]) -> str | None:
    """The rule that the header breaks, besides those of `alg` and `kid`."""
    if "crit" in header or "b64" in header:
        return "its header has crit or b64, of which nothing is supported"
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        return "its typ is neither JWT nor at+jwt"
    return None
