"""What a token says: who issued it, for whom, for how long, and which user it is about (RFC 7519, 4.1; RFC 7662, 2.2).

All that is compared here was set in the configuration, or is the time now; nothing is taken from the token itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from tocsin.domain.events import UserId
from tocsin.sign_in.verdicts import Refused, SignedIn

# `uuid.UUID` also takes braces, `urn:uuid:` and no hyphens.
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

_LATEST_S: Final = 2**53
"""Up to here a float is as exact as an integer."""


class Expected(Struct, frozen=True):
    """What a valid token says."""

    issuer: str | None
    audiences: frozenset[str]
    user_claim: str
    leeway_s: float
    """How far the issuer's clock and ours may differ."""


def violation(claims: Mapping[str, Any], expected: Expected, now_s: float, *, complete: bool) -> str | None:
    """The rule that the claims break; None where they break none. `now_s` is Unix seconds.

    Set `complete` where `iss`, `aud` and `exp` must be there; without it, what is not there is not checked.
    """
    for name in ("iss", "aud", "exp") if complete else ():
        if name not in claims:
            return f"it has no {name}"
    if expected.issuer is not None and "iss" in claims and claims["iss"] != expected.issuer:
        return "its iss is another than sessions.issuer"
    if expected.audiences and "aud" in claims and not _is_for(claims["aud"], expected.audiences):
        return "its aud is none of sessions.audiences"
    for name in ("exp", "nbf", "iat"):
        if name in claims and number(claims[name]) is None:
            return f"its {name} is not a number"
    if "exp" in claims and claims["exp"] <= now_s - expected.leeway_s:
        return "it has expired"
    if any(name in claims and claims[name] > now_s + expected.leeway_s for name in ("nbf", "iat")):
        return "it is not valid yet"
    return None


def user_of(claims: Mapping[str, Any], expected: Expected, by: str) -> SignedIn | Refused:
    """The user in the configured claim; `by` is what vouches for it."""
    name = expected.user_claim
    value = claims.get(name)
    if value is None:
        return Refused(f"it names no user: it has no claim {name}", nobody=True)
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        return Refused(f"its claim {name} is not the UUID of a user; see sessions.user_claim")
    return SignedIn(UserId(value.lower()), by)


def number(value: object) -> float | None:
    """A NumericDate (RFC 7519, section 2), as it is; None for anything else, and for one that no clock will show."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -_LATEST_S < value < _LATEST_S else None


def _is_for(audience: object, ours: frozenset[str]) -> bool:
    """Whether `aud`, which is one text or a list of texts, names one of ours."""
    named = audience if isinstance(audience, list) else [audience]
    return any(isinstance(one, str) and one in ours for one in named)
