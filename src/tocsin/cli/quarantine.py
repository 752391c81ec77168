"""`tocsin quarantine`: tokens that a provider declared dead in suspicious numbers, kept until an operator decides."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Annotated

import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.devices import described_removal
from tocsin.cli.errors import CommandError
from tocsin.cli.inputs import confirm
from tocsin.cli.opening import in_counted_steps, in_store, settings_of
from tocsin.cli.output import print_json, print_table, remark
from tocsin.store.ports import Store

app = group("Tokens declared dead in suspicious numbers.")

Name = Annotated[str, typer.Argument(metavar="APPLICATION", help="The application or project, as the list names it.")]


@command(app, "list", example="tocsin quarantine list")
def list_(
    application: Annotated[
        str | None, typer.Argument(metavar="APPLICATION", help="Show this application's tokens one by one.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Count the quarantined registrations by application and reason, or show those of one application."""
    found = in_store(settings_of(config), lambda store: store.registry.history(quarantined_only=True))
    if application is not None:
        found = [removal for removal in found if removal.account == application]
    if as_json:
        print_json([described_removal(removal) | {"application": removal.account} for removal in found])
    elif application is not None:
        rows = [(removal.device.owner, removal.reason, removal.device.token) for removal in found]
        print_table(("owner", "reason", "token"), rows, empty=f"{application}: nothing is in quarantine.")
    else:
        counted = Counter((removal.account, removal.reason) for removal in found)
        lines = [(name, reason, str(count)) for (name, reason), count in sorted(counted.items())]
        print_table(("application", "reason", "registrations"), lines, empty="Nothing is in quarantine.")


@command(app, "release", example="tocsin quarantine release 39JSDKGJ38.de.cospace.app")
def release(application: Name, config: Config = None) -> None:
    """Restore an application's quarantined registrations: the provider was wrong."""
    settings = settings_of(config)
    max_tokens = settings.push_api.max_tokens_per_user

    released = in_counted_steps(
        settings,
        "restoring registrations",
        partial(_how_many, application=application),
        lambda store, each: store.registry.release_quarantine(application, max_tokens, each),
    )
    if released is None:
        raise CommandError(_nothing(application))
    remark(f"{application}: {released} registrations are restored")


@command(app, "purge", example="tocsin quarantine purge 39JSDKGJ38.de.cospace.app --yes")
def purge(
    application: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: Config = None,
) -> None:
    """Remove an application's quarantined registrations: the provider was right."""
    if not yes:
        confirm(f"{application}: remove all its quarantined registrations?")
    purged = in_counted_steps(
        settings_of(config),
        "removing registrations",
        partial(_how_many, application=application),
        lambda store, each: store.registry.purge_quarantine(application, each),
    )
    if not purged:
        raise CommandError(_nothing(application))
    remark(
        f"{application}: {purged} registrations are removed; to undo it for a token:"
        " tocsin device restore --token-file FILE"
    )


async def _how_many(store: Store, application: str) -> int:
    return sum(one.tokens for one in await store.registry.quarantine() if one.account == application)


def _nothing(application: str) -> str:
    return f"{application}: nothing is in quarantine; see: tocsin quarantine list"
