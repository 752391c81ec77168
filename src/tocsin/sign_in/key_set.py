"""A JWK set (RFC 7517): the public keys with which an issuer's signatures are checked.

Only the algorithms of the configuration are used, each with keys of its kind. A key that breaks a rule is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from msgspec import Struct

from tocsin.sign_in.strict_json import read_object

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_MOST_KEYS: Final = 100
_LONGEST_KEY_ID: Final = 256
# RFC 7518, 3.3: "A key of size 2048 bits or larger MUST be used". The other bound limits what a check costs.
_RSA_BITS: Final = range(2048, 8192 + 1)
_RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# RFC 7518, 3.4: each of them has one curve.
_EC_ALGORITHMS: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
# RFC 7518, 6.2.2, 6.3.2 and 6.4: who can read these could sign.
_PRIVATE: Final = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")


class KeySet(Struct, frozen=True):
    """The keys by their `kid`, and by each algorithm that they may be used with."""

    by_id: Mapping[str, Mapping[str, PublicKey]]


def read_key_set(content: bytes, algorithms: Collection[str]) -> KeySet:
    """The keys in a JWK set that fit one of `algorithms`; perhaps none. Of two with the same `kid`, the first counts.

    Raises:
        ValueError: it is not a JWK set, or has too many keys. The message quotes nothing.
    """
    keys = read_object(content).get("keys")
    if not isinstance(keys, list):
        raise ValueError("not a JWK set: it has no list of keys")
    if len(keys) > _MOST_KEYS:
        raise ValueError(f"it has more than {_MOST_KEYS} keys")
    by_id: dict[str, dict[str, PublicKey]] = {}
    for jwk in keys:
        if not isinstance(jwk, dict) or not _may_verify(jwk):
            continue
        key = _public_key(jwk)
        fitting = _fitting(key) & set(algorithms) if key is not None else set()
        if "alg" in jwk:
            fitting = {algorithm for algorithm in fitting if algorithm == jwk["alg"]}
        for algorithm in fitting:
            assert key is not None
            by_id.setdefault(jwk["kid"], {}).setdefault(algorithm, key)
    return KeySet(by_id)


def _may_verify(jwk: Mapping[str, Any]) -> bool:
    kid, operations = jwk.get("kid"), jwk.get("key_ops", ["verify"])
    return (
        isinstance(kid, str)
        and 0 < len(kid) <= _LONGEST_KEY_ID
        and jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and not any(name in jwk for name in _PRIVATE)
    )


def _public_key(jwk: dict[str, Any]) -> PublicKey | None:
    """The key itself; None where it is none, or of a kind that no algorithm uses."""
    try:
        match jwk.get("kty"):
            case "RSA":
                key: object = RSAAlgorithm.from_jwk(jwk)
            case "EC":
                key = ECAlgorithm.from_jwk(jwk)
            case "OKP":
                key = OKPAlgorithm.from_jwk(jwk)
            case _:
                return None
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    return key if isinstance(key, PublicKey) else None


def _fitting(key: PublicKey) -> set[str]:
    """The algorithms that may use this key."""
    match key:
        case rsa.RSAPublicKey():
            return set(_RSA_ALGORITHMS) if key.key_size in _RSA_BITS else set()
        case ec.EllipticCurvePublicKey():
            return {_EC_ALGORITHMS[key.curve.name]} if key.curve.name in _EC_ALGORITHMS else set()
        case _:
            return {"EdDSA"}
