"""Goes through a recorded run, cut by cut, and judges states that each cut could leave."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

import msgspec
from msgspec import Struct

from tests.power_loss.disk import Disk, State, state_of
from tests.power_loss.expected import Expected
from tests.power_loss.judge import Found, start_on
from tests.power_loss.scene import STORE, STORES
from tests.power_loss.states import kept_of
from tests.power_loss.trace import FailedSync, Mark, Operation, Sync, SyncDirectory, marked


class Bounds(Struct, frozen=True, kw_only=True):
    """How much is tried."""

    samples: int = 0
    """Random subsets for each operation that is pending at a cut."""
    choices: int | None = None
    """So many states of each cut at most, drawn at random; None: all."""
    until: float | None = None
    """When to stop (`time.monotonic`); None: when all are tried."""
    failures: int = 10
    """After so many it stops."""


QUICK: Final = Bounds(choices=4, samples=10)
"""What `make power-loss-quick` tries, and the same in `make test`."""


class Failure(Struct, frozen=True):
    story: str
    state: State
    expected: Expected
    wrong: list[str]


class Result(Struct):
    states: Counter[str]
    """How many different ones were opened, by story."""
    cuts: Counter[str]
    judged: int
    """How often one was compared with what had been answered: many states can come from more than one cut."""
    failures: list[Failure]
    complete: bool = True
    took_s: float = 0.0


class Cut(Struct, frozen=True):
    """An instant at which the power may go, and what had been answered by then."""

    story: str
    disk: Disk
    expected: Expected


def cuts_of(operations: Sequence[Operation]) -> Iterator[Cut]:
    """The instants that differ: before each sync, after each answer, and the end of each story.

    What is left by a cut between these is among the states of the next one: there, all that came later is pending.
    """
    disk, expected, story = Disk(), Expected(), ""
    for operation in operations:
        if isinstance(operation, Sync | FailedSync | SyncDirectory) and story:
            yield Cut(story, disk, expected)
        disk.do(operation)
        if not isinstance(operation, Mark):
            continue
        mark = marked(operation)
        expected.hear(mark)
        if mark.kind == "begins":
            disk.settle()
            story = mark.name
        if mark.kind in {"answers", "refuses", "ends"}:
            yield Cut(story, disk, expected)
        if mark.kind == "ends":
            disk, story = Disk(), ""


async def judge_all(
    operations: Sequence[Operation],
    directory: Path,
    seed: int,
    bounds: Bounds,
    tried: Callable[[str, Result], None] = lambda story, result: None,
) -> Result:
    """Start on all states that are tried of every cut. `directory` is where they are laid out, one after the other;
    `tried` is called after each story."""
    result = Result(Counter(), Counter(), 0, [])
    began, random = time.monotonic(), Random(seed)
    seen: dict[bytes, Found] = {}
    alike: dict[bytes, Found] = {}
    story = ""
    for cut in cuts_of(operations):
        if story and cut.story != story:
            tried(story, result)
        story = cut.story
        result.cuts[story] += 1
        for state in _states(cut, random, bounds):
            if bounds.until is not None and time.monotonic() > bounds.until:
                result.complete = False
                break
            found = seen.get(state.hash)
            if found is None:
                found = await start_on(state, directory / "disk", store_of(cut.story))
                # Of a hundred thousand states most are found alike: each kind is kept once.
                found = seen[state.hash] = alike.setdefault(msgspec.json.encode(found), found)
                result.states[cut.story] += 1
            result.judged += 1
            if wrong := found.faults or cut.expected.wrong_in(found.facts):
                result.failures.append(Failure(cut.story, state, cut.expected.now(), wrong))
                break
        if not result.complete or len(result.failures) >= bounds.failures:
            break
    tried(story, result)
    result.took_s = time.monotonic() - began
    return result


def store_of(story: str) -> str:
    return STORES.get(story, STORE)


def _states(cut: Cut, random: Random, bounds: Bounds) -> Iterator[State]:
    """The different states of one cut."""
    choices = list(kept_of(cut.disk.optional, random, bounds.samples))
    if bounds.choices is not None and len(choices) > bounds.choices:
        # What was synced alone, and everything, are always among them.
        choices = [*choices[:2], *random.sample(choices[2:], bounds.choices - 2)]
    hashes = set()
    for kept in choices:
        state = state_of(cut.disk.after(kept), cut.story)
        if state.hash not in hashes:
            hashes.add(state.hash)
            yield state
