"""JWTs of an issuer: which are taken, and every known attack refused, through the API and over real HTTPS."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from tests.sign_in.conftest import AUDIENCE, JWKS, OWNER, Start, World, jwk, part, public_pem, signed

from tocsin.sign_in.verdicts import Refused, SignedIn

HEADER = {"alg": "RS256", "kid": "rsa-1", "typ": "JWT"}


def with_hmac(world: World, algorithm: str) -> str:
    """Signed with the issuer's public key, as if that were a shared secret."""
    signing = f"{part({'alg': algorithm, 'kid': 'rsa-1'})}.{part(world.claims())}"
    digest = {"HS256": hashlib.sha256, "HS512": hashlib.sha512}[algorithm]
    return f"{signing}.{part(hmac.new(public_pem('rsa-1'), signing.encode(), digest).digest())}"


def other_claims(world: World) -> str:
    """A good token whose claims were replaced after it was signed."""
    header, _, signature = world.token().split(".")
    return f"{header}.{part(world.claims(sub='1de7257a-4f34-11e0-ab6e-0024e8f90cc1'))}.{signature}"


def doubled(world: World, name: str, first: object) -> str:
    """Signed claims with `name` twice."""
    return signed(HEADER, json.dumps({name: first})[:-1] + "," + json.dumps(world.claims())[1:])


Attack = Callable[[World], str]
ATTACKS: dict[str, tuple[Attack, str]] = {
    # name: (the token, what the refusal says)
    "alg none": (lambda w: f"{part({'alg': 'none', 'kid': 'rsa-1'})}.{part(w.claims())}.", "not a signed JWT"),
    "alg none, with a signature": (lambda w: f"{part({'alg': 'none'})}.{part(w.claims())}.AAAA", "its alg"),
    "alg None": (lambda w: f"{part({'alg': 'None', 'kid': 'rsa-1'})}.{part(w.claims())}.AAAA", "its alg"),
    "no alg": (lambda w: signed({"kid": "rsa-1"}, w.claims()), "its alg"),
    "alg is a list": (lambda w: signed({"alg": ["RS256"], "kid": "rsa-1"}, w.claims()), "its alg"),
    "alg is an object": (lambda w: signed({"alg": {"RS256": 1}, "kid": "rsa-1"}, w.claims()), "its alg"),
    "HS256 with the public key": (lambda w: with_hmac(w, "HS256"), "its alg"),
    "HS512 with the public key": (lambda w: with_hmac(w, "HS512"), "its alg"),
    "an algorithm that was not configured": (lambda w: w.token(algorithm="PS256"), "its alg"),
    "signed by somebody else": (lambda w: signed(HEADER, w.claims(), "rsa-other"), "its signature"),
    "claims replaced": (other_claims, "its signature"),
    "no signature": (lambda w: w.token().rpartition(".")[0] + ".", "not a signed JWT"),
    "signature cut": (lambda w: w.token()[:-8], "its signature"),
    "signature of another algorithm": (lambda w: signed(HEADER, w.claims(), "p256-1", "ES256"), "its signature"),
    "no iss": (lambda w: w.token(iss=None), "no iss"),
    "another iss": (lambda w: w.token(iss="https://evil.example"), "its iss"),
    "iss with a slash more": (lambda w: w.token(iss=w.issuer + "/"), "its iss"),
    "iss is a list": (lambda w: w.token(iss=[w.issuer]), "its iss"),
    "no aud": (lambda w: w.token(aud=None), "no aud"),
    "another aud": (lambda w: w.token(aud="https://shop.example.com"), "its aud"),
    "aud has ours as a part": (lambda w: w.token(aud=AUDIENCE + ".evil.example"), "its aud"),
    "aud is a list of others": (lambda w: w.token(aud=["a", "b", 7, [AUDIENCE]]), "its aud"),
    "aud is an object": (lambda w: w.token(aud={AUDIENCE: True}), "its aud"),
    "no exp": (lambda w: w.token(exp=None), "no exp"),
    "expired": (lambda w: w.token(exp=int(w.now_s) - 31), "expired"),
    "exp is text": (lambda w: w.token(exp="9999999999"), "its exp"),
    "exp is true": (lambda w: w.token(exp=True), "its exp"),
    "exp is a list": (lambda w: w.token(exp=[9999999999]), "its exp"),
    "exp is infinite": (lambda w: signed(HEADER, json.dumps(w.claims(exp=0.5)).replace("0.5", "1e999")), "its exp"),
    "exp is NaN": (lambda w: signed(HEADER, json.dumps(w.claims(exp=float("nan")))), "not valid JSON"),
    "exp has 400 digits": (lambda w: w.token(exp=10**400), "its exp"),
    "not yet valid": (lambda w: w.token(nbf=int(w.now_s) + 31), "not valid yet"),
    "nbf is text": (lambda w: w.token(nbf="0"), "its nbf"),
    "issued in the future": (lambda w: w.token(iat=int(w.now_s) + 3600), "not valid yet"),
    "unknown kid": (lambda w: w.token("rsa-other"), "its kid"),
    "no kid": (lambda w: signed({"alg": "RS256"}, w.claims()), "no kid"),
    "kid is a number": (lambda w: signed({"alg": "RS256", "kid": 1}, w.claims()), "no kid"),
    "kid is a path": (lambda w: signed({"alg": "RS256", "kid": "../../../dev/null"}, w.claims()), "its kid"),
    "kid is a file": (lambda w: signed({"alg": "RS256", "kid": "/etc/passwd"}, w.claims()), "its kid"),
    "kid is a URL": (lambda w: signed({"alg": "RS256", "kid": w.server.url("/evil")}, w.claims()), "its kid"),
    "kid is SQL": (lambda w: signed({"alg": "RS256", "kid": "' or 1=1 --"}, w.claims()), "its kid"),
    "its own key (jwk)": (
        lambda w: signed({**HEADER, "jwk": jwk("rsa-other")}, w.claims(), "rsa-other"),
        "its signature",
    ),
    "a key set of its own (jku)": (
        lambda w: signed({**HEADER, "kid": "rsa-other", "jku": w.server.url("/evil")}, w.claims(), "rsa-other"),
        "its kid",
    ),
    "crit": (lambda w: signed({**HEADER, "crit": ["exp"]}, w.claims()), "crit"),
    "detached payload (b64)": (lambda w: signed({**HEADER, "b64": False, "crit": ["b64"]}, w.claims()), "crit"),
    "a logout token": (lambda w: signed({**HEADER, "typ": "logout+jwt"}, w.claims()), "its typ"),
    "typ is a list": (lambda w: signed({**HEADER, "typ": ["JWT"]}, w.claims()), "its typ"),
    "sub twice": (lambda w: doubled(w, "sub", "1de7257a-4f34-11e0-ab6e-0024e8f90cc1"), "twice"),
    "aud twice": (lambda w: doubled(w, "aud", "https://shop.example.com"), "twice"),
    "exp twice": (lambda w: doubled(w, "exp", 1), "twice"),
    "twice, deep": (lambda w: signed(HEADER, json.dumps(w.claims())[:-1] + ',"a":[{"b":1,"b":2}]}'), "twice"),
    "alg twice": (lambda w: signed('{"alg":"none","kid":"rsa-1","alg":"RS256"}', w.claims()), "twice"),
    "kid twice": (lambda w: signed('{"alg":"RS256","kid":"rsa-2","kid":"rsa-1"}', w.claims()), "twice"),
    "huge": (lambda w: w.token(roles=["x" * 100] * 100_000), "longer than"),
    "a little too long": (lambda w: w.token(roles="x" * 8192), "longer than"),
    "deep": (lambda w: signed(HEADER, b"[" * 3000), "not valid JSON"),
    "claims are a list": (lambda w: signed(HEADER, [w.claims()]), "not a JSON object"),
    "claims are not UTF-8": (lambda w: signed(HEADER, b'{"sub":"\xff"}'), "not valid JSON"),
    "exp with 5,000 digits": (lambda w: signed(HEADER, '{"exp":' + "9" * 5000 + "}"), "not valid JSON"),
    "empty parts": (lambda w: "..", "not a signed JWT"),
    "padding": (lambda w: w.token() + "==", "not a signed JWT"),
    "one character": (lambda w: "a.b.c", "not base64url"),
    "a line break": (lambda w: w.token().replace(".", "\n.", 1), "not a signed JWT"),
    "sub is no UUID": (lambda w: w.token(sub="auth0|5f7c8ec7c33c6c004bbafe82"), "claim sub"),
    "sub is a list": (lambda w: w.token(sub=[OWNER]), "claim sub"),
    "sub in braces": (lambda w: w.token(sub="{" + OWNER + "}"), "claim sub"),
    "sub with a line break": (lambda w: w.token(sub=OWNER + "\n"), "claim sub"),
    "no sub": (lambda w: w.token(sub=None), "no claim sub"),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_refused_and_quoted_nowhere(
    world: World, start: Start, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, said = ATTACKS[name]
    token = make(world)
    api, sign_in = await start(world.settings())
    verdict = await sign_in.verify(token)
    assert isinstance(verdict, Refused)
    assert said in verdict.reason
    assert not any(piece and piece in verdict.reason for piece in token.split(".") if len(piece) > 3)
    if "\n" not in token:  # which no header can carry
        for headers in ({"authorization": f"Bearer {token[:60_000]}"}, {"cookie": f"sid={token[:60_000]}"}):
            assert (await api.client.get("/api/push", headers=headers)).status_code == 401
    assert not any(asked.path != JWKS for asked in world.server.asked), "nothing of the token is fetched"
    assert token not in capfd.readouterr().err


async def test_a_good_token_is_taken_in_each_place_of_a_session(world: World, start: Start) -> None:
    api, sign_in = await start(world.settings(), convention="platform")
    token = world.token()
    assert await sign_in.verify(token) == SignedIn(OWNER, f"a JWT of {world.issuer}")
    await api.client.post(
        "/api/push",
        json={"system": "fcm", "action": "add", "device_token": "phone"},
        headers={"authorization": f"Bearer {token}"},
    )
    for more in ({"headers": {"cookie": f"sid={token}"}}, {"params": {"sid": token}}):
        assert (await api.client.get("/api/push", **more)).json()["fcm"]["device_tokens"] == ["phone"]
    assert (await api.client.get("/api/push", params={"sid": world.token(sub=None)})).json()["status"] == "no-auth"
    assert (await api.client.get("/api/push", params={"sid": other_claims(world)})).json()["status"] == "no-session"


async def test_own_sessions_and_keys_go_on_working_beside_it(world: World, start: Start) -> None:
    api, _ = await start(world.settings())
    assert (await api.client.get("/api/push", headers={"authorization": f"Bearer {api.sid}"})).status_code == 200
    assert world.server.asked == [], "the issuer is not asked about them"
    headers = {"authorization": f"Bearer {world.token()}"}
    assert (await api.client.get("/api/admin/backlog", headers=headers)).status_code == 401, "a user is no operator"


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [("rsa-1", "RS256"), ("rsa-1", "PS512"), ("p256-1", "ES256"), ("p384-1", "ES384"), ("ed-1", "EdDSA")],
)
async def test_each_configured_algorithm_is_taken_with_a_key_of_its_kind(
    world: World, start: Start, key: str, algorithm: str
) -> None:
    world.publish(jwk("rsa-1"), jwk("p256-1"), jwk("p384-1"), jwk("ed-1"))
    _, sign_in = await start(world.settings(algorithms=("RS256", "PS512", "ES256", "ES384", "EdDSA")))
    assert isinstance(await sign_in.verify(world.token(key, algorithm)), SignedIn)
    other = "ES256" if algorithm != "ES256" else "RS256"
    confused = signed({"alg": other, "kid": key}, world.claims(), key, algorithm)
    assert isinstance(await sign_in.verify(confused), Refused), "the key decides, not the token"


@pytest.mark.parametrize(
    ("changed", "taken"),
    [
        ({"exp": -30}, False),
        ({"exp": -29}, True),
        ({"nbf": 30}, True),
        ({"nbf": 31}, False),
        ({"iat": 30}, True),
    ],
)
async def test_the_leeway_is_small_and_exact(world: World, start: Start, changed: dict[str, int], taken: bool) -> None:
    _, sign_in = await start(world.settings(leeway_s=30))
    times = {name: int(world.now_s) + offset for name, offset in changed.items()}
    assert isinstance(await sign_in.verify(world.token(**times)), SignedIn) is taken


async def test_any_of_the_audiences_and_the_configured_claim_are_taken(world: World, start: Start) -> None:
    claim = "https://example.com/uuid"
    _, sign_in = await start(world.settings(audiences=("ios", "android"), user_claim=claim))
    token = world.token(aud=["web", "android"], sub="auth0|5f7c8ec7", **{claim: OWNER.upper()})
    assert await sign_in.verify(token) == SignedIn(OWNER, f"a JWT of {world.issuer}")


@pytest.mark.parametrize("kind", ["at+jwt", "application/at+jwt", "JWT", None])
async def test_access_tokens_are_taken_by_each_of_their_types(world: World, start: Start, kind: str | None) -> None:
    _, sign_in = await start(world.settings())
    header = {"alg": "RS256", "kid": "rsa-1"} | ({"typ": kind} if kind else {})
    assert isinstance(await sign_in.verify(signed(header, world.claims())), SignedIn)


def test_the_tokens_of_these_tests_are_what_pyjwt_reads(world: World) -> None:
    options: Any = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(world.token(), public_pem("rsa-1"), ["RS256"], audience=AUDIENCE, options=options)
    assert claims == world.claims()
