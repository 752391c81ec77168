"""The pure parts of the console: charts, numbers and times in words, what needs attention, conditions."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.console import formats, words
from tocsin.console.attention import attention, credential_tones
from tocsin.console.charts import HEIGHT, WIDTH, Series, chart, nice_top
from tocsin.console.pages import overview
from tocsin.console.pages.overview import _values
from tocsin.console.records import (
    Account,
    Backlog,
    Check,
    Explanation,
    Figures,
    Job,
    Jobs,
    Lane,
    Node,
    Pause,
    Preview,
    Quarantined,
)
from tocsin.console.rendering import Assets, Renderer
from tocsin.console.searching import Conditions, hold
from tocsin.console.sessions import Sessions

NOW = datetime(2026, 11, 26, 21, 0, tzinfo=UTC)
AT = "2026-11-26T20:59:58.500Z"


def test_the_quarantine_says_of_how_many_tokens_what_has_put_them_there() -> None:
    assert words.quarantine(Quarantined("a", 3)) == "declared dead in suspicious numbers"
    assert words.quarantine(Quarantined("a", 3, for_topic=3)) == "not for their topic for a week"
    mixed = words.quarantine(Quarantined("a", 1203, for_topic=3))
    assert mixed == "1,200 declared dead in suspicious numbers, 3 not for their topic for a week"


def test_how_many_match_is_said_as_exactly_as_it_is_known() -> None:
    assert words.how_exact(Preview(exact=True)) == ""
    assert words.how_exact(Preview(exact=False)) == "about "
    assert words.how_exact(Preview(exact=False, at_least=True)) == "at least "


@pytest.mark.parametrize(
    ("job", "shown", "not_shown"),
    [
        (Job("job_1", "restore", "running", AT, AT, 7, 1, None), ["<progress aria-label"], [" of about"]),
        (Job("job_1", "restore", "running", AT, AT, 7, 1, 20), ['max="20" value="8"', "of about 20"], []),
        (Job("job_1", "restore", "running", AT, AT, 25, 1, 20), ["<progress aria-label"], ["of about"]),
        (Job("job_1", "restore", "done", AT, AT, 7, 1, 20), [], ["<progress", "of about"]),
    ],
    ids=["total not known", "within the estimate", "more than was estimated", "ended"],
)
def test_how_far_a_job_is_is_shown_against_its_estimate_only_while_that_tells_something(
    job: Job, shown: list[str], not_shown: list[str]
) -> None:
    renderer = Renderer(Assets(), lambda: NOW)
    _, session = Sessions(timedelta(hours=8), lambda: 0.0).create("key")
    pages = [
        renderer.render("parts/job.html", job=job, csrf="", session=session),
        renderer.render("parts/jobs.html", listed=Jobs([job]), start=None),
    ]
    assert all(part in pages[0] for part in shown)
    assert not any(part in page for page in pages for part in not_shown)


def test_more_jobs_are_a_page_away() -> None:
    renderer = Renderer(Assets(), lambda: NOW)
    job = Job("job_1", "restore", "done", AT, AT)
    more = renderer.render("parts/jobs.html", listed=Jobs([job], "17"), start=None)
    assert ('href="/jobs?start=17"' in more, 'href="/jobs"' in more) == (True, False)
    last = renderer.render("parts/jobs.html", listed=Jobs([job]), start="17")
    assert ("start=" in last, 'href="/jobs"' in last) == (False, True)
    assert "pages" not in renderer.render("parts/jobs.html", listed=Jobs([job]), start=None)


def plain(text: str) -> str:
    """With spaces where no line may end."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


@given(st.floats(min_value=0, max_value=1e9))
def test_no_line_ends_between_a_number_and_its_unit(number: float) -> None:
    for shown in (formats.duration(number), formats.milliseconds(number), formats.size(number)):
        assert not re.search(r"\d [a-zA-Z]", shown)
        assert re.search("\\d\N{NO-BREAK SPACE}[a-zA-Z]", shown)


@given(st.floats(min_value=1e-6, max_value=1e12))
def test_the_top_of_a_scale_is_a_round_number_not_below_the_value(value: float) -> None:
    top = nice_top(value)
    assert value * (1 - 1e-6) <= top <= 10.0001 * value
    assert float(f"{top:.0e}"[0]) in (1, 2, 5)


@given(st.lists(st.none() | st.floats(min_value=0, max_value=1e9), max_size=400))
def test_every_point_of_a_chart_lies_in_its_box(values: list[float | None]) -> None:
    drawn = chart([Series("a", "a", values)], span=300)
    numbers = [pair.split(",") for part in drawn.lines[0].path.split("M") for pair in part.split("L") if pair]
    for x, y in numbers:
        assert 0 <= float(x) <= WIDTH
        assert 0 <= float(y) <= HEIGHT
    assert len(numbers) <= 2 * 151
    if values and values[-1] is not None:
        assert float(numbers[-1][0]) == WIDTH


def test_a_peak_of_one_second_is_seen_in_a_chart_of_five_minutes() -> None:
    values = [0.0] * 300
    values[123] = 40.0
    drawn = chart([Series("a", "a", values)], span=300)
    assert drawn.top == 50
    assert f",{HEIGHT * (1 - 40 / 50):.1f}" in drawn.lines[0].path


def test_what_is_unknown_is_a_gap_and_not_zero() -> None:
    drawn = chart([Series("a", "a", [1.0, 1.0, None, None, 1.0, 1.0])])
    assert drawn.lines[0].path.count("M") == 2


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.0834, "83 ms"),
        (1.04, "1 s"),
        (9.44, "9.4 s"),
        (75, "1 min 15 s"),
        (3600, "1 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert plain(formats.duration(seconds)) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [(AT, "1 s ago"), ("2026-11-26T20:00:00Z", "1 h ago"), ("2026-11-26T21:02:30Z", "in 2 min"), (None, "never")],
)
def test_a_time_in_words(text: str | None, words: str) -> None:
    assert plain(formats.ago(text, NOW)) == words


def _lane(**more: Any) -> Lane:
    return Lane("apns:production:TEAM.app", provider="apns", environment="production", account="TEAM.app", **more)


def test_nothing_needs_attention_where_all_is_well() -> None:
    figures = Figures(AT, lanes=[_lane()], nodes=[Node("a", lanes=[_lane()])])
    assert attention(figures, [Account("apns", "TEAM.app", "key")], NOW) == []


def test_a_paused_lane_is_named_once_with_cause_and_remedy() -> None:
    pause = Pause(
        "credential", "403 InvalidProviderToken", explanation=Explanation("bad_credential", "Cause.", "Remedy.")
    )
    lane = _lane(state="paused", reason="403 InvalidProviderToken", pauses=[pause])
    problem = "lane apns:production:TEAM.app is paused"
    figures = Figures(AT, lanes=[lane], nodes=[Node("a", lanes=[lane], problems=[problem])], problems=[problem])
    account = Account("apns", "TEAM.app", last_check=Check(False, AT, "Apple does not accept it."))
    (matter,) = attention(figures, [account], NOW)
    assert (matter.title, matter.cause, matter.remedy) == ("Apple, production: paused", "Cause.", "Remedy.")


def test_a_lane_says_what_is_in_memory_and_that_more_waits_in_the_store() -> None:
    renderer = Renderer(Assets(), lambda: NOW)
    account = "TEAM123456.org.example.app"
    parked = Lane("apns:sandbox:x", "paused", "why", provider="apns", account=account, parked_due_at=AT)
    for lane, waits in ((parked, True), (Lane("apns:production:x"), False)):
        values = overview._values(Figures(AT, lanes=[lane]), [], None)
        shown = renderer.render("parts/overview.html", **values)
        assert "<dt>in memory</dt><dd>0</dd>" in shown
        link = f'href="/deliveries?outcome=waiting&amp;account={account}"'
        assert ("More waits in the store" in shown, link in shown) == (waits, waits)


def test_what_a_node_says_of_itself_is_said_once() -> None:
    figures = Figures(AT, nodes=[Node("a", problems=["the store cannot write"])], problems=["the store cannot write"])
    (matter,) = attention(figures, [], NOW)
    assert (matter.title, matter.cause) == ("Not ready", "the store cannot write")
    several = Figures(AT, nodes=[Node("a", problems=["x"]), Node("b", problems=["x"]), Node("c")], problems=["x"])
    assert [matter.title for matter in attention(several, [], NOW)] == ["a, b: not ready"]


def test_lanes_that_are_paused_for_one_cause_are_named_together() -> None:
    def lane(environment: str, cause: str) -> Lane:
        pause = Pause("credential", explanation=Explanation("bad_credential", cause, "Remedy."))
        return Lane(
            f"apns:{environment}:TEAM.app",
            "paused",
            provider="apns",
            environment=environment,
            account="TEAM.app",
            pauses=[pause],
        )

    figures = Figures(AT, lanes=[lane("production", "One."), lane("sandbox", "One.")])
    assert [matter.title for matter in attention(figures, [], NOW)] == ["Apple, production; Apple, sandbox: paused"]
    figures = Figures(AT, lanes=[lane("production", "One."), lane("sandbox", "Another.")])
    assert len(attention(figures, [], NOW)) == 2


def test_a_credential_is_named_before_it_ends_and_after() -> None:
    def account(days: float) -> Account:
        ends = (NOW + timedelta(days=days)).isoformat()
        return Account("apns", "TEAM.app", "certificate", expires_at=ends)

    assert attention(Figures(AT), [account(31)], NOW) == []
    (near,) = attention(Figures(AT), [account(29)], NOW)
    assert "near its end" in near.title
    (over,) = attention(Figures(AT), [account(-1)], NOW)
    assert over.tone == "bad"
    assert credential_tones([account(31), account(29), account(-1)], NOW) == {
        account(31): "good",
        account(29): "wait",
        account(-1): "bad",
    }


def test_a_node_that_is_gone_an_old_backlog_and_the_dead_letters_are_named_the_worst_first() -> None:
    figures = Figures(
        AT,
        nodes=[Node("a"), Node("b", gone=True, age_s=90)],
        backlog=Backlog(3, 900, AT, 300),
        dead_letters=12,
        quarantined=["TEAM.app"],
    )
    titles = [matter.title for matter in attention(figures, [], NOW)]
    assert titles[0] == "b: gone"
    assert set(titles) == {"b: gone", "Events wait for long", "12 dead letters", "Devices are in quarantine"}


@pytest.mark.parametrize(
    ("gone", "left", "said"),
    [
        (Node("b", gone=True, age_s=90), Node("a"), "the other nodes have taken over what it had"),
        (Node("b", gone=True, age_s=90), Node("a", delivers=False), "no node is left that delivers"),
        (Node("b", gone=True, age_s=90, delivers=False), Node("a"), "It served the API alone"),
    ],
)
def test_of_a_node_that_is_gone_it_is_said_what_becomes_of_what_it_had(gone: Node, left: Node, said: str) -> None:
    (matter,) = [one for one in attention(Figures(AT, nodes=[left, gone]), [], NOW) if one.title == "b: gone"]
    assert said in matter.cause


def test_that_nothing_delivers_is_named_also_where_the_nodes_that_did_are_forgotten() -> None:
    (matter,) = attention(Figures(AT, nodes=[Node("a", delivers=False)]), [], NOW)
    assert (matter.tone, matter.title) == ("bad", "No node delivers")
    assert "tocsin serve" in matter.remedy
    gone = Figures(AT, nodes=[Node("a", delivers=False), Node("b", gone=True)])
    assert [one.title for one in attention(gone, [], NOW)] == ["b: gone"]


def test_the_overview_says_whose_rates_they_are_where_there_are_several_nodes() -> None:
    nodes = [Node("a"), Node("b"), Node("c", gone=True)]
    assert Figures(AT, nodes=nodes[:1], of_nodes=["a"]).whose == ""
    assert Figures(AT, nodes=nodes, of_nodes=["a", "b"]).whose == "Rates and latency of 2 nodes together."
    assert "without b" in Figures(AT, nodes=nodes, of_nodes=["a"]).whose
    assert "alone" in Figures(AT, nodes=nodes).whose


def test_the_overview_shows_whose_rates_they_are_and_that_nothing_delivers() -> None:
    figures = Figures(AT, nodes=[Node("a", delivers=False), Node("b", delivers=False)], of_nodes=["a", "b"])
    page = Renderer(Assets()).render("parts/overview.html", **_values(figures, [], None))
    assert "Rates and latency of 2 nodes together." in page
    assert "No node delivers" in page
    assert "<code>--role delivery</code>" in page


def test_conditions_are_sent_as_the_api_takes_them() -> None:
    asked = Conditions({"owner": " x ", "reason": "", "from": "2026-11-26T21:00", "until": "2026-11-26T22:00+01:00"})
    assert asked.body() == {"owner": "x", "from": "2026-11-26T21:00:00.000Z", "until": "2026-11-26T21:00:00.000Z"}
    with pytest.raises(ValueError, match="from: not a time"):
        Conditions({"from": "yesterday"}).body()


def test_a_token_has_a_random_name_in_addresses_and_only_some_are_kept() -> None:
    _, session = Sessions(timedelta(hours=1), lambda: 0.0).create("key")
    name = hold(session, "token")
    assert hold(session, "token") == name
    assert "token" not in name
    for number in range(60):
        hold(session, f"token {number}")
    assert len(session.held) == 50
    assert name not in session.held
