"""A short run of `make fuzz`; and the corpus, which is gone through on every machine."""

from __future__ import annotations

import base64
import gc
import re
import subprocess
import sys
from typing import Final

import pytest
from structlog.testing import capture_logs

from tests.fuzz.run import CANNOT, CORPUS, LONGEST, ROOT, is_possible
from tests.fuzz.targets import TARGETS, Run, made
from tocsin.sign_in.json_web_token import JsonWebTokens

_LARGEST_CORPUS_BYTES: Final = 512 * 1024
_COUNTED: Final = re.compile(r"^(\S+) +([0-9,]+) inputs$", re.MULTILINE)


def seeds(target: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((CORPUS / target).iterdir())]


@pytest.mark.slow
@pytest.mark.timeout(900)  # some twenty seconds where nobody else uses the machine
def test_no_input_crashes_hangs_or_grows_memory() -> None:
    if not is_possible():
        pytest.skip(reason=CANNOT)
    # By a process that is small: what it starts is limited in memory, and Linux counts in what the starting one had.
    run = subprocess.run([sys.executable, "-m", "tests.fuzz", "--quick"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    counts = {target: int(inputs.replace(",", "")) for target, inputs in _COUNTED.findall(run.stdout)}
    assert counts.keys() == set(TARGETS)
    assert min(counts.values()) > 50, counts


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_taken_or_refused_as_it_must_be(target: str) -> None:
    run = made(target)
    with capture_logs():
        for data in seeds(target):
            run(data)


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_inputs_again_and_again_leave_no_object_behind(target: str) -> None:
    run, given = made(target), seeds(target)
    with capture_logs():
        counts = [_objects_after(run, given) for _ in range(4)]
    # What is remembered on purpose is there after the first rounds.
    assert counts[-1] - counts[-2] < 20, counts


def _objects_after(run: Run, given: list[bytes]) -> int:
    for _ in range(20):
        for data in given:
            run(data)
    gc.collect()
    return len(gc.get_objects())


def test_a_signature_that_nobody_checks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JsonWebTokens, "_is_signed", lambda *_: True)
    header, claims, signature = (CORPUS / "jwt" / "good").read_bytes().split(b".")
    read = base64.urlsafe_b64decode(claims + b"=" * (-len(claims) % 4))
    others = base64.urlsafe_b64encode(read + b" ").rstrip(b"=")
    with pytest.raises(AssertionError, match="nobody has signed"):
        made("jwt")(b".".join([header, others, signature]))


def test_the_corpus_is_small() -> None:
    files = [file for file in CORPUS.rglob("*") if file.is_file()]
    assert {file.parent.name for file in files} == set(TARGETS)
    assert max(file.stat().st_size for file in files) <= LONGEST
    assert sum(file.stat().st_size for file in files) < _LARGEST_CORPUS_BYTES
