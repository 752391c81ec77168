"""Makes a plan that fails smaller, while it still violates the same invariant: fewer kinds of trouble, fewer actors,
shorter."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from shlex import quote
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from tests.simulator.judge import Invariant
from tests.simulator.network import Latency
from tests.simulator.plan import Plan, fitted
from tests.simulator.run import Run, run_seed

_PLAIN: Final[dict[str, Any]] = {
    "quiet_s": 0.0,
    "two_projects": False,
    "bursts": 1,
    "churn": False,
    "repeats": False,
    "wrong_environments": False,
    "skew_s": 0.0,
    "rich_owners": 0,
    "most_events_at_once": 1,
    "body_bytes": 20,
    "start_with_one_stream": False,
    "token_update_interval_s": 0.0,
    "latency": Latency(0.001, 0.002),
    "provider_latency_ms": (2.0, 10.0),
    "commit_s": 0.001,
}
_SOME_CALLBACKS: Final = 100_000
_HALVED: Final = {"fault_s": 5.0, "owners": 1, "most_phones": 1, "rich_phones": 1}
"""With the least that each may be."""


def shrunk(
    failed: Run, plan: Plan, *, most_runs: int, most_s: float = float("inf"), run: Callable[..., Run] = run_seed
) -> Plan:
    """The smallest plan that was found with `most_runs` runs, of which none begins after `most_s`."""
    assert failed.violation is not None
    until_s = time.monotonic() + most_s
    most_callbacks = 2 * failed.callbacks + _SOME_CALLBACKS
    smaller: Plan | None = plan
    while smaller is not None:
        plan, smaller = smaller, None
        for candidate in _smaller(plan):
            if most_runs <= 0 or time.monotonic() > until_s:
                return plan
            most_runs -= 1
            if _fails(run(plan.seed, plan=candidate, most_callbacks=most_callbacks), failed.violation.invariant):
                smaller = candidate
                break
    return plan


def _fails(run: Run, invariant: Invariant) -> bool:
    return run.violation is not None and run.violation.invariant is invariant


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans that have less of one thing; what takes most away comes first."""
    if len(plan.troubles) > 1:
        for kind in sorted(plan.troubles):
            yield fitted(replace(plan, troubles=plan.troubles - {kind}))
    for name, least in _HALVED.items():
        value = getattr(plan, name)
        if value > least:
            yield _with(plan, name, max(least, value // 2 if isinstance(value, int) else value / 2))
    for name, plain in _PLAIN.items():
        if getattr(plan, name) != plain:
            yield _with(plan, name, plain)


def _with(plan: Plan, name: str, value: Any) -> Plan:
    # As it is: a plan that is fitted again could get back what was taken from it.
    return replace(plan, **{name: value})


def changes(plan: Plan, since: Plan) -> str:
    """What of a plan is another than in `since`, as JSON: `changed` makes that plan of it again."""
    own, before = msgspec.to_builtins(plan, order="deterministic"), msgspec.to_builtins(since, order="deterministic")
    return msgspec.json.encode({name: value for name, value in own.items() if value != before[name]}).decode()


def changed(plan: Plan, by: str) -> Plan:
    """Raises msgspec.ValidationError: it is not what `changes` writes."""
    return msgspec.convert(msgspec.to_builtins(plan) | msgspec.json.decode(by, type=dict[str, Any]), type(plan))


def replay(plan: Plan, own: Plan, more: str = "") -> str:
    """The command that runs a plan again; `own` is the one that the program makes of its seed and of the options
    `more`."""
    by = changes(plan, own)
    what = "" if by == "{}" else f" --with {quote(by)}"
    return f".venv/bin/python -m tests.simulator --seed {plan.seed}{more}{what}"
