"""A short run of `make power-loss`, as docs/power-loss.md describes it; and that it finds what is put into tocsin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import SystemRandom

import pytest

from tests.power_loss import __main__ as command
from tests.power_loss import failures, recorder
from tests.power_loss.faults import FAULTS
from tests.power_loss.run import QUICK, Bounds, judge_all
from tests.power_loss.stories import STORIES
from tests.power_loss.trace import Create, Mark, Operation, Rename, Sync, Write, marked

pytestmark = pytest.mark.slow


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
    assert result.states[story] >= 8, "the shortest story has eleven to fourteen, as it is drawn"
    assert not result.failures, f"seed {seed}: {failures.kept(result.failures)}"


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_loses_what_was_answered_is_found(fault: str, library: Path, tmp_path: Path) -> None:
    operations = recorder.record(library, tmp_path / "run", FAULTS[fault].stories, fault=fault)
    result = await judge_all(operations, tmp_path, 1, Bounds(choices=6, samples=2, failures=1))
    assert result.failures, f"of {result.states.total()} states none has failed"


@pytest.mark.parametrize(
    ("writes", "is_recorded"),
    [("os.write(file, b'x')", True), ("os.writev(file, [b'x'])", False), ("os.truncate('ROOT/a', 3)", False)],
)
def test_what_the_recorder_cannot_record_ends_the_process(
    writes: str, is_recorded: bool, library: Path, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    text = f"import os; file = os.open('ROOT/a', os.O_CREAT | os.O_WRONLY); {writes}"
    ran = subprocess.run(
        [sys.executable, "-c", text.replace("ROOT", str(tmp_path / "root"))],
        env={"LD_PRELOAD": str(library), "RECORD_ROOT": str(tmp_path / "root"), "RECORD_LOG": str(tmp_path / "log")},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode == 0) is is_recorded, ran.stderr
    if not is_recorded:
        assert "the recorder does not record" in ran.stderr


def test_what_the_recorder_has_missed_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"xy")
    (tmp_path / "b-shm").touch()
    operations: list[Operation] = [Create("a", 1), Write(1, 0, b"x"), Sync(1)]
    assert recorder.missed(operations, tmp_path) == ["a has another content"]
    assert recorder.missed([*operations, Write(1, 1, b"y")], tmp_path) == []
    assert recorder.missed([*operations, Create("c", 2), Rename("a", "d")], tmp_path) == [
        "c was made, and is not there",
        "d was made, and is not there",
        "a is there, and was not made",
    ]


async def test_a_state_that_has_failed_is_kept_and_fails_again(library: Path, tmp_path: Path) -> None:
    fault = "a migration is two commits"
    operations = recorder.record(library, tmp_path / "run", FAULTS[fault].stories, fault=fault)
    [failure] = (await judge_all(operations, tmp_path, 1, Bounds(choices=20, failures=1))).failures
    failures.keep(failure, tmp_path / "kept")
    assert [sentence.partition("no such")[1:] for sentence in await failures.replay(tmp_path / "kept")] == [
        sentence.partition("no such")[1:] for sentence in failure.wrong
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [([], "at least 100,000 different states"), (["--minutes", "1"], "at least 1 different states")],
)
def test_a_run_that_has_tried_too_few_states_fails(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recorder, "build", lambda directory: directory)
    monkeypatch.setattr(recorder, "record", lambda _, directory, *__, **___: directory.mkdir() or [])
    assert _status(arguments, monkeypatch) == 1
    assert sentence in capsys.readouterr().out


def test_a_run_that_cannot_try_anything_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert _status([], monkeypatch) == 1
    assert f"Nothing was tried: {recorder.CANNOT}" in capsys.readouterr().out


def _status(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """What `make power-loss` with these ends with."""
    monkeypatch.setattr("sys.argv", ["power_loss", *arguments])
    monkeypatch.setattr("structlog.configure", lambda **_: None)
    with pytest.raises(SystemExit) as ended:
        command.main()
    return ended.value.code
