"""How much to measure."""

from msgspec import Struct


class Sizes(Struct, frozen=True):
    users: int
    events: int
    rounds: int
    peer_pushes: int
    posts: int
    many_users: int
    backlog: int
    latency_s: float
    memory_s: float
    attempts: int
    """On record, for searches."""
    imported: int
    """Devices that move in."""
    snapshot_s: float
    """How long a reader holds a snapshot while partitions come and go."""
    old_day: int
    """Events of each of the days that go meanwhile."""


QUICK = Sizes(10_000, 20_000, 2, 10_000, 8_000, 0, 0, 3, 0, 0, 0, 0, 0)
FULL = Sizes(100_000, 100_000, 5, 40_000, 40_000, 1_000_000, 1_000_000, 20, 300, 10_000_000, 1_000_000, 600, 300_000)
