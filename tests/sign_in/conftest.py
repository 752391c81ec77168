"""An issuer with its key set and its introspection endpoint on a real HTTPS server, and tocsin configured to ask it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from tests.api.conftest import Api, opened
from tests.support.https_server import HttpsServer, Reply

from tocsin.emulator.credentials import write_credentials
from tocsin.settings import Sessions
from tocsin.sign_in.configured import SignIn, configured
from tocsin.store.ports import Access

OWNER = "9aed5e94-3803-11e3-8475-0024e8f90cc0"
AUDIENCE = "https://push.example.com"
JWKS, INTROSPECT = "/jwks", "/introspect"
NOW_S = 1_790_000_000.0

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@lru_cache
def key(name: str) -> PrivateKey:
    """A private key that is always the same for this name; its kind is the beginning of the name."""
    match name.split("-")[0]:
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "short":
            return rsa.generate_private_key(65537, 1024)
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def jwk(name: str, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """The public key of `key(name)`, whose `kid` is the name unless another is given."""
    public = key(name).public_key()
    if isinstance(public, rsa.RSAPublicKey):
        fields = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        fields = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        fields = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**fields, "kid": name if kid is None else kid, "use": "sig", **more}


def public_pem(name: str) -> bytes:
    return key(name).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def part(value: Any) -> str:
    """One part of a token: JSON (text and bytes as they are) in base64url."""
    content = value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(content if isinstance(content, bytes) else content.encode()).rstrip(b"=").decode()


def signed(header: Any, claims: Any, name: str = "rsa-1", algorithm: str = "RS256") -> str:
    """A token whose header and claims are exactly these, signed with `key(name)`."""
    signing = f"{part(header)}.{part(claims)}"
    signer = jwt.get_algorithm_by_name(algorithm)
    return f"{signing}.{part(signer.sign(signing.encode(), signer.prepare_key(key(name))))}"


class World:
    """The issuer, the clocks, and what tocsin was configured to."""

    def __init__(self, server: HttpsServer) -> None:
        self.server = server
        self.now_s = NOW_S
        """Both clocks."""
        self.issuer = server.url("/realm")
        self.publish(jwk("rsa-1"))

    def publish(self, *keys: Any) -> None:
        self.server.say(JWKS, Reply(json.dumps({"keys": keys}).encode()))

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Those of a good token; a change to None leaves one out."""
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": OWNER,
            "iat": int(self.now_s) - 10,
            "exp": int(self.now_s) + 600,
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, name: str = "rsa-1", algorithm: str = "RS256", **changed: Any) -> str:
        return signed({"alg": algorithm, "kid": name, "typ": "JWT"}, self.claims(**changed), name, algorithm)

    def settings(self, **changed: Any) -> Sessions:
        """Those that have tocsin accept the issuer's tokens."""
        values = {
            "issuer": self.issuer,
            "audiences": (AUDIENCE,),
            "jwks_url": self.server.url(JWKS),
            "ca_file": self.server.ca,
            **changed,
        }
        return Sessions(**{name: value for name, value in values.items() if value is not None})

    def introspecting(self, **changed: Any) -> Sessions:
        """Those that have tocsin ask the introspection endpoint."""
        values: dict[str, Any] = {
            "introspection_url": self.server.url(INTROSPECT),
            "introspection_client_id": "tocsin push",
            "introspection_client_secret": "s3cret+of/tocsin",
            "ca_file": self.server.ca,
            **changed,
        }
        return Sessions(**values)

    def sign_in(self, settings: Sessions, access: Access) -> SignIn:
        return configured(settings, access, wall_clock=lambda: self.now_s, monotonic=lambda: self.now_s)

    def times_asked(self, path: str) -> int:
        return sum(asked.path == path for asked in self.server.asked)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with HttpsServer(write_credentials(tmp_path / "tls")) as server:
        yield World(server)


Start = Callable[..., Any]


@pytest.fixture
async def start(world: World, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts an API over a real store with these settings; returns it and its `SignIn`."""
    entered = []

    async def started(settings: Sessions, **more: Any) -> tuple[Api, SignIn]:
        made: list[SignIn] = []

        def sign_in(access: Access) -> SignIn:
            made.append(world.sign_in(settings, access))
            return made[0]

        context = opened(tmp_path, sign_in=sign_in, **more)
        api = await context.__aenter__()
        entered.append((context, made[0]))
        return api, made[0]

    yield started
    for context, sign_in in entered:
        await sign_in.close()
        await context.__aexit__(None, None, None)
