"""Addresses that the console listens on, and asks, which no DNS can have."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tocsin.console.admin_api import AdminApi, ApiError
from tocsin.console.options import Options
from tocsin.console.server import ConsoleError, serve

NAME = "tocsin..local"


async def test_a_name_that_cannot_be_in_the_dns_is_refused_where_the_console_listens() -> None:
    options = Options("http://127.0.0.1:1", None, timedelta(hours=1))
    with pytest.raises(ConsoleError, match=r"console\.host tocsin\.\.local, console\.port 0: .*--host"):
        await serve(options, host=NAME, port=0, ready=lambda _: None)


async def test_a_name_that_cannot_be_in_the_dns_is_a_server_that_does_not_answer() -> None:
    api = AdminApi(Options(f"http://{NAME}:8080", None, timedelta(hours=1)))
    with pytest.raises(ApiError, match=r"No answer from http://tocsin\.\.local:8080"):
        await api.get("key", "/figures", dict)
    with pytest.raises(ApiError, match=r"No answer from http://tocsin\.\.local:8080"):
        await anext(api.events("key", "/figures/stream", dict))
    await api.close()
