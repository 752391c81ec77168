"""Creates the request handlers, and serves each on its port."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.emulator.apns import ApnsHandler, ApnsService
from tocsin.emulator.control import ControlHandler
from tocsin.emulator.counters import Counters
from tocsin.emulator.credentials import PROJECT_ID, TEAM_ID, Files, write_service_account
from tocsin.emulator.fault_injection import FaultInjector
from tocsin.emulator.fcm import FcmHandler
from tocsin.emulator.inbox import Inbox
from tocsin.emulator.listeners import Endpoint, Listeners
from tocsin.emulator.oauth import PATH as TOKEN_PATH
from tocsin.emulator.oauth import OAuthHandler
from tocsin.emulator.oauth_assertion import ServiceAccount
from tocsin.emulator.options import Clock, EmulatorOptions
from tocsin.emulator.provider_tokens import ProviderTokenOptions, ProviderTokenVerifier
from tocsin.http2.server import Exchange, Handler, Reply

_ENVIRONMENTS: Final = ("production", "sandbox")
_FCM_PORT_OFFSET: Final = 2
_OAUTH_PORT_OFFSET: Final = 3
_CONTROL_PORT_OFFSET: Final = 4


class Parts(Struct, frozen=True, kw_only=True):
    """What the handlers of one emulator share."""

    options: EmulatorOptions
    files: Files
    inbox: Inbox
    counters: Counters
    faults: FaultInjector
    listeners: Listeners
    clock: Clock
    random: Random
    stats: Callable[[], dict[str, Any]]
    """Returns what `GET /stats` shows."""


async def serve_all(parts: Parts) -> dict[str, object]:
    """Serve APNs, OAuth, FCM and the control API; returns the content of `emulator.json`.

    The service account file is written, too, as soon as the address of the token endpoint is known.

    Raises:
        ListenError: a port is not available.
        OSError: a file cannot be read or written.
    """
    apns_urls = await _serve_apns(parts)
    accounts, oauth = await _serve_oauth(parts)
    fcm_url = await _serve_fcm(parts, [account.project_id for account in accounts], oauth)
    control = ControlHandler(parts.inbox, parts.faults, parts.stats)
    control_url = await parts.listeners.serve_control(control, _CONTROL_PORT_OFFSET)
    files, account = parts.files, accounts[0]
    summary: dict[str, object] = {
        "apns": apns_urls,
        "fcm": fcm_url,
        "token_uri": account.token_uri,
        "control": control_url,
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
    if more := parts.options.more_projects:
        summary["more_service_accounts"] = [str(files.service_account_of(project).resolve()) for project in more]
    return summary


async def _serve_apns(parts: Parts) -> dict[str, str]:
    """Serve both environments; returns their URLs."""
    options, files = parts.options, parts.files
    token_options = ProviderTokenOptions(
        TEAM_ID, files.key_id, files.apns_key.read_bytes(), options.token_update_interval_s
    )
    service = ApnsService(
        team_id=TEAM_ID,
        provider_tokens=ProviderTokenVerifier(token_options, parts.counters, parts.clock),
        inbox=parts.inbox,
        counters=parts.counters,
        faults=parts.faults,
        random=parts.random,
        topics=options.topics,
        max_streams_after_success=options.max_streams if options.start_with_one_stream else None,
        bindings={},
        max_bindings=options.known_tokens,
    )
    urls = {}
    for port_offset, environment in enumerate(_ENVIRONMENTS):
        endpoint = Endpoint(
            provider="apns",
            environment=environment,
            port_offset=port_offset,
            http1=False,
            requests_client_certificate=True,
            initial_max_streams=1 if options.start_with_one_stream else options.max_streams,
        )
        urls[environment] = await parts.listeners.serve(endpoint, ApnsHandler(environment, service))
    return urls


async def _serve_oauth(parts: Parts) -> tuple[list[ServiceAccount], OAuthHandler]:
    """Serve the token endpoint, and write each project's service account file with its address."""
    options, files = parts.options, parts.files
    endpoint = Endpoint(provider="oauth", port_offset=_OAUTH_PORT_OFFSET, initial_max_streams=options.max_streams)
    # The handler verifies the address of its endpoint, which is known only after the endpoint is served.
    handler = _DeferredHandler()
    token_uri = await parts.listeners.serve(endpoint, handler) + TOKEN_PATH
    accounts = []
    for project in (PROJECT_ID, *options.more_projects):
        write_service_account(files, token_uri, project)
        accounts.append(msgspec.json.decode(files.service_account_of(project).read_bytes(), type=ServiceAccount))
    oauth = handler.handler = OAuthHandler(
        accounts,
        parts.counters,
        parts.faults,
        options.access_token_lifetime_s,
        clock=parts.clock,
        random=parts.random,
    )
    return accounts, oauth


async def _serve_fcm(parts: Parts, projects: Sequence[str], oauth: OAuthHandler) -> str:
    """Serve FCM; returns its URL."""
    endpoint = Endpoint(
        provider="fcm",
        port_offset=_FCM_PORT_OFFSET,
        initial_max_streams=parts.options.max_streams,
        takes_odd_scheme=True,
    )
    handler = FcmHandler(
        projects, oauth, parts.inbox, parts.counters, parts.faults, clock=parts.clock, random=parts.random
    )
    return await parts.listeners.serve(endpoint, handler)


class _DeferredHandler:
    """Passes requests on to a handler that is set later; until then the answer is 503."""

    handler: Handler | None = None

    def __call__(self, exchange: Exchange) -> Reply | None:
        return self.handler(exchange) if self.handler is not None else Reply(503)
