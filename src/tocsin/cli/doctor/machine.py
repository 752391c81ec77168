"""The machine: free space, open files."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tocsin.cli.doctor.findings import Finding, ok, problem, warning
from tocsin.settings import Settings
from tocsin.store import maintenance

_LEAST_FREE_BYTES: Final = 256 * 1024 * 1024
_FILES_BESIDE: Final = 256
"""The store's files, the connections to providers, the log."""


def machine(settings: Settings) -> Iterator[Finding]:
    directory = maintenance.directory(settings)
    if directory is not None:
        yield _space(directory, settings.store.max_backlog_bytes)
    yield _open_files(settings)


def _space(path: Path, backlog: int) -> Finding:
    """`backlog`: bytes that the backlog may have at most."""
    directory = os.path.realpath(path)
    while not os.path.exists(directory):  # The first start makes it.
        directory = os.path.dirname(directory)
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return problem("disk", f"{directory}: {error.strerror}", "store.path must be on a disk that works")
    told = f"{directory}: {_size(free)} are free"
    if free < _LEAST_FREE_BYTES:
        return problem("disk", told, "make room: without it tocsin accepts nothing")
    if free < backlog:
        remedy = "make room, or set a lower store.max_backlog_bytes"
        return warning("disk", f"{told}, and the backlog alone may become {_size(backlog)}", remedy)
    return ok("disk", told)


def _open_files(settings: Settings) -> Finding:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.server.max_connections + _FILES_BESIDE
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return ok("open files", "no limit here" if limit == resource.RLIM_INFINITY else f"up to {limit} here")
    return warning(
        "open files",
        f"up to {limit} here, and {needed} may be needed: server.max_connections is {settings.server.max_connections}",
        f"start the server with `ulimit -n {needed}` (systemd: LimitNOFILE), or set a lower server.max_connections",
    )


def _size(count: int) -> str:
    gib = count / 1024**3
    return f"{gib:.1f} GiB" if gib >= 1 else f"{count / 1024**2:.0f} MiB"
