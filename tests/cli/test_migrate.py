"""`tocsin store migrate`: what it says where it cannot. `tests/postgres` and `tests/system` have the move itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Run

POSTGRES = "postgresql://tocsin@127.0.0.1:1/tocsin"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--from", POSTGRES, "--to", POSTGRES], "--from: must be sqlite:FILE"),
        (["--from", "tocsin.db", "--to", POSTGRES], "--from: must be sqlite:FILE"),
        (["--from", "sqlite:tocsin.db", "--to", "sqlite:other.db"], "--to: must be postgresql://user@host/database"),
        (["--from", "sqlite:tocsin.db"], "give either --to or --take-back"),
        (["--from", "sqlite:tocsin.db", "--to", POSTGRES, "--take-back"], "give either --to or --take-back"),
        (
            ["--from", "sqlite:tocsin.db", "--to", "postgresql://tocsin:secret@db/tocsin"],
            "--to: must not hold the password; name a file with it as store.password_file",
        ),
    ],
)
def test_what_is_wrong_with_the_two_stores_is_named(run: Run, arguments: list[str], told: str) -> None:
    ran = run("store", "migrate", *arguments)
    assert ran.status == 2
    assert told in ran.err
    assert "secret" not in ran.err


def test_a_target_that_cannot_be_reached_leaves_the_source_as_it_is(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"sqlite:{store}"
    ran = run("store", "migrate", "--from", source, "--to", POSTGRES)
    assert (ran.status, "needs a configured master key, the same one for every node" in ran.err) == (1, True)
    monkeypatch.setenv("TOCSIN_SECRETS__KEY", "a" * 43 + "=")
    ran = run("store", "migrate", "--from", source, "--to", POSTGRES)
    assert ran.status == 1
    assert "cannot be reached: Connection refused" in ran.err
    assert "was not moved: nothing was changed" in run("store", "migrate", "--from", source, "--take-back").err
    assert run("session", "list").status == 0
    missing = run("store", "migrate", "--from", "sqlite:missing.db", "--to", POSTGRES)
    assert (missing.status, "missing.db: there is no store" in missing.err) == (1, True)
