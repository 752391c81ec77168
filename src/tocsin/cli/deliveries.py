"""`tocsin deliveries`: looks for deliveries by what is known of them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import InputError
from tocsin.cli.inputs import read_secret
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.outcomes import in_words
from tocsin.cli.output import print_fitting, print_json, remark, terminal_width
from tocsin.cli.pages import Start, page_of
from tocsin.providers.rules import RULES

app = group("Deliveries: look for them by user, token, application, outcome, reason and time.")

_COLUMNS = ("accepted", "event", "message", "outcome", "answer", "lane", "device", "owner")
_CUT = ("event", "answer", "lane", "device", "owner")


@command(app, "search", example="tocsin deliveries search --outcome refused --outcome expired --from 2026-11-20")
def search(
    owner: Annotated[str | None, typer.Option("--owner", metavar="UUID", help="Of this user.")] = None,
    event: Annotated[str | None, typer.Option("--event", metavar="ID", help="Of this event.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="To the device token in this file; - for standard input."),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="NAME", help="Through this provider.")] = None,
    account: Annotated[
        str | None, typer.Option("--account", metavar="NAME", help="Of this application or project.")
    ] = None,
    outcome: Annotated[
        list[str] | None,
        typer.Option(
            "--outcome",
            metavar="OUTCOME",
            help="One of delivered (accepted by the provider), token_dead, refused, expired, cancelled, waiting,"
            " no_device, accepted (by tocsin, and not tried yet); more than once for several.",
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="REASON", help="With this reason, as the provider named it.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", metavar="NAME", help="Of events of this name.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Accepted then or later: 2026-11-26T08:00:00Z, UTC.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Accepted before that.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many, newest first.")] = 50,
    start: Start = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show deliveries as they stand, newest event first; `tocsin event show ID` explains each.

    The index is filled while the server runs: what happened within the last second may not be found yet.
    """
    from tocsin.api.delivery_search import search as search_in

    token = None if token_file is None else read_secret(token_file, "--token-file", "token")
    given = {
        "owner": owner,
        "event_id": event,
        "device_token": token,
        "system": system,
        "account": account,
        "outcome": outcome or None,
        "reason": reason,
        "message": message,
        "from": _time(since, "--from"),
        "until": _time(until, "--until"),
        "limit": limit,
        "start": start,
    }
    request = _request(given)
    with page_of("deliveries search", start):
        found = in_store(settings_of(config), lambda store: search_in(store, RULES, request))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            row.accepted_at[:19].replace("T", " "),
            row.event_id,
            row.message,
            in_words(row.outcome),
            " ".join(str(part) for part in (row.status, row.reason) if part is not msgspec.UNSET) or "-",
            row.lane if isinstance(row.lane, str) else "-",
            f"{row.system}:{row.device_token}" if isinstance(row.system, str) else "-",
            row.owner,
        )
        for row in found.deliveries
    ]
    print_fitting(_COLUMNS, rows, cut=_CUT, width=terminal_width(), empty="No delivery was found.")
    if found.index.waiting_events:
        behind = "it is being made" if found.index.rebuilding else f"{found.index.behind_s:.0f} s behind"
        remark(f"The index is not complete ({behind}; {found.index.waiting_events} events are still to be read).")
    if not found.complete:
        remark(f"Not everything was looked at, only back to {found.looked_back_to}.")
    if found.next is not None:
        remark(f"There are more: add --start {shlex.quote(found.next)}")


def _request(given: dict[str, Any]) -> Any:
    from tocsin.api.delivery_search import SearchRequest, unknown_name

    if unknown := unknown_name(RULES, given["system"], given["message"]):
        field, rule = unknown
        raise InputError(f"--{field} {given[field]}: {rule}")
    options = {"event_id": "event", "device_token": "token-file"}
    for name in ("owner", "event_id"):
        if given[name] is not None:
            given[name] = _uuid(given[name], f"--{options.get(name, name)}")
    try:
        return msgspec.convert({name: value for name, value in given.items() if value is not None}, SearchRequest)
    except msgspec.ValidationError as error:
        field = str(error).rpartition("`$.")[2].partition("`")[0].partition("[")[0]
        raise InputError(f"--{options.get(field, field)}: {str(error).partition(' - at')[0]}") from None


def _uuid(text: str, option: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise InputError(f"{option} {text}: not a UUID") from None


def _time(text: str | None, option: str) -> str | None:
    """A time or a day in UTC as RFC 3339."""
    if text is None:
        return None
    whole = f"{text}T00:00:00Z" if len(text) == 10 else text
    if not _is_time(whole):
        raise InputError(f"{option} {text}: must be a day (2026-11-26) or a time with its zone (2026-11-26T08:00:00Z)")
    return whole


def _is_time(text: str) -> bool:
    from tocsin.api.delivery_search import Moment

    try:
        msgspec.convert(text, Moment)
    except msgspec.ValidationError:
        return False
    return True
