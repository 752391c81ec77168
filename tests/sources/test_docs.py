"""The page about sources is true: its settings can be loaded, its example is an event."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tocsin.domain.events import parse_event
from tocsin.settings import load
from tocsin.telemetry import Metrics

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()


def test_the_settings_of_the_page_can_be_copied(tmp_path: Path) -> None:
    [settings] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "tocsin.toml"
    file.write_text(settings)
    nats = load(file, {}).sources.nats
    assert nats is not None
    assert (nats.stream, nats.subjects, nats.refusals_subject) == ("EVENTS", ("events.normal",), "refused.events")


def test_the_example_of_the_page_is_an_event_on_a_subject_of_the_page() -> None:
    [command] = re.findall(r"^\$ (nats pub .*)$", PAGE, re.MULTILINE)
    _, _, subject, body, *_ = shlex.split(command)
    assert subject == "events.normal"
    assert parse_event(body.encode()).message == "fax_new"


def test_every_metric_of_the_page_is_exposed() -> None:
    exposed = {metric.name for metric in Metrics().registry.collect()}
    named = set(re.findall(r"`(tocsin_source_\w+)\{", PAGE))
    assert len(named) == 7
    assert {name.removesuffix("_total") for name in named} <= exposed
