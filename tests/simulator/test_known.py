"""Faults that are known and not mended yet: whether each is still there.

An unexpected pass means that it was mended: take it out of `known.py` and from here, and every run looks for it.
"""

from __future__ import annotations

import pytest
from msgspec import Struct
from msgspec.structs import replace

from tests.simulator import troubles
from tests.simulator.known import FAILING_DEVICES, KNOWN
from tests.simulator.plan import make_plan
from tests.simulator.run import run_seed
from tests.simulator.troubles import ROWS, Row, Scope

SEEDS = range(1, 13)


class Case(Struct, frozen=True):
    names: frozenset[str]
    """What is drawn although it is known."""
    troubles: frozenset[str]
    why: str

    def rows(self) -> tuple[Row, ...]:
        """Those that find it, and no others."""
        failing = FAILING_DEVICES in self.names
        return tuple(
            row for row in ROWS if row.name in self.names or (failing and row.fails and Scope.DEVICE in row.scopes)
        )


def of_rows(troubles: str, *names: str) -> Case:
    why = next(why for (name, _), why in KNOWN.items() if name in names)
    return Case(frozenset(names), frozenset({troubles}), why)


CASES = (
    Case(frozenset({FAILING_DEVICES}), frozenset({"devices"}), "one device's failures open the breaker of its lane"),
)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.why, marks=pytest.mark.xfail(reason=case.why, strict=False)) for case in CASES]
)
def test_a_known_fault_is_not_there_any_more(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles, "ROWS", case.rows())
    for seed in SEEDS:
        plan = replace(make_plan(seed), troubles=case.troubles)
        run = run_seed(seed, plan=plan, also=case.names)
        assert run.violation is None, f"seed {seed}: {run.violation}"


def test_every_known_fault_has_its_test() -> None:
    tested = frozenset().union(*(case.names for case in CASES))
    assert tested == {name for name, _ in KNOWN} | {FAILING_DEVICES}
