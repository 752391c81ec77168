"""The console: how long its pages take where very much is on record, and what looking at it costs a delivery."""

from __future__ import annotations

import asyncio
import html
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import httpx
from tests.support.postgres_server import PostgresServer, remove

from benchmarks import load, search, search_postgres
from benchmarks.environment import (
    APPLICATION,
    Environment,
    Group,
    Process,
    address_of,
    child_variables,
    owner,
    prepared,
)
from benchmarks.report import Figures
from benchmarks.sizes import Sizes
from benchmarks.throughput import warm_up
from tocsin.domain.devices import Address, DeviceToken, Registration
from tocsin.domain.events import UserId
from tocsin.providers.apns.address import ApnsAddress
from tocsin.store.opening import open_store
from tocsin.store.records import Role

_TIMES: Final = 5
_STARTS: Final = 4
_REST_S: Final = 1.0
"""The index of the search is filled up to so much later: what that takes is counted with the delivery."""
_FOR_EVER: Final = "9999d"
_KNOWN: Final = DeviceToken(f"{search.USERS:064x}")
"""The token of an event that is on record."""
_LATER: Final = 3
"""So many pages further back, a search is asked again."""
_OLDER: Final = re.compile(r'href="([^"]+)">(?:Older|Search further back)</a>')
_HIDDEN: Final = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


def pages(sizes: Sizes, attempts: int | None = None) -> Figures:
    """Every page, and the searches of `search.QUERIES`, on the embedded store."""
    figures, attempts = Figures(), attempts or sizes.attempts
    with prepared([Group(1)]) as environment:
        search.fill(environment.directory / "tocsin.db", attempts)
        _measure(environment, figures, "console", attempts)
    return figures


def pages_on_postgres(sizes: Sizes, attempts: int | None = None) -> Figures:
    """The same on PostgreSQL."""
    figures, attempts = Figures(), attempts or sizes.attempts
    server = PostgresServer(search_postgres.SETTINGS).start()
    try:
        with prepared([Group(1)], store_url=server.url()) as environment:
            asyncio.run(search_postgres.fill(server.url(), attempts))
            _measure(environment, figures, "postgres_console", attempts)
    finally:
        remove(server)
    return figures


def cpu(sizes: Sizes) -> Figures:
    """CPU of a delivery with the search on, and the console's live overview open, over that without both.

    What the console's own process takes meanwhile is counted, too. One process of the same code differs from the next
    by some hundredths: so both are started again after every few rounds, each of them first in half of the starts.
    """
    figures = Figures()
    for start in range(_STARTS):
        _by_turns(sizes, figures, watched_first=start % 2 == 1)
    return figures


def _by_turns(sizes: Sizes, figures: Figures, *, watched_first: bool) -> None:
    with prepared([Group(sizes.users)]) as first, prepared([Group(sizes.users)]) as second:
        plain, watched = (second, first) if watched_first else (first, second)
        plain.start_server(TOCSIN_STORE__SEARCH="false")
        watched.start_server()
        for environment in (first, second):
            warm_up(environment, environment.groups[0])
        with _console(watched) as (process, client), _looking(client, "/live"):
            processes = {plain.url: (plain.server,), watched.url: (watched.server, process)}
            loads = [
                (one, load.batches(one, sizes.events, one.groups[0]), processes[one.url]) for one in (first, second)
            ]
            for _ in range(max(1, sizes.rounds // 2)):
                spent = {one.url: _round(one, requests, sizes.events, *own) for one, requests, own in loads}
                figures.add("console_cpu", spent[watched.url] / spent[plain.url])


def _round(environment: Environment, requests: list[bytes], events: int, *processes: Process | None) -> float:
    """The CPU of these processes, in seconds."""

    def spent() -> float:
        return sum(process.cpu_s() for process in processes if process is not None)

    before = spent()
    load.deliver(environment, requests, events)
    time.sleep(_REST_S)
    return spent() - before


def _measure(environment: Environment, figures: Figures, figure: str, attempts: int) -> None:
    asyncio.run(_registered(environment))
    # What is on record is of 2023.
    environment.start_server(TOCSIN_STORE__RETENTION=_FOR_EVER, TOCSIN_STORE__DEAD_LETTER_RETENTION=_FOR_EVER)
    asyncio.run(_indexed(environment, attempts))
    with _console(environment) as (_, client):
        for name, path in _all_paths(client, environment).items():
            for _ in range(_TIMES):
                began = time.perf_counter()
                answer = client.get(path)
                took_ms = (time.perf_counter() - began) * 1000
                assert answer.status_code == 200, (path, answer.status_code)
                figures.add(f"{figure}_ms", took_ms)
                figures.samples.setdefault(name, []).append(took_ms)
    figures.add(f"{figure}_ms_max", max(figures.values[f"{figure}_ms"]))


async def _registered(environment: Environment) -> None:
    """Register a device that pushes of what is on record were sent to, so that its token is found."""
    device = Registration(search.owner_of(search.USERS), "apns", _KNOWN, Address(ApnsAddress(APPLICATION).text()))
    async with open_store(environment.settings) as store:
        await store.registry.add(device, 100)


def _all_paths(client: httpx.Client, environment: Environment) -> dict[str, str]:
    """Those of `paths`; and those that are known only by asking: searches by a token, which no address holds, and
    pages after the first one."""
    found = paths(search.event_id(1000), _job(environment))
    for name, token in {"a token": _KNOWN, "a token of nobody": "e" * 64}.items():
        for page in ("deliveries", "devices"):
            found[f"{page} of {name}"] = _searched(client, f"/{page}", token)
    for name in ("deliveries", "what was refused", "dead letters", "dead letters of a reason"):
        later: str | None = found[name]
        for _ in range(_LATER):
            later = None if later is None else _older(client, later)
        # A short run has no such page.
        if later is not None:
            found[f"{name}, page {_LATER + 1}"] = later
    return found


def _job(environment: Environment) -> str:
    """A bulk action that finds nothing to do."""
    headers = {"authorization": f"Bearer {asyncio.run(_admin_key(environment))}"}
    asked = {"action": "release", "filter": {"account": "nobody"}}
    answer = httpx.post(f"{environment.url}/api/admin/jobs", json=asked, headers=headers, trust_env=False)
    answer.raise_for_status()
    return str(answer.json()["id"])


def _searched(client: httpx.Client, page: str, token: str) -> str:
    """The address of a search by a token."""
    field = {"/deliveries": "device_token", "/devices": "asked"}[page]
    form = {name: value for name, value in _HIDDEN.findall(client.get(page).text) if name == "csrf"}
    answer = client.post(page, data=form | {field: token}, headers={"origin": str(client.base_url).rstrip("/")})
    assert answer.status_code == 303, (page, answer.status_code)
    return answer.headers["location"]


def _older(client: httpx.Client, path: str) -> str | None:
    """The page after this one, where there is one."""
    found = _OLDER.search(client.get(path).text)
    return None if found is None else html.unescape(found[1])


def paths(event: str, job: str) -> dict[str, str]:
    """Every page, and searches of each kind, by a name."""
    known, unknown = search.owner_of(1), UserId("ffffffff-0000-4000-8000-000000000000")
    minute = {"from": "2023-11-14T22:14:00Z", "until": "2023-11-14T22:15:00Z"}
    searches: dict[str, dict[str, Any]] = {
        "deliveries": {},
        "deliveries of a user": {"owner": known},
        "deliveries of nobody": {"owner": unknown},
        "what was refused": {"outcome": "refused"},
        "a rare reason": {"reason": "BadCollapseId"},
        "no such reason": {"reason": "Unheard"},
        "of an application": {"system": "apns", "account": APPLICATION},
        "within a minute": minute,
        "what expired": {"outcome": "expired", "until": "2023-11-14T22:15:00Z"},
    }
    letters: dict[str, dict[str, Any]] = {
        "dead letters": {},
        "dead letters of a reason": {"reason": "BadTopic"},
        "dead letters of a rare reason": {"reason": "BadCollapseId"},
        "dead letters of no such reason": {"reason": "Unheard"},
        "dead letters of an application": {"account": APPLICATION},
        "dead letters within a minute": minute,
    }
    plain = ("/", "/applications", "/quarantine", "/jobs", "/access", "/send")
    return (
        {path: path for path in plain}
        | {name: f"/deliveries?{urlencode(conditions)}" for name, conditions in searches.items()}
        | {name: f"/dead-letters?{urlencode(conditions)}" for name, conditions in letters.items()}
        | {
            "an event": f"/events/{event}",
            "devices of a user": f"/devices?{urlencode({'owner': owner(0)})}",
            "an application": f"/applications/apns/{APPLICATION}",
            "a new credential": "/applications/new/apns",
            "before a removal": f"/applications/apns/{APPLICATION}/remove",
            "a form to send": "/send/fax_new",
            "sessions of a user": f"/access?{urlencode({'owner': owner(0)})}",
            "a job": f"/jobs/{job}",
            "before a replay": "/jobs/new?action=replay&reason=BadTopic",
            "before a restoration": "/jobs/new?action=restore",
        }
    )


async def _indexed(environment: Environment, attempts: int) -> None:
    """Wait until the index of the search has all that is on record."""
    limit_s = max(60.0, attempts / 10_000)
    give_up = time.monotonic() + limit_s
    headers = {"authorization": f"Bearer {await _admin_key(environment)}"}
    async with httpx.AsyncClient(base_url=environment.url, headers=headers, trust_env=False, timeout=60) as client:
        while True:
            answer = await client.post("/api/admin/deliveries/search", json={"limit": 1})
            answer.raise_for_status()
            state = answer.json()["index"]
            if not state["rebuilding"] and not state["waiting_events"]:
                return
            if time.monotonic() > give_up:
                raise RuntimeError(f"the index was not filled within {limit_s:g} s: {state}")
            await asyncio.sleep(1)


async def _admin_key(environment: Environment) -> str:
    async with open_store(environment.settings) as store:
        secret, _ = await store.access.create_key(Role.ADMIN, "benchmark", None)
    return secret


@contextmanager
def _console(environment: Environment) -> Iterator[tuple[Process, httpx.Client]]:
    """A console, and a client that is signed in."""
    with tempfile.TemporaryDirectory() as directory:
        ready = Path(directory) / "ready"
        with (environment.directory / "console.log").open("ab") as log:
            child = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tocsin", "console", "--port", "0"),
                    *("--api", environment.url, "--ready-file", str(ready)),
                ],
                env=child_variables(),
                cwd=directory,
                stdout=log,
                stderr=log,
            )
        try:
            url = address_of(child, ready, environment.directory / "console.log")
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
                form = client.get("/sign-in")
                fields = dict(_HIDDEN.findall(form.text)) | {"key": asyncio.run(_admin_key(environment))}
                signed_in = client.post("/sign-in", data=fields, headers={"origin": str(client.base_url).rstrip("/")})
                assert signed_in.status_code == 303, (signed_in.status_code, signed_in.text[:500])
                yield Process(child), client
        finally:
            child.terminate()
            child.wait(15)


@contextmanager
def _looking(client: httpx.Client, path: str) -> Iterator[None]:
    """Read a page's stream, as a browser that shows it does."""
    over = threading.Event()
    heard: list[int] = []

    def read() -> None:
        with client.stream("GET", path, timeout=httpx.Timeout(10, read=30)) as answer:
            for part in answer.iter_bytes():
                heard.append(len(part))
                if over.is_set():
                    return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join(40)
    assert sum(heard) > 1000, "the stream said nothing"


if __name__ == "__main__":
    from benchmarks import report
    from benchmarks.sizes import FULL

    measures: dict[str, Callable[[Sizes, int | None], Figures]] = {"sqlite": pages, "postgresql": pages_on_postgres}
    measured = measures[sys.argv[1]](FULL, int(sys.argv[2]))
    print(report.table(measured))
    for what, took in measured.samples.items():
        print(f"{what:24}", " ".join(f"{one:8.1f}" for one in took), "ms")
