"""Fuzzes each target in a process of its own, which is watched: no input may raise, hang, or take memory for good."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.fuzz.targets import TARGETS

ROOT: Final = Path(__file__).parents[2]
CORPUS: Final = Path(__file__).parent / "corpus"
FOUND: Final = ROOT / "var" / "fuzz"
"""Where inputs are kept that fail."""
CANNOT: Final = "atheris is not installed: it has wheels for Linux on x86-64 and Python 3.11 to 3.13 alone"

LONGEST: Final = 4096
_HANGS_AFTER_S: Final = 20
"""For one input: generous, as others may use the machine."""
_MOST_MEMORY_MIB: Final = 700
_WITHOUT_ANSWER_S: Final = 3600.0
_RUNS: Final = re.compile(r"Done (\d+) runs|stat::number_of_executed_units:\s*(\d+)")

_KEPT: Final = re.compile(r"Test unit written to (\S+)")


class Fuzzed(Struct, frozen=True):
    """What became of one target."""

    target: str
    inputs: int
    failure: str
    """Empty, or the end of what the process has said."""
    kept: str
    """The file with the input that failed; empty where there is none."""


def is_possible() -> bool:
    return importlib.util.find_spec("atheris") is not None


def fuzz(inputs: int, seed: int, *, at_most_s: float | None = None, keep: bool = False) -> list[Fuzzed]:
    """Try so many inputs in all, the same number with each target; with `at_most_s`, none of them for longer.

    Args:
        seed: the same one draws the same inputs from the same corpus, as long as the code is the same.
        keep: add those inputs to the corpus that reach what no other reaches.
    """
    each = -(-inputs // len(TARGETS))
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as threads:
        return list(threads.map(lambda target: _fuzz(target, each, seed, at_most_s, keep), TARGETS))


def _fuzz(target: str, inputs: int, seed: int, at_most_s: float | None, keep: bool) -> Fuzzed:
    known = CORPUS / target
    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory) / "corpus"
        shutil.copytree(known, corpus)
        FOUND.mkdir(parents=True, exist_ok=True)
        arguments = [
            f"-runs={inputs}",
            f"-seed={seed}",
            f"-max_len={LONGEST}",
            f"-timeout={_HANGS_AFTER_S}",
            f"-rss_limit_mb={_MOST_MEMORY_MIB}",
            f"-artifact_prefix={FOUND / target}-",
            "-print_final_stats=1",
            *([] if at_most_s is None else [f"-max_total_time={int(at_most_s)}"]),
        ]
        status, said = _child([target, *arguments, str(corpus)])
        if status == 0 and keep:
            _child([target, "-merge=1", f"-max_len={LONGEST}", str(known), str(corpus)])
    counted = [int(one or other) for one, other in _RUNS.findall(said)]
    kept = _KEPT.search(said)
    return Fuzzed(
        target, max(counted, default=0), "" if status == 0 else said[-3000:], "" if kept is None else kept.group(1)
    )


def _child(arguments: Sequence[str]) -> tuple[int, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.child", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        timeout=_WITHOUT_ANSWER_S,
    )
    return ran.returncode, ran.stdout.decode("utf-8", "replace")
