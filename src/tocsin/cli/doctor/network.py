"""Everything over the network: each provider's addresses and credentials, the clock, sign-in, the source of events."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Final

from tocsin.cli.doctor.configuration import ends
from tocsin.cli.doctor.findings import Finding, ok, problem, warning
from tocsin.domain.outcomes import Outcome
from tocsin.http2.network import SystemNetwork
from tocsin.providers.base import Context, CredentialError, Provider, Push
from tocsin.providers.configured import configured
from tocsin.providers.reaching import Reached, reach
from tocsin.settings import Settings
from tocsin.sign_in.configured import SignIn, SignInError
from tocsin.sign_in.configured import configured as configured_sign_in
from tocsin.sign_in.verdicts import Unavailable
from tocsin.store.ports import Store, StoreError

_CLOCK_WARNING_S: Final = 10.0
_CLOCK_PROBLEM_S: Final = 60.0
"""Providers refuse what is signed in their future, or too long ago."""


class _NothingIsSent:
    """See `DispatcherPort`: nobody gives the providers any push."""

    def report(self, outcomes: list[tuple[Push, Outcome]]) -> None:
        raise AssertionError("nothing was sent")

    def send_anew(self, pushes: Sequence[Push]) -> None:
        raise AssertionError("nothing was sent")

    def withdrawn(self, pushes: Iterable[Push]) -> Sequence[Push]:
        return ()

    def revoked(self, pushes: Iterable[Push]) -> bool:
        return False

    def may_send(self) -> bool:
        return False


async def providers(settings: Settings, store: Store | None, *, offline: bool) -> list[Finding]:
    """Their credentials, where there is a store, and whether they can be reached and accept them."""
    context = Context(_NothingIsSent(), SystemNetwork(), time.time, Random())
    known = configured(settings)(context)
    try:
        examined = [await _credentials(provider, store) for provider in known.values()]
        found = [finding for findings in examined for finding in findings]
        if store is not None and not any(provider.status() for provider in known.values()):
            found.append(warning("credentials", "there are none, so nothing can be delivered", "see docs/cli.md"))
        if offline:
            return found
        reached = [
            one
            for some in await asyncio.gather(*(_reach(provider, context) for provider in known.values()))
            for one in some
        ]
        found += [_reached(one, used) for one, used in reached]
        found.append(_clock([one for one, _ in reached]))
        for findings in await asyncio.gather(*(_checks(provider) for provider in known.values())):
            found += findings
        return found
    finally:
        for provider in known.values():
            await provider.close()


async def sign_in(settings: Settings, store: Store, *, offline: bool) -> list[Finding]:
    """Whether the platform's own sign-in can be asked, where one is configured."""
    wanted = settings.sessions
    if wanted.keys_from is None and wanted.introspection_url is None:
        return [ok("sign-in", "tocsin's own sessions")]
    try:
        configured = configured_sign_in(wanted, store.access)
    except SignInError as error:
        return [problem("sign-in", str(error))]
    try:
        return [] if offline else await _ask_sign_in(configured, settings)
    finally:
        await configured.close()


async def source(settings: Settings) -> list[Finding]:
    """The stream from which events are taken, where one is configured."""
    wanted = settings.sources.nats
    if wanted is None:
        return []
    try:
        from tocsin.sources.connecting import CannotConnect
        from tocsin.sources.looking import Unusable, look
    except ImportError:
        return [problem("NATS", "sources.nats needs more than is installed", "run `pip install 'tocsin[nats]'`")]
    try:
        looked = await look(wanted)
    except CannotConnect as error:
        return [problem("NATS", f"not connected: {error}", "check sources.nats, and whether its servers run")]
    except Unusable as error:
        return [problem("NATS", str(error), "see docs/sources.md")]
    kept = "in memory" if looked.in_memory else "on disk"
    copies = "1 replica" if looked.replicas == 1 else f"{looked.replicas} replicas"
    waiting = ", ".join(
        f"{name}: not there yet" if count is None else f"{name}: {count} waiting"
        for name, count in looked.waiting.items()
    )
    found = [ok("NATS", f"stream {looked.stream}: {copies}, {kept}; {waiting}")]
    if not looked.refusals_are_kept:
        told = f"no stream holds sources.nats.refusals_subject {wanted.refusals_subject}"
        found.append(problem("NATS", told, "create one: what is refused is acknowledged only when it is kept there"))
    return found + [warning("NATS", one, "see docs/sources.md") for one in looked.weaknesses]


async def _credentials(provider: Provider, store: Store | None) -> list[Finding]:
    """Have the provider take its credentials over; what is wrong with them already, and which are near their end."""
    name, found = provider.rules.name, list[Finding]()
    try:
        provider.configure([] if store is None else await store.credentials.of(name))
    except (CredentialError, StoreError) as error:
        found.append(problem("credentials", f"{name}: {error}", "add this credential again"))
    for one in provider.status():
        if one.expires_s is not None:
            what = f"{name} {one.account}: its {one.kind}"
            found.append(ends("credentials", what, datetime.fromtimestamp(one.expires_s, UTC), "add a new one"))
    return found


async def _reach(provider: Provider, context: Context) -> list[tuple[Reached, bool]]:
    """Its addresses, each with whether a credential is there that needs it."""
    used = bool(provider.status())
    return [(one, used) for one in await asyncio.gather(*(reach(it, context.network) for it in provider.origins()))]


def _reached(one: Reached, used: bool) -> Finding:
    origin = one.origin
    if one.failure is None:
        return ok(
            "network", f"{origin.url} ({origin.purpose}): reached over TLS" + (", HTTP/2" if origin.http2 else "")
        )
    told = f"{origin.url} ({origin.purpose}) cannot be reached: {one.failure}"
    remedy = "check DNS, the firewall and the proxy, and the address in the settings"
    return problem("network", told, remedy) if used and origin.essential else warning("network", told, remedy)


def _clock(reached: Iterable[Reached]) -> Finding:
    ahead = [one.ahead_s for one in reached if one.ahead_s is not None]
    if not ahead:
        return warning("clock", "not compared: no provider's answer says what time it is", "look at it: `timedatectl`")
    off_s = statistics.median(ahead)
    if abs(off_s) <= _CLOCK_WARNING_S:
        return ok("clock", f"this machine's clock and the providers' differ by at most {_CLOCK_WARNING_S:.0f} seconds")
    told = f"it is {abs(off_s):.0f} seconds {'ahead of' if off_s > 0 else 'behind'} the providers'"
    remedy = "set it by NTP: with a wrong time they refuse what tocsin signs"
    return (problem if abs(off_s) > _CLOCK_PROBLEM_S else warning)("clock", told, remedy)


async def _checks(provider: Provider) -> list[Finding]:
    """What the provider says to each of its credentials."""
    return [await _check(provider, one.account) for one in provider.status()]


async def _check(provider: Provider, account: str) -> Finding:
    name = f"{provider.rules.name} {account}"
    try:
        result = await provider.check(account, sandbox=False)
    except OSError as error:
        return problem("credentials", f"{name}: cannot be checked: {error}", "check its ca_file in the settings")
    return (
        ok("credentials", f"{name}: {result.sentence}")
        if result.ok
        else problem("credentials", f"{name}: {result.sentence}")
    )


async def _ask_sign_in(sign_in: SignIn, settings: Settings) -> list[Finding]:
    found = []
    wanted = settings.sessions
    if sign_in.keys is not None:
        await sign_in.keys.refresh()
        failure = sign_in.keys.failure
        remedy = "without its keys no JWT can be verified: check sessions.jwks_url or sessions.jwks_file"
        told = f"the issuer's keys were read from {wanted.jwks_file or 'sessions.jwks_url'}"
        found.append(ok("sign-in", told) if failure is None else problem("sign-in", failure, remedy))
    if wanted.introspection_url is not None:
        # Nobody's session: asked about so that it answers.
        verdict = await sign_in.verify(secrets.token_urlsafe(24).replace("-", "_"))
        remedy = "check sessions.introspection_…: the URL, the client id and its secret"
        if isinstance(verdict, Unavailable):
            found.append(problem("sign-in", verdict.reason, remedy))
        else:
            found.append(ok("sign-in", "the introspection service answers, and takes the client id and its secret"))
    return found
