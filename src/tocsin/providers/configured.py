"""The providers that tocsin ships, as the settings want them. A third one is added here, and in `rules.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tocsin.domain.events import MESSAGES
from tocsin.http2.pool import PoolOptions
from tocsin.providers.apns.channels import ApnsOptions
from tocsin.providers.apns.provider import Apns
from tocsin.providers.base import Context, Provider
from tocsin.providers.fcm.projects import FcmOptions
from tocsin.providers.fcm.provider import Fcm
from tocsin.providers.fcm.token_endpoint import GOOGLE_HOSTS
from tocsin.providers.rules import RuleBook

if TYPE_CHECKING:
    from tocsin.settings import Http2, Settings


class Providers(Mapping[str, Provider]):
    """Providers by name: the one through which each device is reached."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._by_name = {provider.rules.name: provider for provider in providers}
        self.rules = RuleBook(provider.rules for provider in self._by_name.values())

    def __getitem__(self, name: str) -> Provider:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


MakeProviders = Callable[[Context], Providers]


def configured(settings: Settings) -> MakeProviders:
    """Makes the providers, from what they get from outside."""
    return lambda context: Providers([Fcm(fcm_options(settings), context), Apns(apns_options(settings), context)])


def apns_options(settings: Settings) -> ApnsOptions:
    apns = settings.apns
    return ApnsOptions(apns.production_url, apns.sandbox_url, apns.ca_file, _pool_options(apns))


def fcm_options(settings: Settings) -> FcmOptions:
    priority = {message: settings.delivery.priority(message) for message in MESSAGES}
    fcm = settings.fcm
    return FcmOptions(fcm.url, fcm.ca_file, _pool_options(fcm), priority, token_hosts(settings))


def token_hosts(settings: Settings) -> frozenset[str]:
    """Who may be asked for access tokens: Google, whom the settings name, and who gets the tokens in any case."""
    return frozenset((*GOOGLE_HOSTS, *settings.fcm.token_hosts, urlsplit(settings.fcm.url).hostname or ""))


def _pool_options(section: Http2) -> PoolOptions:
    return PoolOptions(
        max_connections=section.max_connections,
        request_timeout_s=section.request_timeout_s,
        connect_timeout_s=section.connect_timeout_s,
        ping_after_s=section.ping_after_s,
        ping_timeout_s=section.ping_timeout_s,
        proxy=section.proxy,
    )
