"""Which host of several is tried first."""

from __future__ import annotations

import pytest

from tocsin.store.postgres.hosts import Hosts


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u@a/d", [("a", 5432)]),
        ("postgresql://u@a:1,b,[::1]:2,[::2]/d?sslmode=require", [("a", 1), ("b", 5432), ("::1", 2), ("::2", 5432)]),
        ("postgresql://u@/d?host=/run/postgresql", []),
    ],
)
def test_the_hosts_of_a_url_are_tried_in_its_order(url: str, hosts: list[tuple[str, int]]) -> None:
    assert Hosts(url).in_order() == hosts


def test_a_host_that_is_left_is_tried_last_and_one_that_takes_writes_first() -> None:
    hosts = Hosts("postgresql://u@a,b,c/d")
    hosts.leave()
    assert [name for name, _ in hosts.in_order()] == ["b", "c", "a"]
    hosts.prefer(("a", 5432))
    assert [name for name, _ in hosts.in_order()] == ["a", "b", "c"]
