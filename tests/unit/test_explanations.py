"""Each cause for which a push does not arrive is named in one sentence, with what to do."""

from __future__ import annotations

import pytest

from tocsin.domain.explanations import Code, Explanation, Facts, Wait, of_delivery, of_event
from tocsin.providers.apns.answers import TABLE as APNS_TABLE
from tocsin.providers.apns.answers import Act
from tocsin.providers.fcm.answers import TABLE as FCM_TABLE
from tocsin.providers.rules import RULES

LANE = "apns:production:39JSDKGJ38.de.cospace.app"


def facts(system: str, outcome: str, result: str, status: int, reason: str, **more: object) -> Facts:
    said = RULES[system].said(status, reason)
    return Facts(outcome=outcome, result=result, status=status, reason=reason, said=said, **more)  # type: ignore[arg-type]


def apns(outcome: str, result: str, status: int = 0, reason: str = "", **more: object) -> Facts:
    return facts("apns", outcome, result, status, reason, **more)


def fcm(outcome: str, result: str, status: int = 0, reason: str = "", **more: object) -> Facts:
    return facts("fcm", outcome, result, status, reason, **more)


CASES = {
    "app uninstalled (Apple)": (apns("token_dead", "token_dead", 410, "Unregistered"), Code.APP_UNINSTALLED, "uninst"),
    "app uninstalled (Google)": (fcm("token_dead", "token_dead", 404, "UNREGISTERED"), Code.APP_UNINSTALLED, "uninst"),
    "wrong environment": (
        apns("token_dead", "token_dead", 400, "BadDeviceToken"),
        Code.WRONG_ENVIRONMENT,
        "neither environment",
    ),
    "wrong topic": (apns("waiting", "misconfigured", 400, "TopicDisallowed"), Code.WRONG_TOPIC, "topic"),
    "topic of another app": (
        apns("waiting", "misconfigured", 400, "DeviceTokenNotForTopic", due_at="10:00"),
        Code.WRONG_TOPIC,
        "tried again at 10:00",
    ),
    "wrong key": (apns("waiting", "misconfigured", 403, "InvalidProviderToken"), Code.BAD_CREDENTIAL, "the key"),
    "ended certificate": (apns("waiting", "misconfigured", 403, "BadCertificate"), Code.BAD_CREDENTIAL, "ended"),
    "no credential": (
        apns("waiting", "misconfigured", 0, "application X is not registered; add it with `tocsin app add`"),
        Code.BAD_CREDENTIAL,
        "not registered",
    ),
    "wrong service account": (
        fcm("waiting", "misconfigured", 403, "PERMISSION_DENIED"),
        Code.BAD_CREDENTIAL,
        "may not",
    ),
    "another project": (fcm("token_dead", "token_dead", 403, "SENDER_ID_MISMATCH"), Code.WRONG_PROJECT, "another"),
    "provider down": (apns("waiting", "retry", 503, "ServiceUnavailable"), Code.PROVIDER_DOWN, "unavailable"),
    "provider not reached": (
        fcm("waiting", "retry", 0, "connection refused"),
        Code.PROVIDER_DOWN,
        "connection refused",
    ),
    "throttled": (apns("waiting", "retry", 429, "TooManyRequests"), Code.THROTTLED, "too many"),
    "throttled (Google)": (fcm("waiting", "retry", 429, "QUOTA_EXCEEDED"), Code.THROTTLED, "limits the rate"),
    "user has no device": (Facts(outcome="no_device"), Code.NO_DEVICE, "no registered device"),
    "user's last device is gone": (
        Facts(outcome="no_device", removed_because="Unregistered"),
        Code.NO_DEVICE,
        "removed: Unregistered",
    ),
    "event expired": (apns("expired", "expired", 0, "lifetime over", expires_at="12:00"), Code.EXPIRED, "at 12:00"),
    "token quarantined": (
        apns("token_dead", "token_dead", 410, "Unregistered", quarantined=True),
        Code.QUARANTINED,
        "quarantine",
    ),
    "device in quarantine, not for its topic": (
        apns(
            "token_dead",
            "",
            quarantined=True,
            not_for_topic=True,
            removed_because="400 DeviceTokenNotForTopic for 7 days",
        ),
        Code.QUARANTINED,
        "not for its topic (400 DeviceTokenNotForTopic for 7 days)",
    ),
    "payload refused": (apns("refused", "refused", 413, "PayloadTooLarge"), Code.REFUSED, "too large"),
    "payload refused (unknown reason)": (fcm("refused", "refused", 418, "TEAPOT"), Code.REFUSED, "418 TEAPOT"),
    "lane paused": (
        apns(
            "waiting",
            "",
            wait=Wait(lane=LANE, since="09:00", next_at="09:05", reason="InvalidProviderToken"),
        ),
        Code.LANE_PAUSED,
        "paused since 09:00: InvalidProviderToken",
    ),
    "topic paused": (
        apns("waiting", "", wait=Wait(lane=LANE, topic="de.cospace.app", reason="BadTopic")),
        Code.LANE_PAUSED,
        "Topic de.cospace.app of lane",
    ),
    "node gone": (apns("waiting", "retry", 503, "Shutdown", unserved_since="08:00"), Code.NODE_GONE, "since 08:00"),
    "nobody has tried it": (Facts(outcome="accepted"), Code.QUEUED, "waits for its turn"),
    "token deleted": (apns("cancelled", "cancelled", 0, "token deleted"), Code.CANCELLED, "deleted"),
    "token dead before its turn": (
        apns("cancelled", "cancelled", removed_because="410 Unregistered"),
        Code.CANCELLED,
        "registration was removed (410 Unregistered) before",
    ),
    "accepted by Apple": (apns("delivered", "delivered", 200), Code.DELIVERED, "Apple accepted"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_cause_is_named_with_its_remedy(name: str) -> None:
    given, code, part = CASES[name]
    found = of_delivery(given)
    assert found.code is code
    assert part in found.cause
    assert found.cause[0].isupper()
    assert found.cause.endswith((".", ")"))
    assert found.remedy or code in (Code.DELIVERED, Code.QUEUED)


def test_a_paused_lane_says_what_the_provider_means_and_when_it_is_tried_again() -> None:
    said = RULES["apns"].said(403, "InvalidProviderToken")
    wait = Wait(lane=LANE, next_at="09:05", reason="InvalidProviderToken", said=said)
    found = of_delivery(Facts(outcome="waiting", wait=wait))
    assert "Apple does not accept the key" in found.cause
    assert "09:05" in found.cause
    assert "tocsin app add" in found.remedy


def test_an_expired_event_says_what_it_had_waited_for() -> None:
    before = RULES["apns"].said(503, "ServiceUnavailable")
    found = of_delivery(Facts(outcome="expired", result="expired", said=before))
    assert "Apple is unavailable" in found.cause


@pytest.mark.parametrize(("system", "table"), [("apns", APNS_TABLE), ("fcm", FCM_TABLE)])
def test_every_answer_of_a_provider_s_table_has_a_sentence(system: str, table: dict[tuple[int, str], object]) -> None:
    for status, reason in table:
        said = RULES[system].said(status, reason)
        assert said is not None, (status, reason)
        assert reason in said.cause
        assert said.remedy


def test_the_kinds_of_causes_agree_with_what_is_done_about_them() -> None:
    wanted = {
        Act.MISCONFIGURED: Code.BAD_CREDENTIAL,
        Act.MISCONFIGURED_TOPIC: Code.WRONG_TOPIC,
        Act.MISCONFIGURED_DEVICE: Code.WRONG_TOPIC,
        Act.TOKEN_DEAD: Code.APP_UNINSTALLED,
        Act.OUR_BUG: Code.REFUSED,
        Act.PAUSE_KEY: Code.THROTTLED,
    }
    for (status, reason), row in APNS_TABLE.items():
        said = RULES["apns"].said(status, reason)
        assert said is not None
        assert said.code is wanted.get(row.act, said.code), reason


def test_an_event_says_for_how_many_of_its_devices_the_push_was_accepted() -> None:
    fine = Explanation(Code.DELIVERED, "Apple accepted the push.")
    bad = Explanation(Code.REFUSED, "Google refuses it.", "Mend it.")
    assert of_event([fine, fine]) == fine
    both = of_event([fine, bad, fine])
    assert both.code is Code.IN_PART
    assert both.cause.startswith("For 2 of 3 devices the provider accepted the push.")
    assert "Google refuses it." in both.cause
    assert both.remedy == "Mend it."
    assert of_event([bad, Explanation(Code.EXPIRED, "Over.")]).code is Code.IN_PART
