"""`tocsin audit`: who has changed what, and whether the log still says what was written."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import InputError
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import iso, print_json, print_table, printable, remark, utc
from tocsin.cli.pages import Limit, Start, cursor_of, page_of, say_where_to_go_on
from tocsin.store.audit_chain import Ends, Entry, Recorded, shown
from tocsin.store.audit_verification import Verified, verify_all
from tocsin.store.ports import Store
from tocsin.store.records import AuditPage

app = group("The audit log: who has changed what, when, and from where.")

_AT_ONCE: Final = 500
_HASH: Final = re.compile("[0-9a-f]{64}")


@command(app, "list", example="tocsin audit list --limit 20")
def list_(
    limit: Limit = 100,
    start: Start = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show the entries, newest first. Users are named by pseudonyms."""
    with page_of("audit list", start):
        page = in_store(settings_of(config), lambda store: store.audit.page(limit, start=cursor_of(start)))
    if as_json:
        print_json([_described(one) for one in page.entries])
    else:
        _print_table(page)
    say_where_to_go_on("audit list", page.next)


@command(app, "export", example="tocsin audit export")
def export(config: Config = None) -> None:
    """Print all entries, oldest first, a line of JSON each with its hash. The last hashes, which `verify --expect`
    takes, go to standard error."""

    async def print_all(store: Store) -> list[Ends]:
        for ends in await store.audit.chains():
            last = ends.anchor.number
            while some := await store.audit.read(ends.chain, last, _AT_ONCE):
                for one in some:
                    typer.echo(_line(one))
                last = some[-1].number
        return await store.audit.chains()

    for ends in in_store(settings_of(config), print_all):
        remark(f"{ends.chain}: the last entry is {ends.head.number}, with the hash {ends.head.hash.hex()}")


@command(
    app,
    "verify",
    example="""
tocsin audit verify
tocsin audit verify --expect 5d0b6e3c7f2a4189c6d3a0b1e4f5968778695a4b3c2d1e0f9a8b7c6d5e4f3a2b
""",
)
def verify(
    expect: Annotated[
        list[str] | None,
        typer.Option("--expect", metavar="HASH", help="A hash from an earlier export; it must still be in a chain."),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Check that no entry was changed or removed, other than from the front by `audit.retention`; status 1 otherwise.

    Whoever can write the whole store could write a chain anew, or cut its end off: --expect finds that.
    """
    expected = [_hash(text) for text in expect or ()]
    verified = in_store(settings_of(config), lambda store: verify_all(store.audit), doing="verifying the audit log")
    found = {hash for one in verified for hash in one.hashes}
    wrong = [one.broken for one in verified if one.broken]
    wrong += [
        f"no entry has the hash {hash.hex()}: entries were cut off at the end, or a chain was written anew; or this"
        " entry was pruned"
        for hash in expected
        if hash not in found
    ]
    if as_json:
        print_json({"chains": [_verdict(one) for one in verified], "findings": wrong})
    else:
        for one in verified:
            if not one.broken:
                remark(_holds(one))
        for sentence in wrong:
            typer.echo(sentence)
    if wrong:
        raise typer.Exit(1)
    if not verified and not as_json:
        remark("There are no entries.")


def _hash(text: str) -> bytes:
    if not _HASH.fullmatch(text.lower()):
        raise InputError("--expect: must be the 64 hexadecimal digits that `tocsin audit export` has printed")
    return bytes.fromhex(text)


def _holds(one: Verified) -> str:
    pruned = f"; those before {one.ends.anchor.number + 1} were pruned" if one.ends.anchor.number else ""
    head = one.ends.head
    return f"{one.ends.chain}: {one.checked} entries are as they were written{pruned}; the last has {head.hash.hex()}"


def _verdict(one: Verified) -> dict[str, Any]:
    return {
        "chain": one.ends.chain,
        "entries": one.checked,
        "pruned": one.ends.anchor.number,
        "head": one.ends.head.hash.hex(),
        "broken": one.broken or None,
    }


def _line(recorded: Recorded) -> str:
    """The text as it is: whoever checks the hashes needs its very bytes."""
    line: bytes = msgspec.json.encode({"hash": recorded.hash.hex(), "entry": msgspec.Raw(recorded.text)})
    return line.decode("utf-8", "replace")


def _print_table(page: AuditPage) -> None:
    rows = [_row(shown(one)) for one in page.entries]
    columns = ("at", "entry", "who", "from", "action", "subject", "details")
    print_table(columns, rows, empty="There are no entries yet.")


def _row(entry: Entry) -> tuple[str, ...]:
    details = "  ".join(
        f"{name}={printable(_text(value))}" for name, value in entry.details.items() if value is not None
    )
    return (
        utc(entry.at_ms),
        f"{entry.chain}:{entry.number}",
        printable(str(entry.actor)),
        printable(entry.actor.source),
        entry.action,
        printable(entry.subject),
        details,
    )


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _described(recorded: Recorded) -> dict[str, Any]:
    entry = shown(recorded)
    return {
        "chain": entry.chain,
        "number": entry.number,
        "at": iso(entry.at_ms),
        "kind": entry.actor.kind,
        "actor": entry.actor.id,
        "source": entry.actor.source,
        "action": entry.action,
        "subject": entry.subject,
        "details": entry.details,
        "hash": recorded.hash.hex(),
    }
