"""What a provider is: the one place where tocsin is extended. A provider is a package beside `apns` and `fcm`.

`Rules` say what may be registered with it and sent through it; they are pure, and cheap to import. `Provider` sends, in
batches: pushes in, outcomes out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct, field

from tocsin.domain.credentials import Credential
from tocsin.domain.devices import Address, Device, DeviceToken
from tocsin.domain.events import Event
from tocsin.domain.explanations import Explanation
from tocsin.domain.outcomes import Outcome
from tocsin.domain.routes import Route
from tocsin.http2.traffic import Traffic
from tocsin.providers.fields import Fields

if TYPE_CHECKING:
    from tocsin.http2.network import Network
    from tocsin.http2.pool import Pool

# -- what may be registered, and sent ----------------------------------------------------------------------------------


class Rules(Protocol):
    """A provider's registrations and limits. Pure functions: no I/O, no state."""

    @property
    def name(self) -> str:
        """The `system` of its registrations, and how its devices, credentials and lanes begin."""

    @property
    def fields(self) -> frozenset[str]:
        """What a registration may have beside `system`, `action` and `device_token`."""

    @property
    def always_fits_bytes(self) -> int:
        """An event's body up to this size fits, whatever is in it."""

    def token(self, text: str) -> DeviceToken:
        """A device token as it is stored.

        Raises:
            ValueError: it is malformed; the message says what one looks like.
        """

    def address(self, fields: Fields) -> Address:
        """What a registration says of how the device is reached. Fields that are not the provider's are ignored.

        Raises:
            FieldError: a field breaks a rule.
        """

    def account(self, address: Address) -> str | None:
        """Whose credential must be known for a registration to be taken; None where any will do."""

    def section(self, devices: Sequence[Device]) -> Any:
        """These devices as `GET /api/push` shows them, under the provider's name."""

    def describe(self, address: Address) -> Mapping[str, Any]:
        """The address by field, for people and programs; what was not given or learned is left out."""

    def summary(self, address: Address) -> str:
        """The address in a few words, for a table."""

    def lanes(self, account: str) -> Sequence[str]:
        """The names of the lanes by which an account's devices are reached."""

    def account_of(self, lane: str) -> str:
        """The account that a lane is of."""

    def said(self, status: int, reason: str) -> Explanation | None:
        """What the provider means by an answer, for a person; None where it has no sentence for it."""

    def reserves(self, field: str) -> bool:
        """Whether the provider keeps this name of a field for itself, so that no event may bring it."""

    def check_fits(self, body: bytes) -> None:
        """Whether an event's body can be sent.

        Raises:
            ValueError: it is too large, and cannot be made to fit.
        """


# -- what is sent ------------------------------------------------------------------------------------------------------


class Content(Struct, eq=False, gc=False):
    """One event, and its payloads as providers have rendered them: each once, shared by all devices it fits."""

    event: Event
    payloads: dict[str, bytes] = {}
    """By a name that the provider has chosen."""


class Push(Struct, eq=False, gc=False):
    """One delivery on its way: an event to one device by one route.

    One is made per delivery, so it is a Struct, for its speed, and the garbage collector does not look at it: nothing
    that it holds may refer to it.
    """

    content: Content
    device: Device
    route: Route
    tried: tuple[Route, ...] = ()
    """Routes that the provider has ruled out before this one."""


class DispatcherPort(Protocol):
    """What a provider asks and tells whoever gave it the pushes."""

    def report(self, outcomes: list[tuple[Push, Outcome]]) -> None:
        """What became of pushes; each is reported exactly once."""

    def send_anew(self, pushes: Sequence[Push]) -> None:
        """These were not sent, and their credential was replaced: they are sent with the one that there is now."""

    def withdrawn(self, pushes: Iterable[Push]) -> Sequence[Push]:
        """Which of these must not be sent any more: their token was deleted meanwhile, or their lifetime has ended."""

    def revoked(self, pushes: Iterable[Push]) -> bool:
        """Whether one of these must not reach its device if that can still be helped: its token was deleted meanwhile,
        or the event belongs to another node by now. A lifetime that has ended is no such reason."""

    def may_send(self) -> bool:
        """Whether anything may be sent now."""


class Context(Struct, frozen=True):
    """What a provider works with, and gets from outside."""

    dispatcher: DispatcherPort
    network: Network
    wall_clock: Callable[[], float]
    """Unix seconds: for what others are told, and what must outlive a restart."""
    random: Random
    monotonic: Callable[[], float] = time.monotonic
    """Seconds: for ages and pauses, which a wall clock that is set must not change."""
    traffic: dict[str, Traffic] = field(default_factory=dict)
    """What is counted of the connections, by origin: it outlives the pools, which end with their credential."""


class AccountStatus(Struct, frozen=True):
    """The credential of one account, without its secrets."""

    account: str
    kind: str
    """What it is: `key`, `certificate`, `service account`."""
    expires_s: float | None = None
    """When it ends, Unix seconds; None where it does not."""
    key_id: str = ""
    """By which name the provider knows the key; empty where it has none."""
    token_age_s: float | None = None
    """Since when the token is in use that was made from the credential; None where there is none."""


class Origin(Struct, frozen=True):
    """One address of a provider, and how tocsin connects to it."""

    url: str
    """`https://host` or `https://host:port`."""
    purpose: str
    """For what it is asked, for people."""
    ca_file: Path | None
    """Who may have signed its certificate; None for the system's authorities."""
    proxy: str | None
    http2: bool = True
    """Whether it must speak HTTP/2; it is asked over HTTP/1.1 otherwise."""
    essential: bool = True
    """Whether nothing is delivered without it."""


class CheckResult(Struct, frozen=True):
    """Whether a credential works, in one sentence with the remedy."""

    ok: bool
    sentence: str


class Preview(Struct, frozen=True):
    """A push as it would be sent now, without the credential."""

    url: str
    headers: list[tuple[str, str]]
    body: bytes


class Sender(Protocol):
    """What delivery asks of a provider."""

    def route(self, device: Device) -> Route:
        """The route to try first."""

    def send(self, pushes: Sequence[Push]) -> None:
        """Render and send each push by its route; every one of them is reported, in whatever order.

        A push carries `delivery_id`, by which it is known where the provider's answer has no id of its own.
        """

    def learned(self, push: Push) -> Address:
        """The address of its device, now that the push was delivered by another route than the first."""

    def resume(self) -> None:
        """`may_send` has become true: send what waited for it."""


class Provider(Sender, Protocol):
    """A provider that is set up. Not safe to share between event loops."""

    @property
    def rules(self) -> Rules: ...

    @property
    def request_timeout_s(self) -> float:
        """After how long a request without an answer is given up."""

    @property
    def unknown_answers(self) -> int:
        """How many answers no row of its table has known, since the start."""

    def configure(self, credentials: Iterable[Credential]) -> set[str]:
        """Take over the credentials as they are now; returns the lanes that may send again for it.

        What a connection has got under an old credential finishes there; what waits is sent with the new one, or waits
        for one where there is none. No delivery fails for the change.

        Raises:
            CredentialError: one cannot be used; the others are taken over.
        """

    def pools(self) -> Iterable[Pool[Any]]:
        """The connections that are in use."""

    def status(self) -> list[AccountStatus]:
        """How its credentials are."""

    def origins(self) -> list[Origin]:
        """The addresses that it asks with the credentials as they are."""

    def preview(self, event: Event, device: Device) -> Preview:
        """The push of an event to a device, by the route to try first.

        Raises:
            ValueError: it cannot be rendered; the message says why.
        """

    async def check(self, account: str, *, sandbox: bool) -> CheckResult:
        """Ask the provider whether it accepts the credential of an account; no device gets a push. `sandbox` is for
        providers that have one.

        Raises:
            KeyError: there is no credential of this account.
        """

    async def close(self) -> None:
        """End every connection; what is not answered is reported as lost."""


class CredentialError(ValueError):
    """A key, certificate or service account that cannot be used; the message says which rule it breaks."""


# A copy takes half the time of a new one, and every attempt needs one.
_new_hasher: Final = blake2b(digest_size=16).copy


def delivery_id(event_id: str, device_token: str) -> str:
    """A UUID (version 8, RFC 9562) that is the same at every attempt to bring this event to this device."""
    hasher = _new_hasher()
    hasher.update((event_id + device_token).encode())
    digest = hasher.hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-a{digest[17:20]}-{digest[20:]}"
