"""pytest fixtures for a backend's own tests; pytest finds them by itself where `tocsin-client` is installed.

def test_a_new_fax_rings(tocsin: LocalTocsin) -> None:
    anna = tocsin.add_user()
    iphone = anna.add_iphone()
    my_backend(tocsin.url, tocsin.key).receive_fax(anna.id)
    (push,) = iphone.wait_for("fax_new")
    assert push["page_count"] == 2
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tocsin_client.testing import LocalTocsin, local_tocsin


@pytest.fixture(scope="session")
def tocsin_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTocsin]:
    """A tocsin for the whole run of the tests: it takes some seconds to start."""
    with local_tocsin(tmp_path_factory.mktemp("tocsin")) as running:
        yield running


@pytest.fixture
def tocsin(tocsin_server: LocalTocsin) -> Iterator[LocalTocsin]:
    """The running tocsin, without the fault scripts of other tests. Users and phones are new: tests do not meet."""
    yield tocsin_server
    tocsin_server.set_faults()
