"""Starts the emulator: its files, its listeners, its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tocsin.emulator.acting import Faults
from tocsin.emulator.apns import ApnsHandler, Apple
from tocsin.emulator.control import ControlHandler
from tocsin.emulator.credentials import TEAM_ID, Files, write_credentials, write_service_account
from tocsin.emulator.faults import Script, load_script
from tocsin.emulator.fcm import FcmHandler
from tocsin.emulator.inbox import Inbox
from tocsin.emulator.journal import FLUSH_EVERY_S, Journal
from tocsin.emulator.listeners import Door, ListenError, Listeners
from tocsin.emulator.oauth import PATH as TOKEN_PATH
from tocsin.emulator.oauth import OAuthHandler, ServiceAccount
from tocsin.emulator.provider_tokens import ProviderTokens, TokenRules
from tocsin.emulator.tally import Tally
from tocsin.http2.server import Exchange, Handler, Reply


class EmulatorOptions(Struct, frozen=True, kw_only=True):
    """How to run.

    `port` 0 takes free ports; else production, sandbox, FCM, OAuth and control listen on `port` and the four above.
    """

    directory: Path
    host: str = "127.0.0.1"
    port: int = 0
    topics: frozenset[str] = frozenset()
    """The only APNs topics that may be pushed to, with Apple's suffixes; empty allows all."""
    inbox_size: int = 20_000
    known_tokens: int = 100_000
    """Of how many APNs device tokens it remembers where they belong."""
    journal: Path | None = None
    journal_bodies: bool = False
    faults: Path | None = None
    """A TOML file with the fault script to start with."""
    max_streams: int = 1000
    start_with_one_stream: bool = False
    """APNs connections start with one stream until a request has succeeded, as Apple's may."""
    token_update_interval_s: float = 0.0
    """How long a connection must stay with one provider token; Apple's is 1200. 0 switches the rule off."""
    access_token_lifetime_s: int = 3600


class EmulatorError(Exception):
    """The emulator cannot start; the message names the reason."""


class Emulator:
    """A running emulator; `summary` is what `emulator.json` holds."""

    def __init__(
        self,
        files: Files,
        summary: dict[str, object],
        inbox: Inbox,
        faults: Faults,
        stats: Callable[[], dict[str, Any]],
    ) -> None:
        self.files = files
        self.summary = summary
        self.inbox = inbox
        self.faults = faults
        self.stats = stats


@asynccontextmanager
async def start(options: EmulatorOptions) -> AsyncIterator[Emulator]:
    """Listen, write the files (`emulator.json` last), and serve until left.

    Raises:
        EmulatorError: a port is taken, a file cannot be written or read.
    """
    try:
        files = write_credentials(options.directory)
        files.summary.unlink(missing_ok=True)
        script = load_script(options.faults.read_text()) if options.faults else Script()
        journal = Journal(options.journal, bodies=options.journal_bodies) if options.journal else None
    except OSError as error:
        raise EmulatorError(f"{error.filename}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise EmulatorError(f"{options.faults}: {error}") from None
    tally = Tally()
    faults = Faults(script)
    inbox = Inbox(options.inbox_size, journal, tally)
    listeners = Listeners(options.host, options.port, files, tally, faults)
    flushing = asyncio.create_task(_keep_flushing(journal)) if journal else None

    def stats() -> dict[str, Any]:
        return tally.as_json() | {"in_inbox": len(inbox), "connections": listeners.connections()}

    try:
        summary = await _listen(options, files, inbox, tally, faults, listeners, stats)
        temporary = files.summary.with_suffix(".json.new")
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
        temporary.replace(files.summary)
        yield Emulator(files, summary, inbox, faults, stats)
    except ListenError as error:
        raise EmulatorError(str(error)) from None
    finally:
        await listeners.close()
        if flushing is not None:
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
        if journal is not None:
            journal.close()


async def serve(options: EmulatorOptions, ready: Callable[[Emulator], None]) -> None:
    """Run as a process of its own, until SIGTERM or SIGINT.

    Raises:
        EmulatorError: as `start`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with start(options) as emulator:
        # What lives now lives on, and a push leaves nothing behind that needs a search: the default thresholds cost a
        # fifth of the time.
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        ready(emulator)
        await stop.wait()


async def _listen(
    options: EmulatorOptions,
    files: Files,
    inbox: Inbox,
    tally: Tally,
    faults: Faults,
    listeners: Listeners,
    stats: Callable[[], dict[str, Any]],
) -> dict[str, object]:
    """Open every door; returns what `emulator.json` says."""
    key_pem = files.apns_key.read_bytes()
    tokens = ProviderTokens(TokenRules(TEAM_ID, files.key_id, key_pem, options.token_update_interval_s), tally)
    one_first = options.start_with_one_stream
    streams = options.max_streams
    after_success = streams if one_first else None
    apple = Apple(TEAM_ID, tokens, inbox, tally, faults, options.topics, after_success, {}, options.known_tokens)
    urls = {}
    for offset, environment in enumerate(("production", "sandbox")):
        door = Door(
            provider="apns",
            environment=environment,
            offset=offset,
            http1=False,
            asks_for_certificate=True,
            first_streams=1 if one_first else streams,
        )
        urls[environment] = await listeners.tls(door, ApnsHandler(environment, apple))
    # The token endpoint's address belongs into the service account before the handler that checks it can exist.
    endpoint = _Late()
    token_uri = await listeners.tls(Door(provider="oauth", offset=3, first_streams=streams), endpoint) + TOKEN_PATH
    write_service_account(files, token_uri)
    account = msgspec.json.decode(files.service_account.read_bytes(), type=ServiceAccount)
    oauth = endpoint.handler = OAuthHandler(account, tally, faults, options.access_token_lifetime_s)
    google = FcmHandler(account.project_id, oauth, inbox, tally, faults)
    fcm = await listeners.tls(Door(provider="fcm", offset=2, first_streams=streams), google)
    control = await listeners.plain(ControlHandler(inbox, faults, stats), 4)
    return {
        "apns": urls,
        "fcm": fcm,
        "token_uri": token_uri,
        "control": control,
        "ca": str(files.ca.resolve()),
        "apns_key": str(files.apns_key.resolve()),
        "key_id": files.key_id,
        "team_id": TEAM_ID,
        "service_account": str(files.service_account.resolve()),
        "project_id": account.project_id,
        "apns_certificate": str(files.certificate.resolve()),
        "apns_certificate_key": str(files.certificate_key.resolve()),
        "apns_certificate_p12": str(files.certificate_p12.resolve()),
    }


class _Late:
    """A handler that is known only once its address is."""

    handler: Handler | None = None

    def __call__(self, exchange: Exchange) -> Reply | None:
        return self.handler(exchange) if self.handler is not None else Reply(503)


async def _keep_flushing(journal: Journal) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            journal.flush()
