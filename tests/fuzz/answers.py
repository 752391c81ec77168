"""What others answer: tokens of an issuer, the sign-in service, Apple, Google and Google's token endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, cast

from tests.fuzz.jwt_key import KEY_SET, SIGNED
from tocsin.domain.outcomes import Delivered, RetryLater
from tocsin.http2.messages import Failure, FailureKind
from tocsin.providers.apns.judging import ApnsJudge
from tocsin.providers.apns.routes import Routes, make_route
from tocsin.providers.fcm import routes as fcm_routes
from tocsin.providers.fcm.judging import FcmJudge
from tocsin.providers.fcm.oauth import TokenRefused, TokenUnavailable, _granted
from tocsin.sign_in.claims import Expected
from tocsin.sign_in.introspection import CacheLimits, Introspection, Service
from tocsin.sign_in.issuer_keys import IssuerKeys
from tocsin.sign_in.json_web_token import JsonWebTokens
from tocsin.sign_in.key_set import read_key_set
from tocsin.sign_in.verdicts import Refused, SignedIn

NOW_S: Final = 1_790_000_000.0
EXPECTED: Final = Expected("https://sso.example.com", frozenset({"tocsin"}), "sub", 30.0)
ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
_LONGEST_PAUSE_S: Final = 3600.0


def json_web_token() -> Callable[[bytes], None]:
    """A JWT in a request. Nobody is signed in but by what the issuer has signed."""
    loop = asyncio.new_event_loop()

    async def key_set() -> bytes:
        return KEY_SET

    clocks = {"wall_clock": lambda: NOW_S, "monotonic": lambda: 1000.0}

    async def made() -> JsonWebTokens:
        keys = IssuerKeys(key_set, ALGORITHMS, valid_s=1e6, **clocks)
        await keys.refresh()
        return JsonWebTokens(keys, ALGORITHMS, EXPECTED, wall_clock=clocks["wall_clock"])

    verifier = loop.run_until_complete(made())

    def run(data: bytes) -> None:
        text = data.decode("latin-1")
        verdict = loop.run_until_complete(verifier.verify(text))
        if isinstance(verdict, SignedIn):
            assert text.rpartition(".")[0] == SIGNED, "signed in by what nobody has signed"

    return run


def sign_in() -> Callable[[bytes], None]:
    """The answers of the sign-in service, and the key set of an issuer."""
    service = Service("https://sso.example.com/introspect", "tocsin", "secret")
    loop = asyncio.new_event_loop()

    async def made() -> Introspection:
        clock = {"wall_clock": lambda: NOW_S, "monotonic": lambda: 1000.0}
        return Introspection(service, cast(Any, None), EXPECTED, CacheLimits(30, 5, 100), **clock)

    introspection = loop.run_until_complete(made())

    def run(data: bytes) -> None:
        try:
            verdict = introspection._remembered(data[:32], data)
        except ValueError:
            pass
        else:
            assert isinstance(verdict, SignedIn | Refused)
            if isinstance(verdict, SignedIn):
                assert b"active" in data or b"\\u" in data
        try:
            read = read_key_set(data, ALGORITHMS)
        except ValueError:
            return
        assert all(set(keys) <= set(ALGORITHMS) for keys in read.by_id.values())

    return run


class _Request:
    """An answer to a push, made of the bytes of an input: its status, its Retry-After, and its body."""

    failure: Failure | None = None

    def __init__(self, data: bytes, route: Any, **more: Any) -> None:
        self.status = 200 + int.from_bytes(data[:2], "big") % 400 if len(data) > 1 else 0
        if not self.status:
            self.failure = Failure(FailureKind.RESET, "x", unknown=True)
        after, _, self.response_body = data[2:].partition(b"\n")
        self.response_headers = ((b"retry-after", after),) if after else ()
        self.headers = ((b"authorization", b"bearer x"),)
        self.push = SimpleNamespace(route=route, tried=())
        self.started = self.connection_opened = 0.0
        for name, value in more.items():
            setattr(self, name, value)

    def response_header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.response_headers if key == name), None)


def _check(outcome: Any, status: int) -> None:
    assert isinstance(outcome, Delivered) == (status == 200)
    if isinstance(outcome, RetryLater) and outcome.after_s is not None:
        assert 0 < outcome.after_s <= _LONGEST_PAUSE_S


def apns() -> Callable[[bytes], None]:
    """Apple's answers: each has one outcome, and only a 200 is delivered."""
    route = make_route("39JSDKGJ38.de.cospace.app", False, "de.cospace.app")
    channel = SimpleNamespace(token=None, pool=SimpleNamespace(retire=lambda **_: None))
    channels: Any = SimpleNamespace(
        applications_with_the_key_of=lambda account: (account,), serves=lambda channel, route: True
    )
    judge = ApnsJudge(channels, Routes(), lambda: NOW_S)

    def run(data: bytes) -> None:
        request: Any = _Request(data, route, channel=channel)
        _check(judge.outcome(request), request.status)

    return run


def fcm() -> Callable[[bytes], None]:
    """Google's answers, to pushes and to requests for access tokens."""
    route = fcm_routes.make_route("main", "token")
    access = SimpleNamespace(expired=lambda used: False)
    projects: Any = SimpleNamespace(accounts=("main", "other"))
    judge = FcmJudge(projects, lambda: NOW_S)
    account: Any = SimpleNamespace(token_uri="https://oauth2.googleapis.com/token")

    def run(data: bytes) -> None:
        request: Any = _Request(data, route, project=SimpleNamespace(replaced=False, access=access))
        _check(judge.outcome(request), request.status)
        try:
            token = _granted(account, request.status, request.response_body)
        except (TokenRefused, TokenUnavailable) as error:
            assert len(str(error)) < 200
            return
        assert token.value.isascii()
        assert token.value.isprintable()

    return run
