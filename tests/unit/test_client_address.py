"""Whose address a request has: a proxy's word counts where the settings name the proxy, and nowhere else."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from tocsin.api.client_address import TrustedProxies, address_is_certain, client_address, counted_as

PROXY = "10.0.0.7"
CLIENT = "203.0.113.9"


def seen(
    peer: str,
    *fields: tuple[str, str],
    trusted: tuple[str, ...] | None = ("10.0.0.0/8", "fd00::/8"),
    field: str = "x-forwarded-for",
) -> tuple[str, bool, str]:
    """The client's address, whether it is certain, and the scheme."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    scope: dict[str, Any] = {"client": (peer, 40000), "scheme": "http", "headers": headers}
    networks = None if trusted is None else [ip_network(one) for one in trusted]
    TrustedProxies(networks, field).apply(scope)
    return client_address(scope), address_is_certain(scope), scope["scheme"]


def forwarded_for(text: str) -> tuple[str, str]:
    return ("x-forwarded-for", text)


def test_a_header_of_a_client_that_is_no_proxy_of_ours_does_not_count() -> None:
    fields = (forwarded_for("127.0.0.1"), ("x-forwarded-proto", "https"))
    assert seen(CLIENT, *fields) == (CLIENT, True, "http")
    assert seen(CLIENT, *fields, trusted=()) == (CLIENT, True, "http")


def test_without_a_word_on_proxies_no_address_is_certain() -> None:
    assert seen(CLIENT, forwarded_for("198.51.100.1"), trusted=None) == (CLIENT, False, "http")


X_FORWARDED_FOR = {
    "one proxy": (CLIENT, CLIENT, True),
    "two proxies": (f"{CLIENT}, 10.1.1.1", CLIENT, True),
    "what the client has written itself": (f"127.0.0.1, 10.0.0.1, {CLIENT}", CLIENT, True),
    "with a port": (f"{CLIENT}:51234", CLIENT, True),
    "IPv6": ("2001:db8::1", "2001:db8::1", True),
    "IPv6 with a port": ("[2001:db8::1]:443", "2001:db8::1", True),
    "IPv4 within IPv6": (f"::ffff:{CLIENT}", CLIENT, True),
    "a proxy within IPv6": (f"{CLIENT}, ::ffff:10.1.1.1", CLIENT, True),
    "a proxy itself": ("10.9.9.9", "10.9.9.9", True),
    "nonsense before it": (f"<script>, {CLIENT}", CLIENT, True),
    "nonsense": (f"{CLIENT}, nonsense", PROXY, False),
    "nonsense behind a proxy": ("nonsense, 10.1.1.1", "10.1.1.1", False),
    "unknown": ("unknown", PROXY, False),
    "empty": ("", PROXY, False),
    "very long": (f"{CLIENT}, " + "10.1.1.1, " * 5000 + "10.1.1.1", "10.1.1.1", True),
}


@pytest.mark.parametrize("what", X_FORWARDED_FOR)
def test_a_proxys_header_names_the_last_hop_that_is_no_proxy(what: str) -> None:
    given, address, certain = X_FORWARDED_FOR[what]
    assert seen(PROXY, forwarded_for(given)) == (address, certain, "http")


def test_a_header_in_two_lines_is_one_list() -> None:
    assert seen(PROXY, forwarded_for("127.0.0.1"), forwarded_for(CLIENT)) == (CLIENT, True, "http")


def test_a_proxy_that_names_nobody_leaves_it_uncertain() -> None:
    assert seen(PROXY) == (PROXY, False, "http")


def test_a_proxy_says_over_which_scheme_the_client_came() -> None:
    assert seen(PROXY, forwarded_for(CLIENT), ("x-forwarded-proto", "HTTPS"))[2] == "https"
    for odd in ("gopher", "https, http", "https://evil.example"):
        assert seen(PROXY, forwarded_for(CLIENT), ("x-forwarded-proto", odd))[2] == "http"


FORWARDED = {
    "one proxy": (f"for={CLIENT}", CLIENT, True, "http"),
    "all of it": (f"by=10.0.0.1;for={CLIENT};host=tocsin;proto=https", CLIENT, True, "https"),
    "IPv6 with a port": ('For="[2001:db8::1]:4711"', "2001:db8::1", True, "http"),
    "what the client has written itself": (f"for=127.0.0.1;proto=https, for={CLIENT}", CLIENT, True, "http"),
    "a name that hides it": ("for=_hidden", PROXY, False, "http"),
    "unknown": (f"for={CLIENT}, for=unknown", PROXY, False, "http"),
    "without for": ("proto=https", PROXY, False, "https"),
}


@pytest.mark.parametrize("what", FORWARDED)
def test_the_field_of_rfc_7239_is_read_where_the_settings_say_so(what: str) -> None:
    given, address, certain, scheme = FORWARDED[what]
    assert seen(PROXY, ("forwarded", given), field="forwarded") == (address, certain, scheme)


def test_the_field_that_the_proxies_do_not_set_never_counts() -> None:
    # A proxy passes on what it does not know.
    assert seen(PROXY, ("forwarded", "for=127.0.0.1"), forwarded_for(CLIENT))[0] == CLIENT
    fields = (("forwarded", f"for={CLIENT}"), forwarded_for("127.0.0.1"), ("x-forwarded-proto", "https"))
    assert seen(PROXY, *fields, field="forwarded") == (CLIENT, True, "http")


def test_a_site_with_ipv6_counts_as_one_address() -> None:
    assert counted_as("2001:db8:1:2:3::4") == counted_as("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    assert counted_as("2001:db8:1:3::1") != counted_as("2001:db8:1:2::1")
    assert counted_as(f"::ffff:{CLIENT}") == counted_as(CLIENT) == CLIENT
