"""Keys and sessions: the secret is shown once, they can be revoked, and they expire."""

from __future__ import annotations

import pytest
from tests.cli.conftest import OWNER, Run


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


@pytest.mark.parametrize("by", ["id", "key"])
def test_a_key_is_revoked_by_id_or_by_itself(run: Run, by: str) -> None:
    created = run("key", "create", "producer", "--json").json
    assert run("key", "revoke", created[by]).status == 0
    assert run("key", "list", "--json").json == []


def test_a_session_belongs_to_its_owner(run: Run) -> None:
    created = run("session", "create", "--owner", OWNER.upper(), "--json").json
    assert created["owner"] == OWNER
    run("session", "create", "--owner", "1de7257a-4f34-11e0-ab6e-0024e8f90cc1")
    (listed,) = run("session", "list", "--owner", OWNER, "--json").json
    assert listed == {field: value for field, value in created.items() if field != "sid"}


def test_a_session_can_be_created_without_a_user(run: Run) -> None:
    assert run("session", "create", "--anonymous", "--json").json["owner"] is None


def test_a_session_is_revoked_by_its_secret(run: Run) -> None:
    sid = run("session", "create", "--owner", OWNER).out.strip()
    assert run("session", "revoke", sid).status == 0
    assert run("session", "list", "--json").json == []


@pytest.mark.parametrize("group", ["key", "session"])
def test_an_unknown_secret_cannot_be_revoked_and_is_not_printed(run: Run, group: str) -> None:
    ran = run(group, "revoke", "maybe-a-mistyped-secret")
    assert ran.status == 1
    assert "maybe-a-mistyped-secret" not in ran.err


def test_a_key_never_expires_only_when_that_is_asked_for(run: Run) -> None:
    assert run("key", "create", "producer", "--json").json["expires"] is not None
    assert run("key", "create", "producer", "--expires-in", "never", "--json").json["expires"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["key", "create", "reader"], "'producer', 'admin'"),
        (["key", "create", "producer", "--expires-in", "soon"], "like 90d, or never"),
        (["key", "create", "producer", "--expires-in", "0d"], "like 90d, or never"),
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
