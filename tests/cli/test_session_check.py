"""`tocsin session check`: whose a session is, or why it is not taken, without ever printing it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import OWNER, Ran, Run
from tests.sign_in.conftest import AUDIENCE, INTROSPECT, JWKS, World
from tests.support.https_server import HttpsServer, Reply

from tocsin.emulator.credentials import write_credentials

Check = Callable[..., Ran]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with HttpsServer(write_credentials(tmp_path / "tls")) as server:
        world = World(server)
        world.now_s = time.time()
        yield world


@pytest.fixture
def check(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs the command with a text on standard input."""

    def check(text: str, *options: str) -> Ran:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        ran = run("session", "check", *options)
        assert not text.strip() or text.strip() not in ran.out + ran.err
        return ran

    return check


def configure(**values: Any) -> None:
    lines = [
        f"{name} = {json.dumps(value if isinstance(value, list) else str(value))}" for name, value in values.items()
    ]
    Path("tocsin.toml").write_text("\n".join(["[sessions]", *lines, ""]))


def accept_tokens_of(world: World) -> None:
    configure(issuer=world.issuer, audiences=[AUDIENCE], jwks_url=world.server.url(JWKS), ca_file=world.server.ca)


def test_an_own_session_is_taken_until_it_is_revoked(run: Run, check: Check) -> None:
    created = run("session", "create", "--owner", OWNER, "--json").json
    ran = check(created["sid"] + "\n")
    assert (ran.status, ran.out) == (0, f"taken: user {OWNER}, by a session of tocsin\n")
    run("session", "revoke", created["id"])
    ran = check(created["sid"])
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == "tocsin: not taken: it is not a session of tocsin, or was revoked, or has expired\n"


def test_a_token_is_taken_or_the_rule_that_it_breaks_is_named(world: World, check: Check) -> None:
    accept_tokens_of(world)
    assert check(world.token()).out == f"taken: user {OWNER}, by a JWT of {world.issuer}\n"
    for token, said in (
        (world.token(exp=1), "it has expired"),
        (world.token(aud="other"), "its aud is none of sessions.audiences"),
        (world.token("rsa-2"), "its kid is none of the issuer's keys"),
        (world.token()[:-8], "its signature is not that of its key"),
    ):
        ran = check(token)
        assert (ran.status, ran.out, ran.err) == (1, "", f"tocsin: not taken: {said}\n")


def test_an_issuer_that_is_down_is_said_to_be_down(world: World, check: Check) -> None:
    accept_tokens_of(world)
    token = world.token()
    world.server.stop()
    ran = check(token)
    assert ran.status == 1
    assert ran.err.startswith(f"tocsin: it is not known whether it is taken: {world.server.url(JWKS)}: ")
    assert ran.err.endswith("; a server answers 503\n")
    assert check(token, "--json").json["taken"] is None


def test_json_says_the_same(world: World, check: Check) -> None:
    accept_tokens_of(world)
    by = f"a JWT of {world.issuer}"
    assert check(world.token(), "--json").json == {"taken": True, "owner": OWNER, "by": by, "reason": None}
    ran = check(world.token(exp=1), "--json")
    assert (ran.status, ran.json["taken"], ran.json["reason"]) == (1, False, "it has expired")


def test_the_sign_in_service_is_asked_with_the_secret_from_its_file(world: World, check: Check) -> None:
    Path("client-secret").write_text("s3cret\n")
    Path("client-secret").chmod(0o600)
    configure(
        introspection_url=world.server.url(INTROSPECT),
        introspection_client_id="tocsin",
        introspection_client_secret_file="client-secret",
        ca_file=world.server.ca,
    )
    world.server.say(INTROSPECT, Reply(json.dumps({"active": True, "sub": OWNER}).encode()))
    assert check("of-the-platform").out == f"taken: user {OWNER}, by the sign-in service\n"
    assert world.server.asked[0].headers["authorization"] == "Basic dG9jc2luOnMzY3JldA=="


@pytest.mark.parametrize(
    ("mode", "content", "said"),
    [
        (0o644, "s3cret", "others may read or change it (mode 0644); run `chmod 600 client-secret`"),
        (0o600, "", "empty"),
        (0o600, "\n", "empty"),
        (None, "", "No such file"),
    ],
)
def test_a_secret_file_that_is_unsafe_or_unusable_is_refused(
    world: World, check: Check, mode: int | None, content: str, said: str
) -> None:
    if mode is not None:
        Path("client-secret").write_text(content)
        Path("client-secret").chmod(mode)
    configure(
        introspection_url=world.server.url(INTROSPECT),
        introspection_client_id="tocsin",
        introspection_client_secret_file="client-secret",
    )
    ran = check("of-the-platform")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("tocsin: sessions.introspection_client_secret_file client-secret: ")
    assert said in ran.err
    assert world.server.asked == []


def test_a_ca_file_that_is_none_is_named(world: World, check: Check) -> None:
    Path("ca.pem").write_text("no certificate")
    for name in ("ca.pem", "nowhere.pem"):
        configure(issuer="i", audiences=["a"], jwks_url=world.server.url(JWKS), ca_file=name)
        ran = check("a.b.c")
        assert ran.status == 2
        assert ran.err.startswith(f"tocsin: sessions.ca_file {name}: ")


@pytest.mark.parametrize("text", ["", "\n"])
def test_nothing_on_standard_input_is_an_error(check: Check, text: str) -> None:
    ran = check(text)
    assert (ran.status, ran.out) == (2, "")
    assert "standard input" in ran.err
