"""What tocsin says in its own log that must not happen: an exception that it has caught, and a mistake of its own.

An exception that is caught ends no task, and what it has left undone may be made up for later: nothing else finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tests.simulator.judge import Invariant
from tests.simulator.loop import LIFE
from tests.simulator.world import World
from tocsin.store.ports import StorageFailure, WriteFailure

_FAILS_WITH_ITS_STORAGE: Final = (StorageFailure, WriteFailure)
"""What may be logged with an exception where the storage fails."""
_MISTAKE: Final = "a request failed unexpectedly"
_REFUSED: Final = "delivery failed"
"""At level error: tocsin should not have sent it."""
_UNKNOWN: Final = ": unknown answer"


def check_log(world: World, method: str, said: str, more: Mapping[str, Any], error: BaseException | None) -> None:
    """Judge one line of the log.

    Args:
        method: of the logger, which is its level.
        said: the line's sentence.
        more: its fields.
        error: the exception that was logged with it, where there is one.
    """
    life = LIFE.get()
    if life and world.has_ended(life):
        return  # its tasks are only taken away
    if error is not None:
        if not (world.storage_may_fail and isinstance(error, _FAILS_WITH_ITS_STORAGE)):
            world.judge.violated(Invariant.RUNS, f"{life or 'the world'}: {said}: {error!r}")
    elif _is_mistake(method, said) and not _was_told(world, said, more):
        world.judge.violated(Invariant.RUNS, f"{life or 'the world'} ({method}): {said}: {dict(more)}")


def _is_mistake(method: str, said: str) -> bool:
    return said == _MISTAKE or said.endswith(_UNKNOWN) or (said == _REFUSED and method == "error")


def _was_told(world: World, said: str, more: Mapping[str, Any]) -> bool:
    """Whether a trouble has the provider answer so: then tocsin takes for its own mistake what is none."""
    provider = str(more.get("lane") or said).partition(":")[0].partition("/")[0]
    return any(
        rule.status == more.get("status") and rule.reason == more.get("reason", "")
        for trouble in world.all_troubles
        if (rule := trouble.rule or trouble.answer) is not None and trouble.provider == provider
    )
