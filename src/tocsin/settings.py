"""All settings, with their defaults: one TOML file, overridden by `TOCSIN_…` in the environment.

`TOCSIN_SERVER__PORT=9000` is `port` in the section `[server]`. An unknown key is refused by name, wherever it stands.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from tocsin.domain.events import MESSAGES, URGENT
from tocsin.variables import ENV_PREFIX, SettingsError, settings_in

__all__ = ["ENV_PREFIX", "Settings", "SettingsError", "load", "with_store"]

_LARGEST_FILE_BYTES: Final = 1024 * 1024
_LONGEST: Final = timedelta(days=36_500)
_ORIGIN: Final = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_HOST_AND_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[!-9;-~]+):([0-9]{1,5})")
_SUBJECT: Final = re.compile(r"([A-Za-z0-9_$/=+~-]+|\*)(\.([A-Za-z0-9_$/=+~-]+|\*))*(\.>)?|>")
_SQLITE: Final = "sqlite:"
_POSTGRES: Final = "postgresql://"
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def _https_url(url: str) -> str:
    if not _is_address(url, "https"):
        raise ValueError("must be an https:// URL of a host, with or without a port")
    return url.rstrip("/")


def _endpoint_url(url: str) -> str:
    if not _is_address(url, "https") or "@" in url or "#" in url:
        raise ValueError("must be an https:// URL, without user and password")
    return url


def _proxy_url(url: str) -> str:
    if not _is_address(url, "http"):
        raise ValueError("must be http://[user:password@]host:port")
    return url


def _is_address(url: str, scheme: str) -> bool:
    """Whether it is a URL of this scheme with a host, and a port that can be (or none)."""
    try:
        parts = urlsplit(url)
        return (
            url.isascii() and url.isprintable() and parts.scheme == scheme and bool(parts.hostname) and parts.port != 0
        )
    except ValueError:  # from the port, or an IPv6 address
        return False


def _nats_url(url: str) -> str:
    if not (_is_address(url, "nats") or _is_address(url, "tls")) or "@" in url:
        raise ValueError("must be nats://host:port or tls://host:port, without user and password")
    return url


def _subject(text: str) -> str:
    if not _SUBJECT.fullmatch(text):
        raise ValueError("must be a subject of NATS, as events.normal or events.* or events.>")
    return text


def _plain_subject(text: str) -> str:
    if "*" in text or ">" in text:
        raise ValueError("must be one subject, without * and >")
    return _subject(text)


def subjects_overlap(one: str, other: str) -> bool:
    """Whether some subject matches both filters (NATS, "Subject-Based Messaging": `*` is a token, `>` the rest)."""
    tokens, others = one.split("."), other.split(".")
    for token, against in zip(tokens, others, strict=False):
        if ">" in (token, against):
            return True
        if token != against and "*" not in (token, against):
            return False
    return len(tokens) == len(others)


def _http_url(url: str) -> str:
    if not (_is_address(url, "https") or _is_address(url, "http")) or "@" in url or urlsplit(url).path.strip("/"):
        raise ValueError("must be a http:// or https:// URL of a host, with or without a port")
    return url.rstrip("/")


def _otlp_url(url: str) -> str:
    parts = urlsplit(url)
    address = f"{parts.scheme}://{parts.netloc}"
    if not (_is_address(address, "https") or _is_address(address, "http")) or "@" in url or parts.query:
        raise ValueError(
            "must be a http:// or https:// URL with the path for traces, as http://127.0.0.1:4318/v1/traces"
        )
    return url


def _origin(text: str) -> str:
    """As a browser sends it: without the port that the scheme has anyway (RFC 6454, 6.2)."""
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise ValueError("must be an origin, as https://app.example.com or http://localhost:3000, without a path")
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" + (port if port and port != _DEFAULT_PORTS[scheme] else "")


def _network(given: object) -> IPv4Network | IPv6Network:
    """Said here in one sentence: a union has a message of its own for each of its types."""
    if isinstance(given, IPv4Network | IPv6Network):
        return given
    rule = "must be an address or a network, as 10.0.0.7 or 10.0.0.0/8"
    try:
        network = ip_network(str(given), strict=False)
    except ValueError:
        raise ValueError(rule) from None
    try:
        return ip_network(str(given))
    except ValueError:
        behind = f"/{network.prefixlen}"
        raise ValueError(f"{rule}; {given} has bits set behind the {behind}: the network is {network}") from None


def _host_and_port(text: str) -> str:
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None or int(found[2]) > 65535:
        raise ValueError("must be host:port, as 127.0.0.1:9090 or [::1]:9090")
    return text


def _every_event(values: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(values) - set(MESSAGES)):
        raise ValueError(f"unknown event {unknown[0]!r}; one of {', '.join(MESSAGES)}")
    return values


def _file_name(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("must not contain a NUL character")
    return path


def _store_file(path: Path) -> Path:
    if path == Path():
        raise ValueError("must name a file")
    if path.name.startswith(":memory:"):
        raise ValueError("must name a file: a store in memory would lose what was accepted")
    return _file_name(path)


def _store_url(url: str) -> str:
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        return url
    if not (url.startswith(_POSTGRES) and url.isprintable() and "@" in url.removeprefix(_POSTGRES).partition("/")[0]):
        raise ValueError("must be sqlite:FILE, or postgresql://user@host[:port][,host…]/database")
    if ":" in url.removeprefix(_POSTGRES).partition("@")[0]:
        raise ValueError("must not hold the password; name a file with it as store.password_file")
    return url


EndpointUrl = Annotated[str, AfterValidator(_endpoint_url)]
HttpsUrl = Annotated[str, AfterValidator(_https_url)]
Seconds = Annotated[float, Field(gt=0, le=_LONGEST.total_seconds(), allow_inf_nan=False)]
Duration = Annotated[timedelta, Field(gt=timedelta(), le=_LONGEST)]
Positive = Annotated[int, Field(gt=0, lt=2**63)]
FileName = Annotated[Path, AfterValidator(_file_name)]
Name = Annotated[str, Field(min_length=1)]
NatsName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,255}$")]
NatsUrl = Annotated[str, AfterValidator(_nats_url)]
Subject = Annotated[str, AfterValidator(_subject)]
PlainSubject = Annotated[str, AfterValidator(_plain_subject)]
SignatureAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(Section):
    host: Annotated[str, Field(min_length=1, pattern=r"^[!-~]+$")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    drain_s: Seconds = 8.0
    """How long a stop waits for what is in flight; what is left goes back to the queue."""
    max_connections: Positive = 4096
    max_connections_per_address: Positive = 256
    """Only where it is known whose address it is: see `trusted_proxies`."""
    request_timeout_s: Seconds = 20.0
    """How long a client may take to send one request, headers and body."""
    trusted_proxies: tuple[Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)], ...] | None = None
    """The networks of the proxies in front, whose word on the client's address counts. Empty: clients come directly.
    None: nobody has said so, and there are no limits by address."""
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    """In which header they say it."""
    tls_certificate: FileName | None = None
    """The server's certificate and those between it and its authority (PEM); with it the API speaks TLS."""
    tls_key: FileName | None = None

    private_host: Annotated[str, AfterValidator(_host_and_port)] | None = None
    """Another address (host:port) to listen on, for health with its details and for metrics: there without a key."""

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Server:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together; set both or none")
        return self

    @property
    def private_address(self) -> tuple[str, int] | None:
        """Host and port of `private_host`."""
        if self.private_host is None:
            return None
        host, _, port = self.private_host.rpartition(":")
        return host.strip("[]"), int(port)


class PushApi(Section):
    convention: Literal["document", "platform"] = "document"
    max_tokens_per_user: Positive = 100
    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    """Whose pages may use the cookie `sid`, besides those of the API's own address."""


class Limits(Section):
    """How often one caller may call this server; 0: no limit. Those by address count only where
    `server.trusted_proxies` is set."""

    user_per_minute: Annotated[int, Field(ge=0, le=10**9)] = 600
    key_per_s: Annotated[int, Field(ge=0, le=10**9)] = 5000
    """Requests. A key may have a rate of its own besides, of events."""
    address_per_s: Annotated[int, Field(ge=0, le=10**9)] = 200
    """Requests without a valid key."""
    wrong_secrets_per_minute: Annotated[int, Field(ge=0, le=10**9)] = 300
    """Wrong keys and sessions from one address."""


class Sessions(Section):
    """Sign-in that a platform already has, besides tocsin's own sessions: JWTs, introspection, or both."""

    issuer: Name | None = None
    audiences: tuple[Name, ...] = ()
    user_claim: Name = "sub"
    """The claim with the user's UUID."""
    leeway_s: Annotated[float, Field(ge=0, le=300)] = 30.0
    algorithms: Annotated[tuple[SignatureAlgorithm, ...], Field(min_length=1)] = ("RS256",)
    """Those with a shared secret (HS256) are not among them: a public key could be taken for one."""
    jwks_url: EndpointUrl | None = None
    jwks_file: FileName | None = None
    jwks_refresh_s: Annotated[Seconds, Field(ge=1)] = 300.0
    jwks_valid_s: Seconds = 86_400.0
    """How long the keys count after they were last read."""
    introspection_url: EndpointUrl | None = None
    introspection_client_id: Name | None = None
    introspection_client_secret: Annotated[SecretStr, Field(min_length=1)] | None = None
    introspection_client_secret_file: FileName | None = None
    cache_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    refused_cache_s: Annotated[float, Field(ge=0, le=3600)] = 5.0
    cache_entries: Annotated[int, Field(gt=0, le=1_000_000)] = 10_000
    ca_file: FileName | None = None
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """For a whole exchange with the issuer or the sign-in service."""

    @property
    def keys_from(self) -> str | Path | None:
        """The URL or the file with the issuer's keys; None where JWTs are not accepted."""
        return self.jwks_url or self.jwks_file

    @model_validator(mode="after")
    def _complete(self) -> Sessions:
        if self.jwks_url is not None and self.jwks_file is not None:
            raise ValueError("jwks_url and jwks_file are both set; keep one of them")
        if self.keys_from is not None and (self.issuer is None or not self.audiences):
            raise ValueError("jwks_url and jwks_file need issuer and audiences: what a token's iss and aud must be")
        if self.keys_from is None and self.introspection_url is None and (self.issuer or self.audiences):
            raise ValueError("issuer and audiences need jwks_url, jwks_file or introspection_url")
        secrets = (self.introspection_client_secret, self.introspection_client_secret_file)
        client = (self.introspection_client_id, *secrets)
        if self.introspection_url is None and any(part is not None for part in client):
            raise ValueError("introspection_client_… needs introspection_url")
        if self.introspection_url is not None and (
            self.introspection_client_id is None or sum(secret is not None for secret in secrets) != 1
        ):
            raise ValueError(
                "introspection_url needs introspection_client_id, and one of introspection_client_secret"
                " and introspection_client_secret_file"
            )
        if self.jwks_valid_s <= self.jwks_refresh_s:
            raise ValueError("jwks_valid_s must be longer than jwks_refresh_s")
        if self.refused_cache_s > self.cache_s:
            raise ValueError("refused_cache_s must not be longer than cache_s")
        return self


class Ingest(Section):
    max_events: Positive = 10_000
    max_bytes: Positive = 8 * 1024 * 1024


class Nats(Section):
    """A NATS JetStream stream from which events are taken."""

    servers: Annotated[tuple[NatsUrl, ...], Field(min_length=1)]
    stream: NatsName
    subjects: Annotated[tuple[Subject, ...], Field(min_length=1)]
    """What the consumer `consumer` takes of the stream."""
    urgent_subjects: tuple[Subject, ...] = ()
    """What `urgent_consumer` takes: it never waits behind the others."""
    refusals_subject: PlainSubject
    """Where what is refused goes, with the reason; a stream must hold it."""
    consumer: NatsName = "tocsin"
    urgent_consumer: NatsName = "tocsin-urgent"
    user: Name | None = None
    password_file: FileName | None = None
    nkey_file: FileName | None = None
    """The seed of an NKey."""
    credentials_file: FileName | None = None
    """A user's JWT and NKey, as `nsc` makes it."""
    ca_file: FileName | None = None
    """Who may have signed the servers' certificates; the system's authorities where absent."""
    certificate_file: FileName | None = None
    """Our own, for servers that ask for one."""
    private_key_file: FileName | None = None
    batch: Annotated[int, Field(gt=0, le=10_000)] = 500
    """Messages that are asked for at a time."""
    ack_wait_s: Annotated[Seconds, Field(ge=5)] = 60.0
    """After so long without an acknowledgement a message is delivered again."""

    @model_validator(mode="after")
    def _complete(self) -> Nats:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file belong together; set both or neither")
        ways = [name for name in ("user", "nkey_file", "credentials_file") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are set; keep one way to sign in")
        if (self.certificate_file is None) != (self.private_key_file is None):
            raise ValueError("certificate_file and private_key_file belong together; set both or neither")
        if self.consumer == self.urgent_consumer:
            raise ValueError("consumer and urgent_consumer must have different names")
        for key, filters in (("subjects", self.subjects), ("urgent_subjects", self.urgent_subjects)):
            taken = next((one for one in filters if subjects_overlap(one, self.refusals_subject)), None)
            if taken is not None:
                raise ValueError(f"refusals_subject is within {key} ({taken}): what was refused would come back")
        for urgent in self.urgent_subjects:
            if any(subjects_overlap(urgent, one) for one in self.subjects):
                raise ValueError(
                    f"urgent_subjects and subjects overlap ({urgent}): each message must have one consumer"
                )
        return self


class Sources(Section):
    """From where events are taken beside `POST /api/events`."""

    nats: Nats | None = None


class Store(Section):
    url: Annotated[str, AfterValidator(_store_url)] | None = None
    """Where the store is: `sqlite:FILE`, which is the same as `path`, or `postgresql://user@host,host/database`."""
    path: Annotated[Path, AfterValidator(_store_file)] = Path("var/tocsin.db")
    """The file of a store on SQLite."""
    session_url: Annotated[str, AfterValidator(_store_url)] | None = None
    """Where PgBouncer stands behind `url`: the way past it, for locks and notifications."""
    password_file: FileName | None = None
    """With the password of PostgreSQL's user."""
    connections: Annotated[int, Field(ge=2, le=1000)] = 8
    """Connections of one process to PostgreSQL, beside the one that holds its locks."""
    max_backlog_events: Positive = 5_000_000
    max_backlog_bytes: Positive = 8 * 1024**3
    retention: Duration = timedelta(days=7)
    """How long delivered events and their receipts are kept, from when the last device had its outcome. Never less than
    the 24 hours of idempotency."""
    dead_letter_retention: Duration = timedelta(days=30)
    """How long dead letters are kept, with their content, unless they are replayed or discarded before."""
    search: bool = True
    """Whether deliveries can be searched: it takes an index beside the store, which is filled in the background."""
    history: Duration = timedelta(days=30)
    """How long removed device tokens can be explained and restored."""

    @property
    def is_postgres(self) -> bool:
        return self.url is not None and self.url.startswith(_POSTGRES)

    @property
    def direct_url(self) -> str:
        """The way to PostgreSQL that no PgBouncer stands in."""
        assert self.url is not None
        return self.session_url or self.url

    @model_validator(mode="before")
    @classmethod
    def _file_of_url(cls, values: Any) -> Any:
        """`sqlite:FILE` is another way to write `path`."""
        url = values.get("url") if isinstance(values, dict) else None
        if not isinstance(url, str):
            return values
        if "path" in values:
            raise ValueError("url and path are both set; keep url")
        if url.startswith(_SQLITE):
            return {**values, "path": url.removeprefix(_SQLITE)}
        return values

    @model_validator(mode="after")
    def _of_postgres(self) -> Store:
        if not self.is_postgres:
            for name in ("session_url", "password_file"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs a url of PostgreSQL")
        return self


class Audit(Section):
    """The log of who has changed what."""

    retention: Duration = timedelta(days=365)
    """How long its entries are kept."""
    registrations: bool = False
    """Whether it also tells of the device tokens that users register themselves, not only of those they delete."""
    chain: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[!-~]+$")] | None = None
    """The name of this node's chain; without it `main`, and on PostgreSQL the name of the host."""


class Secrets(Section):
    """Where the master keys come from that encrypt the credentials in the store: one of these. Without any: systemd's
    credential `tocsin-master-key`, else a file beside the store, which the first start makes."""

    key_file: Path | None = None
    key_command: Annotated[list[str], Field(min_length=1)] | None = None
    """Program and arguments; it prints the keys."""
    key: SecretStr | None = None
    """The keys themselves, for the environment: `TOCSIN_SECRETS__KEY`."""

    @model_validator(mode="after")
    def _one_place(self) -> Secrets:
        if sum(place is not None for place in (self.key_file, self.key_command, self.key)) > 1:
            raise ValueError("only one of key_file, key_command and key may be set")
        return self


class Delivery(Section):
    lease_s: Seconds = 120.0
    lane_in_flight: Positive = 4000
    """Deliveries that one lane may have on the wire at once."""
    lane_waiting: Positive = 8000
    """Deliveries that one lane may hold in memory, on top of those on the wire; the rest wait in the queue."""
    lifetimes: Annotated[dict[str, Duration], AfterValidator(_every_event)] = Field(default_factory=dict)
    fcm_priority: Annotated[dict[str, Literal["HIGH", "NORMAL"]], AfterValidator(_every_event)] = Field(
        default_factory=dict
    )

    def lifetime(self, message: str) -> timedelta:
        """How long an event is worth delivering: a call in progress 60 seconds, everything else 28 days."""
        default = timedelta(seconds=60) if message in URGENT else timedelta(days=28)
        return self.lifetimes.get(message, default)

    def priority(self, message: str) -> str:
        return self.fcm_priority.get(message, "HIGH")


class Http2(Section):
    """What all providers' connections have in common."""

    ca_file: FileName | None = None
    """Who may have signed the provider's certificate; the system's authorities where absent."""
    proxy: Annotated[str, AfterValidator(_proxy_url)] | None = None
    """HTTP CONNECT proxy, `http://user:password@host:port`."""
    max_connections: Positive = 8
    request_timeout_s: Seconds = 30.0
    connect_timeout_s: Seconds = 10.0
    ping_after_s: Seconds = 60.0
    ping_timeout_s: Seconds = 10.0


class Apns(Http2):
    production_url: HttpsUrl = "https://api.push.apple.com"
    sandbox_url: HttpsUrl = "https://api.sandbox.push.apple.com"


class Fcm(Http2):
    url: HttpsUrl = "https://fcm.googleapis.com"
    token_hosts: tuple[str, ...] = ()
    """Hosts besides Google's, and that of `url`, that a service account may name as its `token_uri`."""


class Console(Section):
    """The operator's pages: `tocsin console`, a process of its own."""

    host: Annotated[str, Field(min_length=1, pattern=r"^[!-~]+$")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8090
    api_url: Annotated[str, AfterValidator(_http_url)] = "http://127.0.0.1:8080"
    """Where the server's admin API is."""
    api_ca_file: FileName | None = None
    """Who may have signed the API's certificate; the system's authorities where absent."""
    public_url: Annotated[str, AfterValidator(_http_url), AfterValidator(_origin)] | None = None
    """Where browsers find the console, if that is not its own address: behind a proxy that speaks TLS. As a browser
    sends it in `Origin`, with which it is compared."""
    session_idle: Duration = timedelta(hours=8)
    """Who did nothing for so long must sign in again."""


class Tracing(Section):
    """Spans by OTLP over HTTP (OpenTelemetry)."""

    endpoint: Annotated[str, AfterValidator(_otlp_url)] | None = None
    """Where spans go, `http://127.0.0.1:4318/v1/traces`; without it there is no tracing."""
    ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Of the events whose producer does not say whether they are traced, so many are."""
    ca_file: FileName | None = None
    """Who may have signed the certificate of `endpoint`; the system's authorities where absent."""


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, secrets_dir=None
    )

    server: Server = Server()
    push_api: PushApi = PushApi()
    limits: Limits = Limits()
    sessions: Sessions = Sessions()
    ingest: Ingest = Ingest()
    sources: Sources = Sources()
    store: Store = Store()
    audit: Audit = Audit()
    secrets: Secrets = Secrets()
    delivery: Delivery = Delivery()
    apns: Apns = Apns()
    fcm: Fcm = Fcm()
    console: Console = Console()
    tracing: Tracing = Tracing()
    log: Log = Log()

    @model_validator(mode="after")
    def _lease_outlives_attempts(self) -> Settings:
        """A delivery goes out only while its lease will still stand when the attempt ends, however it ends."""
        least_s = 2 * max(self.apns.request_timeout_s, self.fcm.request_timeout_s) + 10
        if self.delivery.lease_s < least_s:
            raise ValueError(
                f"delivery.lease_s is {self.delivery.lease_s:g}: at least {least_s:g} is needed,"
                " twice the longer request_timeout_s and ten seconds"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load` merges the environment into them: the one that it is given, not always the process's own.
        return (init_settings,)


def load(file: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from `file` (none: the defaults), overridden by `environ` (none: the process's environment).

    Raises:
        SettingsError: the file cannot be read, or a key is unknown or has a wrong value.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            with file.open("rb") as opened:
                content = opened.read(_LARGEST_FILE_BYTES + 1)
            if len(content) > _LARGEST_FILE_BYTES:
                raise SettingsError(f"{file}: larger than {_LARGEST_FILE_BYTES} bytes; name another with --config")
            values = tomllib.loads(content.decode())
        except OSError as error:
            raise SettingsError(f"{file}: {error.strerror}; name another with --config") from None
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{file}: not valid TOML: {error}") from None
    environ = os.environ if environ is None else environ
    variables = settings_in(environ, Settings)
    try:
        return Settings(**_overridden(values, _from_environment(environ)))
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(file, variables, problem) for problem in error.errors())) from None


def with_store(settings: Settings, url: str) -> Settings:
    """The same settings for the store at `url`.

    Raises:
        SettingsError: it is not a URL of a store; the message says why, without the URL, which may hold a password.
    """
    of_another = {"url", "path"} | ({"session_url", "password_file"} if url.startswith(_SQLITE) else set())
    kept = settings.store.model_dump(exclude_unset=True, exclude=of_another)
    try:
        return settings.model_copy(update={"store": Store(**kept, url=url)})
    except ValidationError as error:
        raise SettingsError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The values of its `TOCSIN_…`, by section and key."""
    source = EnvSettingsSource(Settings)
    # It has looked into the process's own environment; names are compared in lower case.
    source.env_vars = {name.lower(): value for name, value in environ.items()}
    return source()


def _overridden(values: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """Both, section by section; where both have a value, that of `by`."""
    merged = dict(values)
    for key, value in by.items():
        before = merged.get(key)
        merged[key] = _overridden(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _explain(file: Path | None, variables: Mapping[str, str], problem: Any) -> str:
    """The message for one problem: it names the variable, or the file and the key in it."""
    path = [str(part) for part in problem["loc"]]
    what = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
    told = ": ".join([".".join(path), what] if path else [what])
    for name, variable in variables.items():
        # A variable may hold more than the value (lifetimes), or a part of it (lifetimes__fax_new).
        set_by_it = name.split("__")
        common = min(len(set_by_it), len(path))
        if common > 1 and set_by_it[:common] == [part.lower() for part in path[:common]]:
            return f"environment variable {variable}: {told}"
    return f"{file or 'settings'}: {told}"
