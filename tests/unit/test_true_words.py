"""What is said to people of a push is what is known: that a provider accepted it, not that a phone has it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tocsin.cli.outcomes import in_words
from tocsin.domain.explanations import Code, Explanation, of_event
from tocsin.settings import Store

SOURCE = Path(__file__).parents[2] / "src" / "tocsin"
_UNKNOWN = re.compile(
    r"\b(?:was|were|is|are|not|be|been) (?:delivered|reached)\b(?! again)"
    r"|\b(?:did|does|do) not reach\b|\breach(?:es|ed)? (?:a|the|no|every|its) (?:device|phone)|\barrived\b"
    r"|\bdelivered (?:events|pushes)\b",
    re.IGNORECASE,
)
_OF_A_PROVIDER = re.compile(r"(?:cannot|could not|whether they can) be reached|Whether the server can be reached")
_FILES = [
    *sorted(SOURCE.glob("console/templates/**/*.html")),
    *sorted(SOURCE.glob("console/static/*.js")),
    *sorted(SOURCE.glob("console/**/*.py")),
    *sorted(SOURCE.glob("providers/*/sentences.py")),
    *(SOURCE / name for name in ("domain/explanations.py", "api/timeline.py", "api/admin/jobs.py")),
    *(SOURCE / "cli" / name for name in ("event.py", "deliveries.py", "dead_letters.py", "outcomes.py", "status.py")),
]


@pytest.mark.parametrize("file", _FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_text_says_of_a_push_what_nobody_knows(file: Path) -> None:
    texts = list(_texts(file))
    assert texts or file.name == "__init__.py"
    assert [text for text in texts if _UNKNOWN.search(_OF_A_PROVIDER.sub("", text))] == []


@pytest.mark.parametrize(
    ("text", "is_wrong"),
    [
        ("2 of 4 devices were reached.", True),
        ("what was not delivered by then", True),
        ("the devices that they did not reach", True),
        ("before the device was reached", True),
        ("The provider could not be reached: refused.", False),
        ("3 dead letters are delivered again.", False),
        ("accepted by Apple", False),
    ],
)
def test_the_check_tells_claims_from_facts(text: str, is_wrong: bool) -> None:
    assert bool(_UNKNOWN.search(_OF_A_PROVIDER.sub("", text))) is is_wrong


def test_a_time_that_is_a_setting_is_shown_as_its_default_and_said_to_be_one() -> None:
    store = Store()
    defaults = {f"{period.days} days" for period in (store.retention, store.dead_letter_retention, store.history)}
    sentences = [
        sentence
        for file in SOURCE.glob("console/templates/**/*.html")
        for sentence in re.split(r"[.:](?!\w)|</", file.read_text())
        if re.search(r"\d+ days", sentence)
    ]
    assert sentences
    for sentence in sentences:
        assert "unless" in sentence, sentence
        assert set(re.findall(r"\d+ days", sentence)) <= defaults, sentence


def test_what_the_event_page_says_of_reading_texts_agrees_with_the_runbook() -> None:
    page = (SOURCE / "console/templates/parts/event.html").read_text()
    runbook = (SOURCE.parents[1] / "docs/operating.md").read_text()
    assert "Who has read them is not recorded." in page
    assert "Reads are not in it." in runbook


def test_an_event_whose_devices_differ_says_for_how_many_the_push_was_accepted() -> None:
    fine = Explanation(Code.DELIVERED, "Apple accepted the push.")
    bad = Explanation(Code.REFUSED, "Google refuses it.", "Mend it.")
    told = of_event([fine, bad, fine])
    assert told.cause == "For 2 of 3 devices the provider accepted the push. For another it did not: Google refuses it."


def test_the_command_line_says_who_accepted() -> None:
    assert in_words("delivered") == "accepted by the provider"
    assert in_words("accepted") == "not tried yet"
    assert in_words("token_dead") == "token_dead"


def _texts(file: Path) -> Iterator[str]:
    """What people may read of a file: of Python its strings without docstrings, of others everything."""
    if file.suffix != ".py":
        yield from file.read_text().splitlines()
        return
    tree = ast.parse(file.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value
