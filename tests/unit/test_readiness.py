"""Why the service is not ready: one sentence for each cause."""

from __future__ import annotations

from typing import Any

from tocsin.domain.routes import LaneState, LaneStatus
from tocsin.service.readiness import problems


def lane(state: LaneState = LaneState.RUNNING, **fields: Any) -> LaneStatus:
    account = {"provider": "apns", "account": "org.example.app"}
    return LaneStatus("apns:production:org.example.app", state, "", 0, 0, **account, **fields)


def test_a_service_that_accepts_and_delivers_has_no_problem() -> None:
    assert problems(stopping=False, storage=[], lanes=[lane()]) == []


def test_an_open_breaker_does_not_make_it_unready() -> None:
    assert problems(stopping=False, storage=[], lanes=[lane(LaneState.OPEN)]) == []


def test_every_cause_is_named() -> None:
    paused = LaneStatus("fcm:calls", LaneState.PAUSED, "the service account is refused", 0, 3)
    topic = lane(misconfigured_topics={"org.example.app.voip": "BadTopic"}, fuse_blown=True)
    assert problems(stopping=True, storage=["the disk is full"], lanes=[paused, topic]) == [
        "tocsin is stopping",
        "the disk is full",
        "lane fcm:calls is paused: the service account is refused",
        "lane apns:production:org.example.app: topic org.example.app.voip is paused: BadTopic",
        "apns org.example.app: too many dead tokens; removals are quarantined until the operator decides",
    ]


def test_one_fuse_is_blamed_once_however_many_lanes_its_account_has() -> None:
    both = [lane(fuse_blown=True), lane(fuse_blown=True)]
    assert len(problems(stopping=False, storage=[], lanes=both)) == 1
