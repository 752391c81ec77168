"""Every row of the providers' tables is a trouble of the simulation, or is named here with the reason why not."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.simulator.plan import Size, make_plan
from tests.simulator.rows import DEATHS, NOT_FOR_TOPIC, ROWS
from tests.simulator.run import run_seed
from tests.simulator.shrink import replay
from tocsin.providers.apns import answers as apns_answers
from tocsin.providers.fcm import answers as fcm_answers

NOT_TRIED: Final[dict[tuple[str, int, str], str]] = {}
"""By provider, status and reason: why no trouble has it."""
_ANSWERED: Final = {
    (row.provider, row.fields["status"], reason)
    for row in ROWS
    if "status" in row.fields
    for reason in (row.fields["reason"], *row.instead)
} | {(provider, *death) for provider, deaths in DEATHS.items() for death in deaths}


@pytest.mark.parametrize(("provider", "table"), [("apns", apns_answers.TABLE), ("fcm", fcm_answers.TABLE)])
def test_every_row_of_a_providers_table_is_tried_or_named(provider: str, table: dict[tuple[int, str], Any]) -> None:
    missing = {(provider, *answer) for answer in table} - _ANSWERED
    assert missing == {answer for answer in NOT_TRIED if answer[0] == provider}


@pytest.mark.parametrize(("provider", "answers"), [("apns", apns_answers), ("fcm", fcm_answers)])
def test_every_status_is_tried_with_a_reason_that_no_table_knows(provider: str, answers: Any) -> None:
    """200 is no trouble. Google's HTML page for 404 has a rule of its own (`html_404`)."""
    unknown = {status for one, status, reason in _ANSWERED if one == provider and (status, reason) not in answers.TABLE}
    assert set(answers.BY_STATUS) - {200} - unknown == ({404} if provider == "fcm" else set())
    assert unknown - set(answers.BY_STATUS), "and a status that the table does not know"


def test_a_topic_that_the_devices_of_twenty_owners_are_not_for_is_paused_and_comes_back() -> None:
    plan = make_plan(1, troubles=frozenset({"crowds"}), size=Size.SHORT)
    run = run_seed(1, plan=plan, keep_all=True)
    assert run.violation is None, replay(plan, make_plan(1))
    said = [line for line in run.lines if "topic misconfigured" in line]
    assert any(f"reason={NOT_FOR_TOPIC}" in line for line in said)
    assert any("topic resumes" in line for line in run.lines)
