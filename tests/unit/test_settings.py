"""Settings: one file, overridden by the environment, unknown keys refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tocsin.settings import PushApi, SettingsError, load


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tocsin.toml"
    file.write_text('[server]\nport = 9000\nhost = "127.0.0.2"\n')
    assert load(file).server.port == 9000
    monkeypatch.setenv("TOCSIN_SERVER__PORT", "9001")
    assert (load(file).server.port, load(file).server.host) == (9001, "127.0.0.2")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[server]\nprot = 1\n", "server.prot: unknown key"),
        ("[sever]\nport = 1\n", "sever: unknown key"),
        ("[server]\nport = 70000\n", "server.port"),
        ('[apns]\nproduction_url = "http://x"\n', "apns.production_url"),
        ("[delivery.lifetimes]\nfax_nw = 3\n", "fax_nw"),
        ("[server\n", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key_and_the_reason(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "tocsin.toml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=named.replace(".", r"\.")):
        load(file)


@pytest.mark.parametrize("variable", ["TOCSIN_SERVER__PROT", "TOCSIN_SEVER__PORT", "TOCSIN_SERVER_PORT"])
def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SettingsError, match=variable):
        load()


def test_a_lease_that_could_end_under_an_attempt_is_refused_with_the_rule(tmp_path: Path) -> None:
    file = tmp_path / "tocsin.toml"
    file.write_text("[delivery]\nlease_s = 30\n")
    with pytest.raises(SettingsError, match=r"delivery\.lease_s is 30: at least 70 is needed"):
        load(file)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.com:443", "https://app.example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_an_origin_is_kept_as_a_browser_sends_it(given: str, kept: str) -> None:
    assert PushApi(origins=(given,)).origins == (kept,)


@pytest.mark.parametrize("given", ["null", "*", "app.example.com", "https://app.example.com/", "https://*.example.com"])
def test_what_is_no_origin_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(ValidationError, match=r"must be an origin, as https://app\.example\.com"):
        PushApi(origins=(given,))
