"""The client against a real tocsin, and against servers that answer as none should."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from tests.support.https_server import HttpsServer

from tocsin.emulator.credentials import write_credentials
from tocsin_client import AsyncClient, Client, FaxNew
from tocsin_client.pytest_plugin import tocsin, tocsin_server  # noqa: F401 (fixtures)

OWNER: Final = UUID("9aed5e94-3803-11e3-8475-0024e8f90cc0")
FAX: Final = UUID("af729cc0-3251-11e2-81c1-0800200c9a66")


def a_fax(**other: Any) -> FaxNew:
    return FaxNew(**{"owner": OWNER, "fax": FAX, "phone": "+492215587412", "page_count": 2, **other})


@pytest.fixture(params=[Client, AsyncClient], ids=["threads", "asyncio"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Calls a method of a client of each kind: `call("send", event, url=…, key=…)`."""

    def sync(method: str, *arguments: Any, options: dict[str, Any], **named: Any) -> Any:
        with Client(**options) as client:
            return getattr(client, method)(*arguments, **named)

    async def asynchronous(method: str, *arguments: Any, options: dict[str, Any], **named: Any) -> Any:
        async with AsyncClient(**options) as client:
            return await getattr(client, method)(*arguments, **named)

    def both(method: str, *arguments: Any, options: dict[str, Any], **named: Any) -> Any:
        done = (sync if request.param is Client else asynchronous)(method, *arguments, options=options, **named)
        return asyncio.run(done) if inspect.isawaitable(done) else done

    return both


@pytest.fixture
def https(tmp_path: Path) -> Iterator[HttpsServer]:
    with HttpsServer(write_credentials(tmp_path / "tls")) as server:
        yield server


@pytest.fixture
def options(https: HttpsServer) -> dict[str, Any]:
    """How a client reaches the server whose answers the test chooses."""
    return {
        "url": https.url(""),
        "key": "tocsin_producer_x",
        "verify": ssl.create_default_context(cafile=str(https.ca)),
        "give_up_after_s": 5.0,
    }
