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


def test_the_measurements_of_the_plan_are_those_of_the_page_about_performance() -> None:
    measured = (PAGE.parent / "performance.md").read_text()
    rows = _medians(measured)
    assert float(rows["cpu_us_per_delivery"]) * 1.061 * 1.058 == plan.DELIVERY_US
    for factor in ("1.061", "1.058"):
        assert f"takes {factor} of the CPU" in measured
    assert float(rows["single_post_per_s"].replace(",", "")) == plan.POSTS_PER_S


def _medians(page: str) -> dict[str, str]:
    """The second column of each row of figures, by their names."""
    return {line.split("|")[1].strip(" `"): line.split("|")[2].strip() for line in page.splitlines() if "| `" in line}
