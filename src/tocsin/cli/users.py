"""`tocsin user`: what is done to a user as a whole."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError
from tocsin.cli.inputs import confirm, user_id
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import print_json, print_table, remark
from tocsin.store.records import Erased

app = group("A user as a whole: erase one.")

_EXAMPLE: Final = "tocsin user erase 9aed5e94-3803-11e3-8475-0024e8f90cc0 --yes"


@command(app, "erase", example=_EXAMPLE)
def erase(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="The user's UUID.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Remove every trace of a user from the store, and search it for what is left. Servers may be running.

    Devices and their history, sessions, events with their receipts, and the key of the user's name in the audit log.
    What waits to be delivered is cancelled. Backups still have it all, and so has whatever sends tocsin its events.
    """
    user = user_id(owner)
    if not yes:
        confirm(f"{user}: erase this user, for good?")
    erased = in_store(settings_of(config), lambda store: store.users.erase(user), in_steps=True, doing="erasing")
    if as_json:
        print_json(msgspec.to_builtins(erased))
    else:
        print_table(("removed", "number"), _removed(erased), empty="")
        remark(f"Searched for what is left: {', '.join(erased.searched)}")
    if erased.left:
        raise CommandError(
            f"something of the user is still found in {', '.join(erased.left)}; if a producer or the app goes on for"
            " this user, stop that first, and run the command again"
        )
    if not as_json:
        remark("Nothing is left of the user there. Backups still have what they had.")


def _removed(erased: Erased) -> list[tuple[str, str]]:
    counted = (
        ("devices", erased.devices),
        ("devices in the history", erased.removals),
        ("sessions", erased.sessions),
        ("events", erased.events),
        ("of these waiting, and cancelled", erased.waiting),
        ("receipts", erased.receipts),
        ("names in the audit log", int(erased.pseudonym)),
    )
    return [(what, str(number)) for what, number in counted]
