"""Keys and sessions: the secret is shown once, they can be revoked, and they expire."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import OWNER, Run

from tocsin.cli.opening import in_store
from tocsin.settings import load
from tocsin.store.records import Role


def test_the_secret_of_a_key_is_all_that_is_on_stdout(run: Run) -> None:
    ran = run("key", "create", "producer", "--name", "fax-backend")
    assert ran.out.startswith("tocsin_producer_")
    assert ran.out.count("\n") == 1
    assert "good until" in ran.err


def test_a_key_is_listed_without_its_secret(run: Run) -> None:
    created = run("key", "create", "admin", "--name", "ops", "--json").json
    (listed,) = run("key", "list", "--json").json
    assert listed == {field: value for field, value in created.items() if field != "key"}
    assert listed["expires"] is not None
    assert created["key"] not in run("key", "list").out


def test_what_a_key_is_called_changes_nothing_on_the_terminal(run: Run) -> None:
    run("key", "create", "admin", "--name", "a\nkey_000000000000\x1b[31m")
    shown = run("key", "list").out
    assert "a\\nkey_000000000000\\x1b[31m" in shown
    assert "\x1b" not in shown


LIMITED = [
    (
        ["producer", "--events", "fax_new, chat_message"],
        {"events": ["chat_message", "fax_new"]},
        "chat_message,fax_new",
    ),
    (["producer", "--rate", "50/s"], {"rate": "50/s"}, "50/s"),
    (
        ["producer", "--rate", "600/min", "--events", "fax_new"],
        {"rate": "600/min", "events": ["fax_new"]},
        "600/min fax_new",
    ),
    (["producer", "--rate", "1000/h"], {"rate": "1000/h"}, "1000/h"),
    (["admin", "--read-only"], {"read_only": True}, "read-only"),
    (["admin", "--area", "devices"], {"areas": ["devices"]}, "devices"),
    (
        ["admin", "--area", "deliveries,credentials", "--read-only"],
        {"areas": ["credentials", "deliveries"], "read_only": True},
        "read-only credentials,deliveries",
    ),
    (["monitoring"], {}, "-"),
    (["admin"], {}, "-"),
]


@pytest.mark.parametrize(("arguments", "limits", "shown"), LIMITED, ids=lambda value: "")
def test_what_a_key_is_limited_to_is_listed(run: Run, arguments: list[str], limits: dict[str, Any], shown: str) -> None:
    created = run("key", "create", *arguments, "--json").json
    (listed,) = run("key", "list", "--json").json
    assert listed == {field: value for field, value in created.items() if field != "key"}
    expected = {"events": None, "rate": None, "read_only": False, "areas": None} | limits
    assert {field: listed[field] for field in expected} == expected
    line = run("key", "list").out.splitlines()[1]
    assert f"{arguments[0]}  " in line
    assert f"  {shown}  " in line


def test_a_key_is_revoked_by_its_id(run: Run) -> None:
    created = run("key", "create", "producer", "--json").json
    assert run("key", "revoke", created["id"]).status == 0
    assert run("key", "list", "--json").json == []


def test_a_key_or_a_session_is_revoked_by_the_secret_in_a_file(run: Run) -> None:
    Path("key.txt").write_text(run("key", "create", "producer").out)
    Path("sid.txt").write_text(run("session", "create", "--owner", OWNER).out)
    assert run("key", "revoke", "--key-file", "key.txt").status == 0
    assert run("session", "revoke", "--sid-file", "sid.txt").status == 0
    assert (run("key", "list", "--json").json, run("session", "list", "--json").json) == ([], [])


def test_a_secret_can_be_given_on_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sid = run("session", "create", "--owner", OWNER).out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(sid.encode())))
    assert run("session", "revoke", "--sid-file", "-").status == 0
    assert run("session", "list", "--json").json == []


@pytest.mark.parametrize(("content", "said"), [(b"", "empty"), (b"\n", "empty"), (b"\xff", "not UTF-8")])
def test_a_file_without_a_secret_is_refused(run: Run, content: bytes, said: str) -> None:
    Path("key.txt").write_bytes(content)
    ran = run("key", "revoke", "--key-file", "key.txt")
    assert ran.status == 2
    assert f"--key-file key.txt: {said}" in ran.err


def test_a_session_belongs_to_its_owner(run: Run) -> None:
    created = run("session", "create", "--owner", OWNER.upper(), "--json").json
    assert created["owner"] == OWNER
    run("session", "create", "--owner", "1de7257a-4f34-11e0-ab6e-0024e8f90cc1")
    (listed,) = run("session", "list", "--owner", OWNER, "--json").json
    assert listed == {field: value for field, value in created.items() if field != "sid"}


def test_a_session_can_be_created_without_a_user(run: Run) -> None:
    assert run("session", "create", "--anonymous", "--json").json["owner"] is None


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("group", "option"), [("key", "--key-file"), ("session", "--sid-file")])
def test_a_secret_on_the_command_line_is_refused_and_not_printed(run: Run, group: str, option: str) -> None:
    ran = run(group, "revoke", "maybe-a-mistyped-secret")
    assert ran.status == 2
    assert f"use {option} FILE" in ran.err
    assert "maybe-a-mistyped-secret" not in ran.err


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("group", "option"), [("key", "--key-file"), ("session", "--sid-file")])
def test_an_unknown_id_or_secret_cannot_be_revoked(run: Run, group: str, option: str) -> None:
    Path("secret.txt").write_text("maybe-a-mistyped-secret")
    for given in ([f"{group[:3]}_3f9a1c5be207"], [option, "secret.txt"]):
        ran = run(group, "revoke", *given)
        assert ran.status == 1
        assert "has this id or secret" in ran.err
        assert "maybe-a-mistyped-secret" not in ran.err


def test_a_key_never_expires_only_when_that_is_asked_for(run: Run) -> None:
    assert run("key", "create", "producer", "--json").json["expires"] is not None
    assert run("key", "create", "producer", "--expires-in", "never", "--json").json["expires"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["key", "create", "reader"], "'producer', 'admin', 'monitoring'"),
        (["key", "create", "producer", "--events", "fax_new,fax"], "--events fax_new,fax: 'fax' is none of fax_new, "),
        (["key", "create", "producer", "--events", ""], "--events : '' is none of fax_new, "),
        (["key", "create", "producer", "--rate", "50"], "--rate 50: must be a number of events per s, min or h"),
        (["key", "create", "producer", "--rate", "0/s"], "--rate 0/s: must be a number of events per s, min or h"),
        (["key", "create", "producer", "--rate", "-1/s"], "must be a number of events per s, min or h"),
        (["key", "create", "producer", "--rate", "5/day"], "must be a number of events per s, min or h"),
        (["key", "create", "producer", "--read-only"], "--read-only: only for admin keys"),
        (["key", "create", "producer", "--area", "devices"], "--area: only for admin keys"),
        (["key", "create", "admin", "--rate", "5/s"], "--rate: only for producer keys"),
        (["key", "create", "admin", "--events", "fax_new"], "--events: only for producer keys"),
        (["key", "create", "monitoring", "--read-only"], "--read-only: only for admin keys"),
        (["key", "create", "monitoring", "--rate", "5/s"], "--rate: only for producer keys"),
        (["key", "create", "admin", "--area", "users"], "'users' is none of credentials, devices, deliveries"),
        (["key", "create", "producer", "--expires-in", "soon"], "like 90d, or never"),
        (["key", "create", "producer", "--expires-in", "0d"], "like 90d, or never"),
        (["key", "create", "producer", "--expires-in", "-1d"], "like 90d, or never"),
        (["key", "create", "producer", "--expires-in", "999999w"], "--expires-in 999999w: must be at most 36500d"),
        (["key", "revoke"], "either the ID, or --key-file FILE"),
        (["session", "revoke", "ses_1", "--sid-file", "-"], "either the ID, or --sid-file FILE"),
        (["session", "create"], "either --owner UUID or --anonymous"),
        (["session", "create", "--owner", OWNER, "--anonymous"], "either --owner UUID or --anonymous"),
        (["session", "create", "--owner", "anna"], "not a UUID"),
        (["session", "list", "--owner", "anna"], "not a UUID"),
    ],
)
def test_bad_input_is_refused_with_the_rule_that_it_breaks(run: Run, arguments: list[str], said: str) -> None:
    ran = run(*arguments)
    assert ran.status == 2
    assert said in ran.err


@pytest.mark.parametrize("expires_ms", [2**53, 2**62, -(2**62), 0])
def test_keys_and_sessions_that_an_older_version_made_are_listed_whatever_their_end(run: Run, expires_ms: int) -> None:
    in_store(load(), lambda store: store.access.create_key(Role.ADMIN, "", expires_ms), create=True)
    in_store(load(), lambda store: store.access.create_session(None, expires_ms))
    year = "1970" if expires_ms == 0 else "9999" if expires_ms > 0 else "0001"
    for group in ("key", "session"):
        ran = run(group, "list")
        assert (ran.status, ran.err) == (0, "")
        assert f"  {year}-" in ran.out
        (listed,) = run(group, "list", "--json").json
        assert listed["expires"].startswith(f"{year}-")
