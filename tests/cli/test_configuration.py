"""Which configuration a command uses, and whether the documented one is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.cli.conftest import OWNER, Run

from tocsin.domain.events import MESSAGES
from tocsin.settings import Settings, load

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "tocsin.toml"


def test_the_example_changes_nothing() -> None:
    assert load(EXAMPLE, environ={}) == Settings()


def test_the_example_shows_every_default(tmp_path: Path) -> None:
    """Uncommented, it says what is true without it; what has no default stands behind `#:`."""
    uncommented = tmp_path / "tocsin.toml"
    uncommented.write_text(re.sub(r"(?m)^# (?=[a-z_0-9]+ = )", "", EXAMPLE.read_text()))
    shown, default = load(uncommented, environ={}), Settings()
    for section in Settings.model_fields:
        if section != "delivery":
            assert getattr(shown, section) == getattr(default, section)
    for message in MESSAGES:
        assert shown.delivery.lifetime(message) == default.delivery.lifetime(message)
        assert shown.delivery.priority(message) == default.delivery.priority(message)
    assert shown.delivery.lane_in_flight == default.delivery.lane_in_flight


@pytest.mark.parametrize("section", Settings.model_fields)
def test_every_setting_is_in_the_example_and_on_the_page(section: str) -> None:
    page, example = (ROOT / "docs" / "configuration.md").read_text(), EXAMPLE.read_text()
    assert f"`[{section}]`" in page
    part = example.partition(f"\n[{section}]")[2].partition("\n\n[" if section != "delivery" else "\n\n[apns]")[0]
    for key in getattr(Settings(), section).__class__.model_fields:
        assert f"| `{key}` |" in page, key
        assert f" {key} = " in part or f"[{section}.{key}]" in part, key


def test_a_file_in_the_working_directory_is_used_without_being_named(run: Run) -> None:
    Path("tocsin.toml").write_text('[store]\npath = "elsewhere/tocsin.db"\n')
    assert run("key", "list").status == 0
    assert Path("elsewhere/tocsin.db").exists()


def test_a_named_file_overrides_it_and_the_environment_overrides_both(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tocsin.toml").write_text('[store]\npath = "here.db"\n')
    Path("other.toml").write_text('[store]\npath = "other.db"\n')
    monkeypatch.setenv("TOCSIN_CONFIG", "other.toml")
    run("key", "list")
    assert Path("other.db").exists()
    monkeypatch.setenv("TOCSIN_STORE__PATH", "environment.db")
    run("key", "list")
    assert Path("environment.db").exists()
    assert not Path("here.db").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[server]\nprot = 80\n", "server.prot: unknown key"),
        ("[server]\nport = 99999\n", "server.port"),
        ("server = \n", "not valid TOML"),
        ("[apns]\nproduction_url = 'http://apple'\n", "https://"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_name_of_the_key(run: Run, content: str, said: str) -> None:
    Path("tocsin.toml").write_text(content)
    for command in (["serve"], ["session", "create", "--owner", OWNER]):
        ran = run(*command)
        assert ran.status == 2
        assert "tocsin.toml" in ran.err
        assert said in ran.err


def test_a_missing_file_is_named(run: Run) -> None:
    ran = run("key", "list", "--config", "nowhere.toml")
    assert (ran.status, ran.out) == (2, "")
    assert "nowhere.toml: No such file" in ran.err


def test_a_store_that_is_not_a_database_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("notes.txt").write_text("not a database\n" * 100)
    monkeypatch.setenv("TOCSIN_STORE__PATH", "notes.txt")
    ran = run("key", "list")
    assert ran.status == 1
    assert "notes.txt" in ran.err
    assert "Traceback" not in ran.err
