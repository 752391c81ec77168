"""Starts and stops an emulator, within an event loop (`start`) or as a process (`serve`)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from tocsin.emulator.counters import Counters
from tocsin.emulator.credentials import Files, write_credentials
from tocsin.emulator.endpoints import Parts, serve_all
from tocsin.emulator.fault_injection import FaultInjector
from tocsin.emulator.faults import Script, load_script
from tocsin.emulator.inbox import Inbox
from tocsin.emulator.journal import FLUSH_INTERVAL_S, Journal
from tocsin.emulator.listeners import ListenError, Listeners
from tocsin.emulator.options import Clock, EmulatorOptions
from tocsin.http2.network import Network, SystemNetwork

__all__ = ["Emulator", "EmulatorError", "EmulatorOptions", "serve", "start"]

_LARGEST_SCRIPT_BYTES: Final = 1024 * 1024


class EmulatorError(Exception):
    """The emulator cannot start; the message says why."""


class Emulator:
    """A running emulator.

    Attributes:
        files: the paths of the credentials.
        summary: the content of `emulator.json`: the URLs, and the paths of the credentials.
        inbox: the accepted pushes.
        faults: the current fault script; `faults.replace` sets another one.
        stats: returns what `GET /stats` shows.
    """

    def __init__(
        self,
        files: Files,
        summary: dict[str, object],
        inbox: Inbox,
        faults: FaultInjector,
        stats: Callable[[], dict[str, Any]],
    ) -> None:
        self.files = files
        self.summary = summary
        self.inbox = inbox
        self.faults = faults
        self.stats = stats


@asynccontextmanager
async def start(
    options: EmulatorOptions,
    *,
    clock: Clock = time.time,
    random: Random | None = None,
    network: Network | None = None,
) -> AsyncIterator[Emulator]:
    """Run an emulator until the context is left. `emulator.json` is written last, when all ports listen.

    Args:
        clock: returns the time in Unix seconds, with which tokens are verified and pushes are recorded.
        random: generates ids and access tokens, and the seed of fault scripts without one; None: a new generator with
            a seed of the operating system.
        network: listens for connections; None: the operating system's sockets.

    Timers use the running event loop. Certificates and keys are made with the system's clock and random numbers.

    Raises:
        EmulatorError: a port is not available, or a file cannot be written or read.
    """
    random = Random() if random is None else random
    files, script, journal = _prepare(options)
    counters = Counters()
    faults = FaultInjector(script, random)
    inbox = Inbox(options.inbox_size, journal, counters, clock)
    listeners = Listeners(options, network or SystemNetwork(), files, counters, faults)
    flushing = asyncio.create_task(_flush_regularly(journal)) if journal else None

    def stats() -> dict[str, Any]:
        return counters.as_json() | {"in_inbox": len(inbox), "connections": listeners.connections()}

    parts = Parts(
        options=options,
        files=files,
        inbox=inbox,
        counters=counters,
        faults=faults,
        listeners=listeners,
        clock=clock,
        random=random,
        stats=stats,
    )
    try:
        summary = await serve_all(parts)
        temporary = files.summary.with_suffix(".json.new")
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
        temporary.replace(files.summary)
        yield Emulator(files, summary, inbox, faults, stats)
    except ListenError as error:
        raise EmulatorError(str(error)) from None
    finally:
        await listeners.close()
        if flushing is not None:
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
        if journal is not None:
            journal.close()


async def serve(options: EmulatorOptions, ready: Callable[[Emulator], None]) -> None:
    """Run an emulator until the process receives SIGTERM or SIGINT; `ready` is called once when all ports listen.

    Raises:
        EmulatorError: as `start`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with start(options) as emulator:
        # The objects that exist now are kept until the end, and a request creates no reference cycles: with Python's
        # default thresholds the garbage collector takes a fifth of the time.
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        ready(emulator)
        await stop.wait()


def _prepare(options: EmulatorOptions) -> tuple[Files, Script, Journal | None]:
    """Write the credentials, read the fault script, and open the journal."""
    with _explained("--directory", options.directory):
        files = write_credentials(options.directory)
        files.summary.unlink(missing_ok=True)
    with _explained("--faults", options.faults):
        script = _script(options.faults) if options.faults else Script()
    with _explained("--journal", options.journal):
        journal = Journal(options.journal, bodies=options.journal_bodies) if options.journal else None
    return files, script, journal


def _script(file: Path) -> Script:
    with file.open("rb") as opened:
        content = opened.read(_LARGEST_SCRIPT_BYTES + 1)
    if len(content) > _LARGEST_SCRIPT_BYTES:
        raise EmulatorError(f"--faults {file}: larger than {_LARGEST_SCRIPT_BYTES} bytes; name a fault script")
    return load_script(content.decode())


@contextlib.contextmanager
def _explained(option: str, path: Path | None) -> Iterator[None]:
    """Whatever prevents the use of the path that an option names becomes an EmulatorError with its name."""
    try:
        yield
    except OSError as error:
        raise EmulatorError(f"{option} {path}: {error.strerror}; name another") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EmulatorError(f"{option} {path}: {error}") from None


async def _flush_regularly(journal: Journal) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            journal.flush()
