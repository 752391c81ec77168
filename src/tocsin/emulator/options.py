"""The emulator's options, and the type of its wall clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

Clock = Callable[[], float]
"""Returns the current time in Unix seconds, as `time.time` does."""


class EmulatorOptions(Struct, frozen=True, kw_only=True):
    """The options of one emulator.

    With `port` 0 the operating system assigns the ports. Otherwise APNs production, APNs sandbox, FCM, OAuth and the
    control API listen on `port`, `port + 1`, … `port + 4`.
    """

    directory: Path
    """Where the credentials and `emulator.json` are written; existing credentials are kept."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = 0
    topics: frozenset[str] = frozenset()
    """The only APNs topics that are allowed, each also with Apple's suffixes; empty allows all topics."""
    inbox_size: int = 20_000
    """The number of accepted pushes kept in memory; the oldest are dropped first."""
    known_tokens: int = 100_000
    """The maximum number of APNs device tokens for which environment and topic are remembered; later tokens are not."""
    journal: Path | None = None
    """A file to which one line of JSON is appended for each accepted push."""
    journal_bodies: bool = False
    """Whether a journal line also contains the push's data."""
    faults: Path | None = None
    """A TOML file with the fault script that applies from the start."""
    max_streams: int = 1000
    """SETTINGS_MAX_CONCURRENT_STREAMS of each HTTP/2 connection."""
    start_with_one_stream: bool = False
    """Whether an APNs connection allows one stream until a request has succeeded, as Apple's servers may."""
    token_update_interval_s: float = 0.0
    """The shortest time in seconds from when a provider token was seen first until a connection shows another;
    Apple's is 1200. 0: not checked."""
    access_token_lifetime_s: int = 3600
    """How long an OAuth access token is valid, in seconds."""
    more_projects: tuple[str, ...] = ()
    """Firebase projects beside `credentials.PROJECT_ID`, each with a service account of its own."""
    tls: bool = True
    """False: APNs, FCM and OAuth are served without TLS, for a simulated network.

    HTTP/2 then needs prior knowledge (RFC 9113, 3.3), client certificates are not possible, and the fault `tls_fail`
    closes a new connection at once.
    """
