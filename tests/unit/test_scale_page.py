"""docs/scale.md: the plan is what is worked out from the measurements."""

from __future__ import annotations

from pathlib import Path

from benchmarks import plan

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_the_plan_of_the_page_is_what_follows_from_its_measurements() -> None:
    page = PAGE.read_text()
    for table in plan.tables().split("\n\n"):
        assert table.strip() in page, "run `python -m benchmarks.plan`, and put its tables into the page"


def test_the_capacity_in_the_handbook_is_what_was_measured() -> None:
    section = (PAGE.parent / "operating.md").read_text().partition("\n## Capacity\n")[2].partition("\n## ")[0]
    measured = _medians((PAGE.parent / "performance.md").read_text())
    said = _medians(section)
    assert len(said) >= 6
    assert said.items() <= measured.items()
    assert f"{plan.EVENTS_PER_S:,} deliveries a second" in section


def test_the_measurements_of_the_plan_are_those_of_the_page_about_performance() -> None:
    measured = (PAGE.parent / "performance.md").read_text()
    rows = _medians(measured)
    assert float(rows["cpu_us_per_delivery"]) == plan.DELIVERY_US
    assert float(rows["postgres_single_post_per_s"].replace(",", "")) == plan.POSTS_PER_S
    assert float(rows["postgres_per_s"].replace(",", "")) == plan.EVENTS_PER_S
    assert f"A delivery takes some {plan.POSTGRES_US} µs of PostgreSQL's own CPU" in measured


def test_the_sizes_of_a_small_platform_are_the_same_measurements() -> None:
    sizing = PAGE.read_text().partition("## How much it takes")[2].partition("\n## ")[0].replace("\n", " ")
    assert f"{plan.POSTGRES_US} µs of PostgreSQL's" in sizing
    assert f"{plan.EVENTS_PER_S:,} deliveries a second" in sizing
    measured = (PAGE.parent / "performance.md").read_text().replace("\n", " ")
    assert "the index of the search 8" in measured
    assert "8 of them for the index of the search" in sizing


def _medians(page: str) -> dict[str, str]:
    """The second column of each row of figures, by their names."""
    return {line.split("|")[1].strip(" `"): line.split("|")[2].strip() for line in page.splitlines() if "| `" in line}
