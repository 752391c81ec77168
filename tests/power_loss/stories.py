"""What is recorded: everything that tocsin answers for, one story for each kind, small enough to try all its cuts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.power_loss.data_stories import access, queue, registry, rekey
from tests.power_loss.file_stories import (
    backup,
    failed_sync,
    first_start,
    hours,
    migration,
    restore,
    restore_first,
    second_cut,
    vacuum,
)
from tests.power_loss.scene import Scene
from tests.power_loss.told import Told
from tests.sqlite.old_stores import EARLIER
from tests.support.clocks import Clocks

Story = Callable[[Scene], Awaitable[None]]
STORIES: Final[dict[str, Story]] = {
    "queue": queue,
    "registry": registry,
    "access": access,
    "rekey": rekey,
    "first-start": first_start,
    **{f"migration-{version}": partial(migration, version=version) for version in EARLIER},
    **{f"migration-{version}-killed": partial(migration, version=version, killed=True) for version in EARLIER[-2:]},
    "second-cut": second_cut,
    "failed-sync": failed_sync,
    "vacuum": vacuum,
    "hours": hours,
    "backup": backup,
    "restore": restore,
    "restore-first": restore_first,
}


async def tell(name: str, root: Path, elsewhere: Path, told: Told, rounds: int) -> None:
    """Run one story in `root/name`. At its end all is as it has said."""
    scene = Scene(told, Clocks(), root / name, elsewhere / name, name, rounds)
    scene.directory.mkdir()
    scene.elsewhere.mkdir()
    await STORIES[name](scene)
    told.ends()
