"""Starts the emulator: its listeners, its files, its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from tocsin.emulator.apns import ApnsHandler, ApnsRules
from tocsin.emulator.control import ControlHandler
from tocsin.emulator.credentials import PROJECT_ID, TEAM_ID, Files, write_credentials, write_service_account
from tocsin.emulator.faults import Faults, Script, load_script
from tocsin.emulator.fcm import FcmHandler
from tocsin.emulator.inbox import Inbox
from tocsin.emulator.oauth import OAuthHandler, ServiceAccount
from tocsin.http2.http1 import Http1Connection
from tocsin.http2.server import Handler, ServerConnection, Switch

_JOURNAL_EVERY_S = 0.1


class EmulatorOptions(Struct, frozen=True, kw_only=True):
    """`port` 0 takes free ports; else production, sandbox, FCM, OAuth and control listen on `port` and the four above."""

    directory: Path
    host: str = "127.0.0.1"
    port: int = 0
    topics: frozenset[str] = frozenset()
    inbox_size: int = 20_000
    journal: Path | None = None
    journal_bodies: bool = False
    faults: Path | None = None
    max_streams: int = 1000
    start_with_one_stream: bool = False
    """Connections start with one stream until a request has succeeded, as Apple's may."""
    token_update_interval_s: float = 0.0
    access_token_lifetime_s: int = 3600


class EmulatorError(Exception):
    """The emulator cannot start; the message names the reason."""


class Emulator:
    """A running emulator; `summary` is what `emulator.json` holds."""

    def __init__(self, files: Files, summary: dict[str, object], inbox: Inbox, faults: Faults) -> None:
        self.files = files
        self.summary = summary
        self.inbox = inbox
        self.faults = faults


@asynccontextmanager
async def start(options: EmulatorOptions) -> AsyncIterator[Emulator]:
    """Listen, write the files (`emulator.json` last), and serve until left.

    Raises:
        EmulatorError: a port is taken, a file cannot be written or read.
    """
    try:
        files = write_credentials(options.directory)
        script = load_script(options.faults.read_text()) if options.faults else Script()
        inbox = Inbox(options.inbox_size, options.journal, journal_bodies=options.journal_bodies)
    except OSError as error:
        raise EmulatorError(f"{error.filename}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise EmulatorError(f"{options.faults}: {error}") from None
    faults = Faults(script)
    servers = _Servers(options, files, faults)
    flushing = asyncio.create_task(_keep_flushing(inbox))
    try:
        summary = await _listen(options, files, inbox, faults, servers)
        temporary = files.summary.with_suffix(".json.new")
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
        temporary.replace(files.summary)
        yield Emulator(files, summary, inbox, faults)
    finally:
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
        servers.close()
        inbox.close()


async def serve(options: EmulatorOptions, ready: Callable[[Emulator], None]) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with start(options) as emulator:
        ready(emulator)
        await stop.wait()


async def _listen(
    options: EmulatorOptions, files: Files, inbox: Inbox, faults: Faults, servers: _Servers
) -> dict[str, object]:
    bound: dict[bytes, tuple[str, bytes]] = {}
    rules = ApnsRules(
        TEAM_ID, files.key_id, files.apns_key.read_bytes(), options.topics, options.token_update_interval_s
    )
    full = options.max_streams if options.start_with_one_stream else None
    urls = {}
    for offset, environment in enumerate(("production", "sandbox")):
        handler = ApnsHandler(environment, rules, inbox, faults, bound, full)
        urls[environment] = await servers.tls(handler, offset, h1=False)
    # The token endpoint's address belongs into the service account before the handlers that check it exist.
    endpoint = _Late()
    token_uri = await servers.tls(endpoint, 3, h1=True) + "/token"
    write_service_account(files, token_uri)
    account = msgspec.json.decode(files.service_account.read_bytes(), type=ServiceAccount)
    oauth = OAuthHandler(account, inbox, faults, options.access_token_lifetime_s)
    endpoint.handler = oauth
    fcm = await servers.tls(FcmHandler(account.project_id, oauth, inbox, faults), 2, h1=True)
    control = await servers.plain(ControlHandler(inbox, faults), 4)
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
        "project_id": PROJECT_ID,
        "apns_certificate": str(files.certificate.resolve()),
        "apns_certificate_key": str(files.certificate_key.resolve()),
        "apns_certificate_p12": str(files.certificate_p12.resolve()),
    }


class _Late:
    """A handler that is known only once its address is."""

    handler: Handler

    def __call__(self, exchange: object) -> object:
        return self.handler(exchange)  # type: ignore[arg-type]


class _Servers:
    def __init__(self, options: EmulatorOptions, files: Files, faults: Faults) -> None:
        self._options = options
        self._faults = faults
        self._listening: list[asyncio.Server] = []
        self._files = files

    async def tls(self, handler: object, offset: int, *, h1: bool) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._files.server)
        context.set_alpn_protocols(["h2", "http/1.1"] if h1 else ["h2"])
        if not h1:
            # Apple asks for a client certificate, and takes a provider token in its place.
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(self._files.ca)
        streams = 1 if self._options.start_with_one_stream and not h1 else self._options.max_streams
        handle: Handler = handler  # type: ignore[assignment]

        def choose(alpn: str | None, certificate: bytes | None) -> asyncio.Protocol | None:
            if self._faults.script.tls_fail:
                return None
            if alpn == "h2":
                return ServerConnection(handle, max_streams=streams, client_certificate=certificate)
            return Http1Connection(handle) if h1 else None

        return "https://localhost:%d" % await self._start(lambda: Switch(choose), offset, context)

    async def plain(self, handler: Handler, offset: int) -> str:
        port = await self._start(lambda: Http1Connection(handler), offset, None)
        return f"http://{self._options.host}:{port}"

    async def _start(self, factory: Callable[[], asyncio.Protocol], offset: int, context: ssl.SSLContext | None) -> int:
        port = self._options.port + offset if self._options.port else 0
        try:
            server = await asyncio.get_running_loop().create_server(
                factory, self._options.host, port, ssl=context, backlog=1024
            )
        except OSError as error:
            raise EmulatorError(f"{self._options.host}:{port}: cannot listen: {error.strerror}") from None
        self._listening.append(server)
        number: int = server.sockets[0].getsockname()[1]
        return number

    def close(self) -> None:
        for server in self._listening:
            server.close()


async def _keep_flushing(inbox: Inbox) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(_JOURNAL_EVERY_S)
            inbox.flush()
