"""The console over HTTP, with a server and an emulator behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from tests.support.console import Service, running_service


class Browser(httpx.Client):
    """Keeps cookies and follows redirects, as a browser does, and finds the token that a form must bring."""

    def csrf(self, page: str = "/") -> str:
        """The token in the forms of a page."""
        return re.findall(r'name="csrf" value="([0-9a-f]{64})"', self.get(page).text)[0]

    def sign_in(self, key: str, **more: str) -> httpx.Response:
        return self.post("/sign-in", data={"csrf": self.csrf("/sign-in"), "key": key, **more})


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service() as running:
        yield running


@pytest.fixture
def stranger(service: Service) -> Iterator[Browser]:
    """Who has not signed in."""
    with Browser(base_url=service.console_url, follow_redirects=True, trust_env=False, timeout=30) as browser:
        yield browser


@pytest.fixture
def operator(stranger: Browser, service: Service) -> Browser:
    """Who has signed in with an admin key."""
    assert stranger.sign_in(service.admin_key).status_code == 200
    return stranger
