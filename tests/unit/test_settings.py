"""Settings: one file, overridden by the environment, unknown keys refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tocsin.settings import PushApi, Server, SettingsError, load


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
    ("given", "address"),
    [("127.0.0.1:9090", ("127.0.0.1", 9090)), ("[::1]:0", ("::1", 0)), ("localhost:65535", ("localhost", 65535))],
)
def test_a_private_address_is_a_host_and_a_port(given: str, address: tuple[str, int]) -> None:
    assert Server(private_host=given).private_address == address


@pytest.mark.parametrize("given", ["", "127.0.0.1", ":9090", "127.0.0.1:", "127.0.0.1:65536", "::1:9090", "a b:1"])
def test_a_private_address_without_one_of_both_is_refused(given: str) -> None:
    with pytest.raises(ValidationError, match=r"must be host:port, as 127\.0\.0\.1:9090 or \[::1\]:9090"):
        Server(private_host=given)


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "fd00::1/8", "proxy", "10.0.0.0/33", 8, ""])
def test_a_proxy_that_is_no_network_is_refused_in_one_sentence(wrong: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        Server.model_validate({"trusted_proxies": [wrong]})
    (error,) = raised.value.errors()
    assert "must be an address or a network, as 10.0.0.7 or 10.0.0.0/8" in error["msg"]
    if wrong == "10.0.0.1/8":
        assert "10.0.0.1/8 has bits set behind the /8: the network is 10.0.0.0/8" in error["msg"]


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


SIGN_IN = {
    "keys without an issuer": ("jwks_url='https://i/jwks'\naudiences=['a']", "need issuer and audiences"),
    "keys without an audience": ("jwks_url='https://i/jwks'\nissuer='i'", "need issuer and audiences"),
    "keys in two places": (
        "jwks_url='https://i/jwks'\njwks_file='k'\nissuer='i'\naudiences=['a']",
        "both set; keep one",
    ),
    "keys over plain HTTP": ("jwks_url='http://i/jwks'", "sessions.jwks_url: must be an https:// URL"),
    "keys with a password": ("jwks_url='https://a:hunter2@i/jwks'", "must be an https:// URL, without user"),
    "an issuer that nothing uses": ("issuer='i'", "need jwks_url, jwks_file or introspection_url"),
    "no signature": ("algorithms=['none']", "sessions.algorithms.0"),
    "a shared secret": ("algorithms=['RS256', 'HS256']", "sessions.algorithms.1"),
    "no algorithm": ("algorithms=[]", "sessions.algorithms"),
    "a long leeway": ("leeway_s=3600", "sessions.leeway_s"),
    "introspection without a client": ("introspection_url='https://i/in'", "needs introspection_client_id"),
    "introspection without a secret": (
        "introspection_url='https://i/in'\nintrospection_client_id='t'",
        "one of introspection_client_secret",
    ),
    "introspection with two secrets": (
        "introspection_url='https://i/in'\nintrospection_client_id='t'\nintrospection_client_secret='hunter2'\n"
        "introspection_client_secret_file='f'",
        "one of introspection_client_secret",
    ),
    "an empty secret": (
        "introspection_url='https://i/in'\nintrospection_client_id='t'\nintrospection_client_secret=''",
        "sessions.introspection_client_secret",
    ),
    "a client that nothing uses": ("introspection_client_secret='hunter2'", "needs introspection_url"),
    "refusals kept longer": ("cache_s=5\nrefused_cache_s=6", "refused_cache_s must not be longer"),
    "keys that end before they are read again": ("jwks_valid_s=300", "jwks_valid_s must be longer"),
}


@pytest.mark.parametrize("name", SIGN_IN)
def test_a_sign_in_that_is_incomplete_or_unsafe_is_refused_with_the_rule(tmp_path: Path, name: str) -> None:
    content, said = SIGN_IN[name]
    file = tmp_path / "tocsin.toml"
    file.write_text("[sessions]\n" + content)
    with pytest.raises(SettingsError) as refused:
        load(file, environ={})
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_sign_in_can_be_set_by_the_environment_alone_and_its_secret_is_not_shown() -> None:
    settings = load(
        environ={
            "TOCSIN_SESSIONS__INTROSPECTION_URL": "https://sign-in.example.com/introspect",
            "TOCSIN_SESSIONS__INTROSPECTION_CLIENT_ID": "tocsin",
            "TOCSIN_SESSIONS__INTROSPECTION_CLIENT_SECRET": "hunter2",
            "TOCSIN_SESSIONS__AUDIENCES": '["ios", "android"]',
        }
    )
    assert settings.sessions.audiences == ("ios", "android")
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("value", ["ios", "{}", '"ios"', "[" * 100_000, ""])
def test_a_list_in_the_environment_that_is_none_is_refused_with_the_name_of_its_variable(value: str) -> None:
    variable = "TOCSIN_SESSIONS__AUDIENCES"
    with pytest.raises(SettingsError, match=f"{variable}: must be a JSON array"):
        load(environ={variable: value})
