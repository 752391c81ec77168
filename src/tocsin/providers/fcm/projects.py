"""Towards Google: each project's connections and access token, and the pushes that wait for its first token."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from tocsin.http2.dial import client_tls
from tocsin.http2.messages import Header
from tocsin.http2.pool import Pool, PoolOptions
from tocsin.providers.base import Context, Push
from tocsin.providers.fcm.access_token import AccessToken
from tocsin.providers.fcm.credentials import ServiceAccount
from tocsin.providers.fcm.oauth import OAuthClient
from tocsin.providers.fcm.token_endpoint import GOOGLE_HOSTS
from tocsin.providers.pools import PushRequest


class FcmOptions(Struct, frozen=True):
    url: str
    ca_file: Path | None
    pool: PoolOptions
    priority: dict[str, str]
    """`android.priority` by event."""
    token_hosts: Collection[str] = GOOGLE_HOSTS
    """Who may be asked for access tokens."""


class FcmRequest(PushRequest, kw_only=True, eq=False, gc=False):
    """`project` is the one that it goes through: it may have been replaced when the answer comes."""

    project: Project


class Project:
    """One project, as long as its service account is in use."""

    def __init__(self, pool: Pool[FcmRequest], access: AccessToken, path: bytes) -> None:
        self.pool = pool
        self.access = access
        self.waiting: list[Push] = []
        """For the first access token."""
        self.getting_ready: asyncio.Task[None] | None = None
        self.replaced = False
        """The service account is no longer in use: what its last answers say of it is no longer true."""
        self.head: list[Header] = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", pool.authority),
            (b":path", path),
        ]


OpenPool = Callable[[str, Callable[[], ssl.SSLContext]], "Pool[FcmRequest]"]


class Projects:
    """All projects, opened when they are first needed."""

    def __init__(self, options: FcmOptions, context: Context, oauth: OAuthClient, open_pool: OpenPool) -> None:
        self._options = options
        self._context = context
        self._oauth = oauth
        self._open_pool = open_pool
        self._accounts: Mapping[str, ServiceAccount] = {}
        self._open: dict[str, Project] = {}
        self._retired: list[Project] = []
        self._tls: ssl.SSLContext | None = None
        self.default = ""
        """The project of devices that name none; empty where there is no project at all."""

    @property
    def accounts(self) -> Mapping[str, ServiceAccount]:
        return self._accounts

    @property
    def pools(self) -> Iterable[Pool[FcmRequest]]:
        return [project.pool for project in self._open.values()]

    def token_age_s(self, name: str) -> float | None:
        """How old the access token of a project is; None where it has none (yet)."""
        project = self._open.get(name)
        return None if project is None else project.access.age_s

    def of(self, name: str) -> Project | None:
        """The project of this name, if there is one."""
        project, account = self._open.get(name), self._accounts.get(name)
        if project is None and account is not None:
            pool = self._open_pool(self._options.url, self._common_tls)
            access = AccessToken(
                account, self._oauth, wall_clock=self._context.wall_clock, monotonic=self._context.monotonic
            )
            project = self._open[name] = Project(pool, access, account.path.encode())
        return project

    def configure(self, accounts: Mapping[str, ServiceAccount], default: str) -> set[str]:
        """Take over the service accounts by project; returns the projects whose account is new, changed or gone."""
        before, self._accounts, self.default = self._accounts, accounts, default
        changed = {name for name, account in accounts.items() if before.get(name) != account}
        changed |= before.keys() - accounts.keys()
        for name in changed & self._open.keys():
            project = self._open.pop(name)
            project.replaced = True
            self._retired.append(project)
            project.pool.wind_up()
            waiting, project.waiting = project.waiting, []
            if waiting:
                self._context.dispatcher.send_anew(waiting)
        self._retired = [project for project in self._retired if project.getting_ready or not project.pool.idle]
        return changed

    async def close(self) -> list[Push]:
        """End every connection; returns the pushes that still waited for an access token."""
        unsent: list[Push] = []
        for project in [*self._open.values(), *self._retired]:
            if project.getting_ready is not None:
                project.getting_ready.cancel()
            await project.access.close()
            await project.pool.close()
            unsent += project.waiting
            project.waiting = []
        await self._oauth.close()
        return unsent

    def _common_tls(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = client_tls(self._options.ca_file)
        return self._tls
