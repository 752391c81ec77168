"""A short run of `make power-loss`, as docs/power-loss.md describes it; and that it finds what is put into tocsin."""

from __future__ import annotations

from pathlib import Path
from random import SystemRandom

import pytest

from tests.power_loss import failures, recorder
from tests.power_loss.faults import FAULTS
from tests.power_loss.run import Bounds, judge_all
from tests.power_loss.stories import STORIES
from tests.power_loss.trace import Mark, Operation, marked

pytestmark = pytest.mark.slow

QUICK = Bounds(choices=4, samples=4)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = recorder.build(tmp_path_factory.mktemp("recorder"))
    if library is None:
        pytest.skip(reason=recorder.CANNOT)
    return library


@pytest.fixture(scope="module")
def recorded(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Operation]]:
    """What each story has done to its files."""
    operations = recorder.record(library, tmp_path_factory.mktemp("run") / "run", list(STORIES))
    ends = [at for at, one in enumerate(operations) if isinstance(one, Mark) and marked(one).kind == "ends"]
    return {
        story: operations[start:end]
        for story, start, end in zip(STORIES, [0, *(end + 1 for end in ends)], [end + 1 for end in ends], strict=False)
    }


@pytest.mark.parametrize("story", STORIES)
async def test_nothing_that_was_answered_is_missing_after_a_power_cut(
    story: str, recorded: dict[str, list[Operation]], tmp_path: Path
) -> None:
    seed = SystemRandom().getrandbits(32)
    result = await judge_all(recorded[story], tmp_path, seed, QUICK)
    assert result.states[story] > 10
    assert not result.failures, f"seed {seed}: {failures.kept(result.failures)}"


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_loses_what_was_answered_is_found(fault: str, library: Path, tmp_path: Path) -> None:
    operations = recorder.record(library, tmp_path / "run", FAULTS[fault].stories, fault=fault)
    result = await judge_all(operations, tmp_path, 1, Bounds(choices=6, samples=2, failures=1))
    assert result.failures, f"of {result.states.total()} states none has failed"


async def test_a_state_that_has_failed_is_kept_and_fails_again(library: Path, tmp_path: Path) -> None:
    fault = "a migration is two commits"
    operations = recorder.record(library, tmp_path / "run", FAULTS[fault].stories, fault=fault)
    [failure] = (await judge_all(operations, tmp_path, 1, Bounds(choices=20, failures=1))).failures
    failures.keep(failure, tmp_path / "kept")
    assert [sentence.partition("no such")[1:] for sentence in await failures.replay(tmp_path / "kept")] == [
        sentence.partition("no such")[1:] for sentence in failure.wrong
    ]
