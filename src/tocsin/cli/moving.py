"""`tocsin device import` and `export`: all devices at once, from another service, to another, or for a look."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any, Final, TextIO

import msgspec
import typer
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tocsin.cli.commands import AsJson, Config
from tocsin.cli.device_files import Format, Line, format_of, lines, write
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import print_json, remark
from tocsin.cli.progress import working
from tocsin.cli.streams import Output
from tocsin.providers.rules import RULES
from tocsin.store.ports import Store

_AT_ONCE: Final = 1000
"""Registrations in one transaction: a server beside this command waits no longer than one of them takes."""
_SHOWN: Final = 10
_PAGE: Final = 2000
_HEAD_BYTES: Final = 64 * 1024

FormatOption = Annotated[
    Format | None, typer.Option("--format", help="How the file is written; without it, as its name ends.")
]


class Counts(Struct):
    """How far an import is; also what its progress file holds, with what tells one file from another."""

    file: str
    lines: int = 0
    registered: int = 0
    refused: int = 0
    evicted: int = 0


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or NDJSON; - is standard input.")],
    format: FormatOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line, and register nothing.")] = False,
    refused: Annotated[
        Path | None,
        typer.Option("--refused", metavar="FILE", help="Write there, as CSV, which lines are refused and why."),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Register many devices from a file: each line as a user's app would register it.

    A line that breaks a rule is refused, and the others are registered. Where the command is stopped, the same command
    goes on after the last line that was registered: FILE.progress says which.
    """
    format = format or format_of(file)
    if format is None:
        raise InputError("--format: say csv or ndjson, as the name of the file does not")
    settings = settings_of(config)
    with ExitStack() as life:
        source: IO[bytes] = sys.stdin.buffer if str(file) == "-" else life.enter_context(_opened(file))
        progress = None if dry_run or source is sys.stdin.buffer else file.with_name(file.name + ".progress")
        counts = _begin(source, progress)
        if refused is not None and (_is(refused, file) or (progress is not None and _is(refused, progress))):
            raise InputError(f"--refused {refused}: the import itself reads this file; name another")
        report = life.enter_context(_Report.open(refused, append=counts.lines > 0))
        shown = life.enter_context(_shown(source))
        operation = _Import(counts, report, progress, settings.push_api.max_tokens_per_user, dry_run=dry_run)

        async def run(store: Store) -> None:
            await operation.run(store, shown(lines(source, format, RULES)))

        try:
            in_store(settings, run, in_steps=True, doing="")
        except ValueError as error:
            raise InputError(f"{file}: {error}") from None
    if progress is not None:
        progress.unlink(missing_ok=True)
    _say(counts, dry_run=dry_run, as_json=as_json)
    if counts.refused:
        hint = "" if refused else "; --refused FILE writes them all"
        raise CommandError(f"{counts.refused} lines were refused{hint}")


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="- is standard output.")] = Path("-"),
    format: FormatOption = None,
    config: Config = None,
) -> None:
    """Write all devices to a new file, as `device import` reads them. The file holds device tokens: keep it safe.

    What is registered or removed meanwhile may be in it or not.
    """
    standard_output = str(file) == "-"
    format = format or format_of(file) or (Format.CSV if standard_output else None)
    if format is None:
        raise InputError("--format: say csv or ndjson, as the name of the file does not")
    with ExitStack() as life:
        target: Any = sys.stdout if standard_output else life.enter_context(_created(file))
        work = life.enter_context(working("exporting devices"))

        async def run(store: Store) -> int:
            count = 0
            page = await store.registry.page(_PAGE)
            write(page.devices, format, RULES, target, names=True)
            while page.next is not None:
                count += len(page.devices)
                work.at(count)
                page = await store.registry.page(_PAGE, start=page.next)
                write(page.devices, format, RULES, target, names=False)
            return count + len(page.devices)

        count = in_store(settings_of(config), run, doing="")
    remark(f"Exported {count} devices.")


class _Report:
    """The lines that were refused: into a file, or the first few of them to the terminal. No token stands in it."""

    def __init__(self, file: Any) -> None:
        """`file`: where to write, or None."""
        self._table = None if file is None else csv.writer(file, lineterminator="\n")
        self._shown = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path | None, *, append: bool) -> Iterator[_Report]:
        if path is None:
            yield cls(None)
            return
        try:
            file = path.open("a" if append else "w", encoding="utf-8", newline="")
        except OSError as error:
            raise InputError(f"--refused {path}: {error.strerror}; name another file") from None
        with _written(file, f"--refused {path}") as target:
            report = cls(target)
            if not append and report._table is not None:
                report._table.writerow(("line", "field", "reason"))
            yield report

    def add(self, line: Line) -> None:
        if self._table is not None:
            self._table.writerow((line.number, line.field, line.reason))
        elif self._shown < _SHOWN:
            self._shown += 1
            remark(f"line {line.number}: {line.field}: {line.reason}")


class _Import:
    """One import: takes lines, and registers what can be in transactions of some hundred."""

    def __init__(
        self, counts: Counts, report: _Report, progress: Path | None, max_tokens: int, *, dry_run: bool
    ) -> None:
        self._counts = counts
        self._report = report
        self._progress = progress
        self._max_tokens = max_tokens
        self._dry_run = dry_run

    async def run(self, store: Store, found: Iterable[Line]) -> None:
        """Register all lines after those that were registered before.

        Raises:
            StoreUnavailable, CommitUnknown: as many are registered as the progress file says.
        """
        counts = self._counts
        accounts = {name: {one.account for one in await store.credentials.of(name)} for name in RULES}
        left = (line for line in found if line.number > counts.lines)
        while some := list(islice(left, _AT_ONCE)):
            checked = [_with_credential(line, accounts) for line in some]
            registrations = [line.registration for line in checked if line.registration is not None]
            if registrations and not self._dry_run:
                counts.evicted += len(await store.registry.add_many(registrations, self._max_tokens))
            counts.registered += len(registrations)
            for line in checked:
                if line.registration is None:
                    counts.refused += 1
                    self._report.add(line)
            counts.lines = some[-1].number
            if self._progress is not None:
                _keep(self._progress, counts)
            await asyncio.sleep(0)


def _with_credential(line: Line, accounts: dict[str, set[str]]) -> Line:
    """The line, or why its application cannot be reached: as `POST /api/push` refuses it."""
    registration = line.registration
    if registration is None or line.account is None or line.account in accounts[registration.provider]:
        return line
    return Line(line.number, field="application_id", reason=f"{line.account} is not known here: see `tocsin app add`")


def _begin(source: IO[bytes], progress: Path | None) -> Counts:
    """Where to begin: after what an import of the same file has registered before it was stopped."""
    if progress is None:
        return Counts("")
    head = source.read(_HEAD_BYTES)
    source.seek(0)
    counts = Counts(hashlib.sha256(head).hexdigest())
    if progress.exists():
        try:
            before = msgspec.json.decode(progress.read_bytes(), type=Counts)
        except (OSError, msgspec.MsgspecError):
            raise InputError(f"{progress}: is not the progress of an import; remove it to begin anew") from None
        if before.file != counts.file:
            raise InputError(f"{progress}: of another file of this name; remove it to begin anew")
        remark(f"Going on after line {before.lines}, as {progress} says.")
        return before
    return counts


def _keep(path: Path, counts: Counts) -> None:
    """Note how far the import is. Where that fails it only costs time: lines may be registered again."""
    temporary = path.with_name(path.name + ".new")
    with contextlib.suppress(OSError):
        temporary.write_bytes(msgspec.json.encode(counts))
        os.replace(temporary, path)


@contextlib.contextmanager
def _shown(source: IO[bytes]) -> Iterator[Callable[[Iterable[Line]], Iterable[Line]]]:
    """A bar for people, where standard error is a terminal: how much of the file is read."""
    console = Console(stderr=True)
    if not console.is_terminal or not source.seekable():
        yield lambda found: found
        return
    size = os.fstat(source.fileno()).st_size
    columns = (TextColumn("importing"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("importing", total=size)

        def watched(found: Iterable[Line]) -> Iterator[Line]:
            for line in found:
                if line.number % _AT_ONCE == 0:
                    bar.update(task, completed=source.tell())
                yield line

        yield watched


def _opened(file: Path) -> IO[bytes]:
    try:
        return file.open("rb")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; name another file") from None


@contextlib.contextmanager
def _created(file: Path) -> Iterator[Any]:
    """A new file that only its owner may read. Where the command fails, it is gone again: it would not be complete."""
    try:
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; name a file that does not exist yet") from None
    try:
        with _written(os.fdopen(number, "w", encoding="utf-8", newline=""), str(file)) as target:
            yield target
    except BaseException:
        file.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _written(file: TextIO, name: str) -> Iterator[Any]:
    """The file, as something to write to; it is closed afterwards.

    Raises:
        CommandError: it could not be written, for want of space, say.
    """
    target = Output(file, remarks=False)
    try:
        yield target
        target.flush()
    except OSError as error:
        if error is not target.failure:
            raise
        raise CommandError(f"{name}: {error.strerror}; what was written is not complete") from None
    finally:
        with contextlib.suppress(OSError):  # what could not be written is tried once more
            file.close()


def _is(one: Path, other: Path) -> bool:
    """Whether both name the same file."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and os.path.samefile(one, other))


def _say(counts: Counts, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"registered": counts.registered, "refused": counts.refused, "evicted": counts.evicted})
        return
    done = "Would register" if dry_run else "Registered"
    evicted = f"; {counts.evicted} older ones went, as their users have too many" if counts.evicted else ""
    remark(f"{done} {counts.registered} devices, refused {counts.refused}{evicted}.")
