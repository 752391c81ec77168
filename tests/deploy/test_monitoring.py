"""The dashboard and the alerts name metrics and labels that there are, and each alert is explained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.support.exposed import every_metric
from tests.support.promql import named

ROOT: Final = Path(__file__).parents[2]
ALERTS: Final = ROOT / "deploy/prometheus/alerts.yaml"
DASHBOARD: Final = ROOT / "deploy/grafana/tocsin.json"
OF_PROMETHEUS: Final = frozenset({"instance", "job"})
"""The labels that Prometheus gives to everything that it scrapes."""
METRICS: Final = every_metric() | {"up": frozenset[str]()}
_TEMPLATE: Final = re.compile(r"\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def targets() -> list[tuple[str, str]]:
    """Each expression of the dashboard, with the template of its legend."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(one["expr"], one["legendFormat"]) for panel in panels for one in panel.get("targets", [])]


def violations(expression: str, template: str) -> list[str]:
    """What an expression names that there is not, and what its template shows that its result does not have."""
    found, names = [], named(expression)
    there = OF_PROMETHEUS.union(*(METRICS.get(metric, ()) for metric in names.metrics))
    for metric, labels in names.metrics.items():
        if metric not in METRICS:
            found.append(f"no metric {metric}")
        else:
            found += [f"{metric} has no label {label}" for label in labels - METRICS[metric] - OF_PROMETHEUS]
    found += [f"no label {label} to group by" for label in names.grouping - there]
    shown = names.grouping if " by (" in expression else there
    found += [f"no label {label} to show" for label in set(_TEMPLATE.findall(template)) - shown]
    return [f"{one}: {expression}" for one in found]


@pytest.mark.parametrize(
    ("expression", "template", "found"),
    [
        ("tocsin_ready == 0", "{{ $labels.instance }}", []),
        ("sum by (le, lane) (rate(tocsin_delivery_seconds_bucket[5m]))", "{{lane}}", []),
        ("tocsin_raedy == 0", "", ["no metric tocsin_raedy"]),
        ('tocsin_lane_paused{status="open"} == 1', "", ["tocsin_lane_paused has no label status"]),
        ("sum by (user) (tocsin_waiting)", "", ["no label user to group by"]),
        ("sum by (lane) (tocsin_waiting)", "{{ $labels.instance }}", ["no label instance to show"]),
        ("rate(tocsin_deliveries[5m])", "", ["no metric tocsin_deliveries"]),
    ],
)
def test_a_name_that_there_is_not_is_found(expression: str, template: str, found: list[str]) -> None:
    assert violations(expression, template) == [f"{one}: {expression}" for one in found]


def test_alerts_name_only_metrics_and_labels_that_there_are() -> None:
    assert rules()
    found = [violations(rule["expr"], rule["annotations"]["summary"]) for rule in rules()]
    assert [one for some in found for one in some] == []


def test_the_dashboard_names_only_metrics_and_labels_that_there_are() -> None:
    assert targets()
    assert [one for expression, legend in targets() for one in violations(expression, legend)] == []


def test_what_an_alert_looks_at_is_to_be_seen_in_the_dashboard() -> None:
    looked_at = {metric for rule in rules() for metric in named(rule["expr"]).metrics}
    shown = {metric for expression, _ in targets() for metric in named(expression).metrics}
    assert looked_at - shown == {"up"}, "what Prometheus itself says"


def test_the_dashboards_variables_are_metrics_and_labels_that_there_are() -> None:
    queries = [
        one["definition"] for one in json.loads(DASHBOARD.read_text())["templating"]["list"] if "definition" in one
    ]
    for query in queries:
        matched = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
        assert matched is not None
        assert matched[1] in METRICS
        assert matched[2] in METRICS[matched[1]] | OF_PROMETHEUS


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def test_the_handbook_says_how_to_read_each_panel_of_the_dashboard() -> None:
    handbook = (ROOT / "docs/operating.md").read_text()
    section = handbook.partition("### Read the dashboard\n")[2].partition("\n### ")[0]
    read = {
        name for row in re.findall(r"^\| (\*.+?) \|", section, re.MULTILINE) for name in re.findall(r"\*(.+?)\*", row)
    }
    panels = {one["title"] for one in json.loads(DASHBOARD.read_text())["panels"] if one["type"] != "row"}
    assert read == panels


def test_each_alert_has_its_paragraph_in_the_handbook() -> None:
    """What it means, what to look at, what to do: three sentences at least."""
    handbook = (ROOT / "docs/operating.md").read_text()
    paragraphs = dict(re.findall(r"^\*\*(Tocsin\w+)\*\*:? (.+?)(?=\n\n|\Z)", handbook, re.MULTILINE | re.DOTALL))
    assert paragraphs.keys() == {rule["alert"] for rule in rules()}
    assert [name for name, text in paragraphs.items() if len(re.findall(r"[.:](?:\s|$)", text)) < 3] == []


def test_the_handbook_names_metrics_that_there_are() -> None:
    handbook = (ROOT / "docs/operating.md").read_text()
    metrics = set(re.findall(r"`(tocsin_\w+)(?:\{[\w,]*\})?`", handbook))
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in METRICS}
    assert metrics
    assert metrics - METRICS.keys() - families == set()


def promtool(*arguments: str | Path) -> None:
    """Run it; what it does not like fails the test."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip(reason="promtool, which is to judge the rules, is not installed (Debian: prometheus)")
    ran = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_promtool_takes_the_alerts() -> None:
    promtool("check", "rules", ALERTS)


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    shutil.copy(ALERTS, tmp_path)
    cases = Path(shutil.copy(Path(__file__).parent / "alerts_test.yaml", tmp_path))
    promtool("test", "rules", cases)


def test_promtool_takes_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    expressions = [expression.replace("$__rate_interval", "1m") for expression, _ in targets()]
    recorded = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(expressions)]
    (tmp_path / "dashboard.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", tmp_path / "dashboard.yaml")
