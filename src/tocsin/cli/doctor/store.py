"""The store: whether it is there, sound and of this version, its master key, who may read it, and its audit log."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from tocsin.cli.doctor.findings import Finding, ok, problem, warning
from tocsin.settings import Settings
from tocsin.store import maintenance
from tocsin.store.audit_verification import verify_all
from tocsin.store.ports import Store, StoreError


def wrong_with(settings: Settings) -> list[str] | None:
    """What `store check` says; None where there is no store."""
    try:
        return maintenance.check(settings) if maintenance.exists(settings) else None
    except StoreError as error:
        return [str(error)]


def store(settings: Settings, wrong: Sequence[str] | None) -> Iterator[Finding]:
    """What can be said of the store without opening it as a server does, which would migrate it. `wrong` is what
    `wrong_with` has found."""
    name = maintenance.name(settings)
    if wrong is None:
        yield problem(
            "store",
            f"{maintenance.place(settings)}: there is no store",
            "`tocsin serve` makes one; if there should be one, name its configuration with --config FILE",
        )
        return
    for sentence in wrong:
        yield problem("store", f"{name}: {sentence}", "see docs/operating.md, Backup and restore")
    if not wrong:
        yield from _in_use(settings, name)
    yield _master_key(settings)
    yield from _rights(settings)


def _in_use(settings: Settings, name: str) -> Iterator[Finding]:
    try:
        served = "a server delivers from it" if maintenance.is_served(settings) else "no server delivers from it"
        yield ok("store", f"{name}: sound, and of this version; {served}")
        for sentence in maintenance.weaknesses(settings):
            yield warning("store", f"{name}: {sentence}", "see docs/operating.md")
        for sentence in maintenance.unseen(settings):
            yield warning("store", f"{name}: {sentence}", "see docs/scale.md, Set it up")
    except StoreError as error:
        yield problem("store", str(error))


def _master_key(settings: Settings) -> Finding:
    try:
        source = maintenance.keys(settings)
        ring = source.read()
    except StoreError as error:
        return problem("master key", str(error))
    if ring is None:
        return ok("master key", f"{source}: not there yet; it is made when it is needed first")
    return ok("master key", f"{source}: there; keep a copy of it apart from the store's backups")


def _rights(settings: Settings) -> Iterator[Finding]:
    files = maintenance.files(settings)
    wrong = [file for file in files if _is_open_to_all(file)]
    for file in wrong:
        yield problem("file rights", f"{file}: everybody on this machine may use it", f"run `chmod o-rwx {file}`")
    if files and not wrong:
        yield ok("file rights", "the store's files are closed to others")


def _is_open_to_all(file: Path) -> bool:
    try:
        return bool(stat.S_IMODE(file.stat().st_mode) & stat.S_IRWXO)
    except OSError:  # It has gone: SQLite removes its log when the last one closes the store.
        return False


async def audit_log(store: Store) -> list[Finding]:
    """Whether its chains hold."""
    verified = await verify_all(store.audit)
    broken = [one.broken for one in verified if one.broken]
    if broken:
        remedy = "somebody has changed the store by hand: see `tocsin audit verify`"
        return [problem("audit log", sentence, remedy) for sentence in broken]
    count = sum(one.checked for one in verified)
    return [ok("audit log", f"{count} entries are as they were written")]
