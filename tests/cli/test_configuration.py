"""Which configuration a command uses, and whether the documented one is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.cli.conftest import OWNER, Run

from tocsin.domain.events import MESSAGES
from tocsin.settings import Nats, Settings, load

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


def test_every_setting_of_nats_is_in_the_example_and_on_the_page() -> None:
    page, example = (ROOT / "docs" / "configuration.md").read_text(), EXAMPLE.read_text()
    assert "`[sources.nats]`" in page
    part = example.partition("\n#: [sources.nats]")[2].partition("\n\n[")[0]
    for key in Nats.model_fields:
        assert f"| `{key}` |" in page, key
        assert f"#: {key} = " in part, key


def test_a_file_in_the_working_directory_is_used_without_being_named(run: Run) -> None:
    Path("tocsin.toml").write_text('[store]\npath = "elsewhere/tocsin.db"\n')
    assert run("key", "create", "producer").status == 0
    assert Path("elsewhere/tocsin.db").exists()


def test_a_named_file_overrides_it_and_the_environment_overrides_both(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tocsin.toml").write_text('[store]\npath = "here.db"\n')
    Path("other.toml").write_text('[store]\npath = "other.db"\n')
    monkeypatch.setenv("TOCSIN_CONFIG", "other.toml")
    run("key", "create", "producer")
    assert Path("other.db").exists()
    monkeypatch.setenv("TOCSIN_STORE__PATH", "environment.db")
    run("key", "create", "producer")
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


@pytest.mark.parametrize(
    "variable",
    [
        "TOCSIN_SERVICE_HOST=10.0.0.1",
        "TOCSIN_SERVICE_PORT_HTTP=8080",
        "TOCSIN_PORT=tcp://10.0.0.1:8080",
        "TOCSIN_PORT_8080_TCP_ADDR=10.0.0.1",
        # A Service that is called tocsin-server.
        "TOCSIN_SERVER_SERVICE_HOST=10.0.0.1",
        "TOCSIN_SERVER_PORT=tcp://10.0.0.1:8080",
        "TOCSIN_IMAGE=tocsin:0.1",
        "TOCSIN_HOST=push.example.com",
    ],
)
def test_a_variable_that_is_not_meant_as_a_setting_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(*variable.split("=", 1))
    assert load() == Settings()


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("TOCSIN_SERVER__PROT=80", "unknown key 'prot'; use one of host, port, "),
        ("TOCSIN_SEVER__PORT=80", "unknown section 'sever'; use one of server, "),
        ("TOCSIN_SERVER_PORT=9000", "write it as TOCSIN_SERVER__PORT "),
        ("TOCSIN_STORE_MAX_BACKLOG_EVENTS=9", "write it as TOCSIN_STORE__MAX_BACKLOG_EVENTS "),
        ("TOCSIN_LOG=debug", "write it as TOCSIN_LOG__KEY"),
    ],
)
def test_a_variable_that_looks_like_a_setting_and_is_none_is_refused_with_what_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    name, value = variable.split("=", 1)
    monkeypatch.setenv(name, value)
    ran = run("key", "list")
    assert ran.status == 2
    assert ran.err.startswith(f"tocsin: environment variable {name}: ")
    assert said in ran.err
    assert ran.err.endswith(", or unset it\n")


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("TOCSIN_DELIVERY__LIFETIMES=abc", "must be a JSON object"),
        ("TOCSIN_DELIVERY__LIFETIMES=" + "[" * 100_000, "must be a JSON object"),
        ('TOCSIN_DELIVERY__LIFETIMES={"fax_new": "-P1D"}', "fax_new: Input should be greater than 0 seconds"),
        ('TOCSIN_DELIVERY__LIFETIMES={"fax_new": "P999999D"}', "fax_new: Input should be less than or equal to "),
        ('TOCSIN_DELIVERY__LIFETIMES={"fax_old": "P1D"}', "unknown event 'fax_old'"),
        ("TOCSIN_DELIVERY__LIFETIMES__FAX_NEW=x", "valid timedelta"),
        ("TOCSIN_FCM__TOKEN_HOSTS=example.com", "must be a JSON array"),
        ("TOCSIN_SECRETS__KEY_COMMAND=vault read", "must be a JSON array"),
        ("TOCSIN_STORE__RETENTION=-P1D", "greater than 0 seconds"),
        ("TOCSIN_STORE__HISTORY=P99999999999D", "too large"),
        ("TOCSIN_STORE__MAX_BACKLOG_BYTES=99999999999999999999", "less than"),
        ("TOCSIN_STORE__PATH=:memory:", "must name a file"),
        ("TOCSIN_STORE__PATH=", "must name a file"),
        ("TOCSIN_STORE__PATH=\udcff.db", "not UTF-8"),
        ("TOCSIN_SERVER__DRAIN_S=inf", "finite number"),
        ("TOCSIN_SERVER__REQUEST_TIMEOUT_S=nan", "finite number"),
        ("TOCSIN_SERVER__DRAIN_S=1e300", "less than or equal to"),
        ("TOCSIN_SERVER__PORT__X=1", "valid integer"),
        ("TOCSIN_APNS__PRODUCTION_URL=https://apple:99999", "must be an https:// URL"),
        ("TOCSIN_FCM__URL=https://", "must be an https:// URL"),
        ("TOCSIN_APNS__PROXY=http://ops:hunter2@:x", "must be http://[user:password@]host:port"),
    ],
)
def test_a_wrong_value_in_the_environment_is_refused_with_the_name_of_its_variable(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    name, value = variable.split("=", 1)
    monkeypatch.setenv(name, value)
    ran = run("key", "list")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"tocsin: environment variable {name}: ")
    assert said in ran.err
    assert "hunter2" not in ran.err
    assert not Path("var").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[server]\nport = " + b"9" * 5000, "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"[server]\nhost = '\xff'", "not valid TOML"),
        (b'[store]\npath = "a\\u0000b"', "store.path: must not contain a NUL character"),
        (b'[apns]\nca_file = "a\\u0000b"', "apns.ca_file: must not contain a NUL character"),
        (b"[store]\nretention = -1", "store.retention: Input should be greater than 0 seconds"),
        (b"[delivery]\nlease_s = 5", "toml: delivery.lease_s is 5: at least 70 is needed"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_a_hostile_file_is_refused_in_one_sentence(run: Run, content: bytes, said: str) -> None:
    Path("tocsin.toml").write_bytes(content)
    ran = run("key", "list")
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert said in ran.err


def test_a_file_without_end_is_refused(run: Run) -> None:
    ran = run("key", "list", "--config", "/dev/zero")
    assert (ran.status, ran.out) == (2, "")
    assert "/dev/zero: larger than " in ran.err


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


def test_the_environment_that_is_given_overrides_the_file_and_the_process_has_no_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_SERVER__PORT", "1")
    monkeypatch.setenv("TOCSIN_STORE__PATH", "of-the-process.db")
    file = tmp_path / "tocsin.toml"
    file.write_text('[server]\nport = 2\nhost = "file"\n[delivery.lifetimes]\nfax_new = "P1D"\n')
    given = {"TOCSIN_SERVER__PORT": "3", "tocsin_delivery__lifetimes": '{"recording_new": "P2D"}'}
    settings = load(file, environ=given)
    assert (settings.server.port, settings.server.host) == (3, "file")
    assert settings.store.path == Settings().store.path == Path("var/tocsin.db")
    assert {message: settings.delivery.lifetime(message).days for message in ("fax_new", "recording_new")} == {
        "fax_new": 1,
        "recording_new": 2,
    }
    assert load(file).server.port == 1
