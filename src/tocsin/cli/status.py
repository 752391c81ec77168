"""`tocsin status`: whether the service is well, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec import Struct

from tocsin.cli.commands import AsJson, Config
from tocsin.cli.errors import CommandError
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import iso, print_json
from tocsin.domain.routes import LaneState
from tocsin.settings import Settings
from tocsin.store import maintenance
from tocsin.store.ports import Store

if TYPE_CHECKING:
    from tocsin.cli.server_api import ServerApi

Api = Annotated[
    str | None,
    typer.Option("--api", metavar="URL", help="The server; else where the configuration says that it listens."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="A file with a monitoring or admin key; - for standard input."),
]

_READY = "/health/ready"


class _Lane(Struct, frozen=True):
    name: str
    state: str
    reason: str = ""


class _Ready(Struct, frozen=True):
    """What `/health/ready` answers; to strangers only `ready`."""

    ready: bool
    problems: list[str] | None = None
    lanes: list[_Lane] = []
    notes: list[str] = []


class Waiting(Struct, frozen=True):
    """What the store holds."""

    events: int
    size_bytes: int
    oldest: str | None
    dead_letters: int
    quarantined: list[str]


class Status(Struct, frozen=True, kw_only=True):
    """`reasons` say why it is not well; `notes` what else an operator should know. `waiting` was read from the store,
    where no server answered."""

    well: bool
    server: str
    answers: bool
    reasons: list[str]
    notes: list[str] = []
    waiting: Waiting | None = None


def status(api: Api = None, key_file: KeyFile = None, config: Config = None, as_json: AsJson = False) -> None:
    """Say whether the service is well, and why not; the exit status is 0 where it is, and 1 where not.

    The running server is asked: at server.private_host, where that is set, else with the key in --key-file; without
    both it says no reasons. Where no server answers, it is not well, and what waits in the store is shown.
    """
    # Only here: HTTP takes long to import, and no other command needs it.
    from tocsin.cli.server_api import NoAnswerError, ServerApi, private_address_of, server_of

    settings = settings_of(config)
    private = private_address_of(settings) if api is None and key_file is None else None
    try:
        with ServerApi(private, None, None) if private else server_of(settings, api, key_file) as server:
            found = _asked(server, told_all=private is not None, has_key=key_file is not None)
    except NoAnswerError as error:
        # Another server's store is not this one.
        found = _without_server(str(error), settings if api is None else None)
    if as_json:
        print_json(found)
    else:
        _print(found)
    if not found.well:
        raise typer.Exit(1)


def _asked(server: ServerApi, *, told_all: bool, has_key: bool) -> Status:
    code, body = server.get(_READY)
    try:
        ready = msgspec.json.decode(body, type=_Ready)
    except msgspec.DecodeError:
        return Status(well=False, server=server.url, answers=True, reasons=[_not_ours(code, body)])
    notes = [f"lane {lane.name}: {lane.state}: {lane.reason}" for lane in ready.lanes if _is_odd(lane)]
    notes += ready.notes
    reasons = list(ready.problems or ())
    if ready.problems is None and not told_all:
        notes.append(
            "the server says no reasons for this key; a monitoring or admin key is needed"
            if has_key
            else "for the reasons and the lanes give --key-file FILE, or set server.private_host"
        )
    if not ready.ready and not reasons:
        reasons.append("it does not accept or deliver")
    return Status(well=ready.ready, server=server.url, answers=True, reasons=reasons, notes=notes)


def _is_odd(lane: _Lane) -> bool:
    """Whether it does not run, for a cause that is none of the reasons."""
    return lane.state not in (LaneState.RUNNING, LaneState.PAUSED)


def _not_ours(code: int, body: bytes) -> str:
    from tocsin.cli.server_api import detail_of

    return detail_of(body) or f"what answers there is no server of tocsin: {_READY} answered {code}"


def _without_server(reason: str, settings: Settings | None) -> Status:
    address = reason.partition(": ")[0]
    reasons, notes, waiting = [f"no server answers: {reason}"], list[str](), None
    if settings is not None:
        try:
            waiting = in_store(settings, _read) if maintenance.exists(settings) else None
        except CommandError as error:
            reasons.append(str(error))
        else:
            if waiting is None:
                reasons.append(f"{maintenance.place(settings)}: there is no store")
        if waiting is not None and maintenance.is_served(settings):
            notes.append("a server uses the store: is this its address? --api names another")
        else:
            notes.append("start it with: tocsin serve")
    return Status(well=False, server=address, answers=False, reasons=reasons, notes=notes, waiting=waiting)


async def _read(store: Store) -> Waiting:
    backlog = await store.queue.whole_backlog()
    return Waiting(
        events=backlog.events,
        size_bytes=backlog.size_bytes,
        oldest=iso(backlog.oldest_ms),
        dead_letters=await store.log.count_dead_letters(),
        quarantined=sorted({account for _, account in await store.registry.quarantined_accounts()}),
    )


def _print(found: Status) -> None:
    typer.echo(f"well: {found.server} accepts and delivers" if found.well else f"not well: {found.server}")
    for reason in found.reasons:
        typer.echo(f"  {reason}")
    for note in found.notes:
        typer.echo(f"note: {note}")
    waiting = found.waiting
    if waiting is not None:
        oldest = f", the oldest of {waiting.oldest}" if waiting.oldest else ""
        typer.echo(f"backlog: {waiting.events} events, {waiting.size_bytes} bytes{oldest}")
        typer.echo(f"dead letters: {waiting.dead_letters}")
        typer.echo(f"quarantine: {', '.join(waiting.quarantined) or 'empty'}")
