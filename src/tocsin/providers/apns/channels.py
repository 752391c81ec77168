"""Towards Apple: one channel (connections, and how requests on them are signed) per credential and environment."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from tocsin.domain.routes import Route
from tocsin.http2.dial import client_tls
from tocsin.http2.pool import Pool, PoolOptions
from tocsin.providers.apns.address import SANDBOX, team_id
from tocsin.providers.apns.credentials import ApnsCredential, certificate_tls
from tocsin.providers.apns.provider_token import ProviderToken
from tocsin.providers.apns.routes import lane_name
from tocsin.providers.base import Context, CredentialError

if TYPE_CHECKING:
    from tocsin.providers.apns.requests import ApnsRequest


class ApnsOptions(Struct, frozen=True):
    production_url: str
    sandbox_url: str
    ca_file: Path | None
    pool: PoolOptions


class Channel:
    """One credential towards one environment."""

    def __init__(self, pool: Pool[ApnsRequest], token: ProviderToken | None) -> None:
        self.pool = pool
        self.token = token

    def authorization(self) -> bytes | None:
        """The header's value; None where a certificate speaks for the connection."""
        return None if self.token is None else self.token.header()


OpenPool = Callable[[str, Callable[[], ssl.SSLContext]], "Pool[ApnsRequest]"]


class Channels:
    """The channels of all credentials, opened when they are first needed. Applications of one key share theirs."""

    def __init__(self, options: ApnsOptions, context: Context, open_pool: OpenPool) -> None:
        self._options = options
        self._context = context
        self._open_pool = open_pool
        self._credentials: Mapping[str, ApnsCredential] = {}
        self._channels: dict[tuple[bool, str], Channel] = {}
        self._tokens: dict[tuple[str, str, str], ProviderToken] = {}
        self._tls: ssl.SSLContext | None = None
        self._retired: list[Pool[ApnsRequest]] = []

    def of(self, application_id: str, sandbox: bool) -> Channel:
        """The channel of an application.

        Raises:
            CredentialError: there is no credential, or it cannot be used.
        """
        credential = self._credentials.get(application_id)
        if credential is None or credential.kind == "none":
            raise CredentialError(f"application {application_id} is not registered; add it with `tocsin app add`")
        key = (sandbox, credential.identity(application_id))
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = self._open(application_id, credential, sandbox)
        return channel

    def configure(self, credentials: Mapping[str, ApnsCredential]) -> set[str]:
        """Take over the credentials by application; returns those whose credential is new, changed or gone."""
        before, self._credentials = self._credentials, credentials
        changed = {id for id, credential in credentials.items() if before.get(id) != credential}
        changed |= before.keys() - credentials.keys()
        if changed:
            self._retire_unused()
        for id in changed & before.keys():
            self._take_back(id, before[id].identity(id))
        return changed

    def serves(self, channel: Channel, route: Route) -> bool:
        """Whether the route's application uses this channel still: where it does not, its credential was replaced, and
        what the last answers say of the old one is no longer true of it."""
        credential = self._credentials.get(route.account)
        if credential is None:
            return False
        return self._channels.get((route.environment == SANDBOX, credential.identity(route.account))) is channel

    def applications_with_the_key_of(self, application_id: str) -> list[str]:
        own = self._credentials.get(application_id)
        if own is None:
            return [application_id]
        identity = own.identity(application_id)
        return [id for id, credential in self._credentials.items() if credential.identity(id) == identity]

    @property
    def credentials(self) -> Mapping[str, ApnsCredential]:
        return self._credentials

    @property
    def pools(self) -> Iterable[Pool[ApnsRequest]]:
        return [channel.pool for channel in self._channels.values()]

    def token_age_s(self, application_id: str) -> float | None:
        """How old the provider token of an application is; None where it has none (yet)."""
        credential = self._credentials[application_id]
        if credential.key_pem is None or credential.key_id is None:
            return None
        token = self._tokens.get((credential.key_pem, credential.key_id, team_id(application_id)))
        return token.age_s if token is not None and token.is_in_use else None

    async def close(self) -> None:
        for pool in [*self.pools, *self._retired]:
            await pool.close()

    def _retire_unused(self) -> None:
        wanted = {credential.identity(id) for id, credential in self._credentials.items()}
        for key in [key for key in self._channels if key[1] not in wanted]:
            channel = self._channels.pop(key)
            self._retired.append(channel.pool)
            channel.pool.wind_up()
        self._retired = [pool for pool in self._retired if not pool.idle]
        tokens = {channel.token for channel in self._channels.values()}
        self._tokens = {identity: token for identity, token in self._tokens.items() if token in tokens}

    def _take_back(self, application_id: str, identity: str) -> None:
        """What waits in the channels that an application has used, and others use still, is sent by its new ones."""
        for sandbox in (False, True):
            if (channel := self._channels.get((sandbox, identity))) is not None:
                channel.pool.take_back(lane_name(application_id, sandbox))

    def _open(self, application_id: str, credential: ApnsCredential, sandbox: bool) -> Channel:
        options = self._options
        token: ProviderToken | None = None
        if credential.certificate_pem is not None:
            own_tls = certificate_tls(credential.certificate_pem, options.ca_file)
        else:
            own_tls = self._common_tls()
            assert credential.key_pem is not None
            assert credential.key_id is not None
            identity = (credential.key_pem, credential.key_id, team_id(application_id))
            token = self._tokens.get(identity)
            if token is None:
                token = self._tokens[identity] = ProviderToken(
                    *identity, wall_clock=self._context.wall_clock, monotonic=self._context.monotonic
                )
        url = options.sandbox_url if sandbox else options.production_url
        return Channel(self._open_pool(url, lambda: own_tls), token)

    def _common_tls(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = client_tls(self._options.ca_file)
        return self._tls
