"""Checks every event after a run: what was promised, against what arrived and what the receipts say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from msgspec import Struct, field

from tests.torture.sent_events import SentEvent, SentEvents, marker_of
from tests.torture.users import IN_TRANSIT_S, Device
from tocsin.domain.events import URGENT

URGENT_LIFETIME_S: Final = 60.0
_MOST_SHOWN: Final = 15

Report = Mapping[str, Any]
"""The response to `GET /api/events/{id}`."""


class Arrival(Struct, frozen=True):
    """One push in the provider's journal."""

    at: float
    provider: str
    environment: str | None
    token: str
    id: str


class Disturbance(Struct, frozen=True):
    """Something in a cluster by which another process may deliver what one has sent, or the answer of a settlement is
    lost."""

    what: str
    began: float
    ended: float


class Outages(Struct, frozen=True):
    """When the server did not run, and what else makes duplicates."""

    kills: Sequence[float]
    """The times at which it was killed."""
    stops: Sequence[tuple[float, float]]
    """From when to when it was stopped (SIGSTOP), each time for longer than its lease."""
    disturbances: Sequence[Disturbance] = ()


class Findings(Struct):
    """What was counted, and what is wrong, by the rule that is broken."""

    counts: dict[str, int] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)
    latest_after_delete_s: float = 0.0

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def error(self, rule: str, detail: str) -> None:
        self.errors.setdefault(rule, []).append(detail)

    def lines(self) -> list[str]:
        """The errors, for the report."""
        lines = []
        for rule, details in self.errors.items():
            lines.append(f"  {rule}: {len(details)}")
            lines += [f"    {detail}" for detail in details[:_MOST_SHOWN]]
        return lines


def verify(
    sent: SentEvents,
    devices: Sequence[Device],
    journal: Iterable[Mapping[str, Any]],
    reports: Mapping[str, Report],
    outages: Outages,
) -> Findings:
    """Compare all of it; `reports` has one for every event that was accepted."""
    findings = Findings(counts={"accepted": 0, "deliveries owed": 0, "deliveries owed that arrived": 0})
    for wrong in sent.wrong_responses:
        findings.error("a wrong response", wrong)
    by_marker = {event.marker: event for event in sent.events}
    own: dict[str, dict[str, Device]] = {}
    for device in devices:
        own.setdefault(device.owner, {})[device.token] = device
    arrived = _by_event(findings, journal, by_marker, own)
    for event in sent.events:
        here = arrived.get(event.marker, {})
        if event.accepted_at is None:
            _not_accepted(findings, event, here)
        else:
            findings.count("accepted")
            _accepted(findings, event, here, own.get(event.owner, {}), reports)
        for token, pushes in here.items():
            if len(pushes) > 1:
                _duplicates(findings, event, token, pushes, reports, outages)
    return findings


def _by_event(
    findings: Findings,
    journal: Iterable[Mapping[str, Any]],
    by_marker: Mapping[str, SentEvent],
    own: Mapping[str, Mapping[str, Device]],
) -> dict[str, dict[str, list[Arrival]]]:
    """Arrivals by marker and token; each is checked against the event and the device that it must belong to."""
    arrived: dict[str, dict[str, list[Arrival]]] = {}
    for line in journal:
        findings.count("pushes that arrived")
        data = line["data"]
        event = by_marker.get(marker_of(data))
        arrival = Arrival(line["t"], line["p"], line["env"], line["token"], line["id"])
        if event is None or data.get("owner") != event.owner or data.get("message") != event.message:
            findings.error("a push without an event", str(line)[:300])
            continue
        device = own.get(event.owner, {}).get(arrival.token)
        if device is None or device.system != arrival.provider or device.environment != arrival.environment:
            findings.error("a push to a device that is not its owner's", str(line)[:300])
            continue
        late = device.lateness(arrival.at)
        if late > IN_TRANSIT_S:
            findings.error("a push to a deleted token", f"{event.event_id} {device.key[:20]}… {late:.3f} s late")
        else:
            findings.latest_after_delete_s = max(findings.latest_after_delete_s, late)
        arrived.setdefault(event.marker, {}).setdefault(arrival.token, []).append(arrival)
    return arrived


def _not_accepted(findings: Findings, event: SentEvent, here: Mapping[str, Sequence[Arrival]]) -> None:
    if event.unanswered and not event.invalid:
        findings.count("unanswered, delivered" if here else "unanswered, not delivered")
        return
    findings.count("refused")
    if here:
        what = "invalid" if event.invalid else "refused"
        findings.error("refused, but delivered", f"{what} {event.event_id or event.marker}")


def _accepted(
    findings: Findings,
    event: SentEvent,
    here: Mapping[str, Sequence[Arrival]],
    devices: Mapping[str, Device],
    reports: Mapping[str, Report],
) -> None:
    assert event.event_id is not None
    report = reports.get(event.event_id)
    if report is None:
        findings.error("accepted, but unknown afterwards", event.event_id)
        return
    if report["state"] not in ("done", "dead"):
        findings.error("accepted, but not settled", f"{event.event_id} is {report['state']}")
    receipts = {device["device_token"]: device for device in report["devices"]}
    for token, receipt in receipts.items():
        findings.count(f"receipts: {receipt['outcome']}")
        refuses = token in devices and devices[token].refuses
        _receipt(findings, event, token, receipt, arrived=token in here, refuses=refuses)
    for token, device in devices.items():
        if not device.registered_throughout(event.sent_at):
            continue
        findings.count("deliveries owed")
        if token in here:
            findings.count("deliveries owed that arrived")
            continue
        outcome = receipts[token]["outcome"] if token in receipts else "no receipt"
        if outcome == "expired":
            findings.count("deliveries owed that expired")
        else:
            findings.error("lost", f"{event.event_id} {device.key[:20]}… {outcome}")


def _receipt(
    findings: Findings, event: SentEvent, token: str, receipt: Mapping[str, Any], *, arrived: bool, refuses: bool
) -> None:
    """What a receipt may say. Only events about a call expire; `refuses`: the provider may have refused the push."""
    detail = f"{event.event_id} {event.message} {token[:20]}…"
    results = [attempt["result"] for attempt in receipt["attempts"]]
    if results.count("delivered") > 1:
        findings.error("settled twice", detail)
    match receipt["outcome"]:
        case "delivered" if not arrived:
            findings.error("a receipt says delivered, but nothing arrived", detail)
        case "refused" if not refuses:
            findings.error("a receipt says refused without a reason", f"{detail} {receipt['attempts'][-1]}")
        case "expired":
            at = min(_at(attempt) for attempt in receipt["attempts"] if attempt["result"] == "expired")
            if event.message not in URGENT or at < event.sent_at + URGENT_LIFETIME_S:
                findings.error("expired too early", f"{detail} {at - event.sent_at:.3f} s after it was sent")


def _offered_again(before: float, after: float, began: float, ended: float) -> bool:
    """Whether a push was in flight when the server was stopped; its lease then ended, and it was offered again."""
    return began - IN_TRANSIT_S <= before <= ended + IN_TRANSIT_S and after >= ended


def _disturbance(before: float, after: float, disturbances: Sequence[Disturbance]) -> Disturbance | None:
    """The first one by which a push may have been sent again: it was not on record when the disturbance came, or its
    receipt was lost with it."""
    for one in disturbances:
        if one.began - IN_TRANSIT_S <= before <= one.ended + IN_TRANSIT_S and after >= one.began:
            return one
    return None


def _at(attempt: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(attempt["at"]).timestamp()


def _duplicates(
    findings: Findings,
    event: SentEvent,
    token: str,
    pushes: Sequence[Arrival],
    reports: Mapping[str, Report],
    outages: Outages,
) -> None:
    """The same push may be sent again only where the outcome of the one before it was unknown."""
    findings.count("duplicates", len(pushes) - 1)
    if pushes[0].provider == "apns" and len({push.id.lower() for push in pushes}) > 1:
        findings.error("duplicates with different apns-ids", f"{event.event_id} {token[:20]}…")
    report = reports.get(event.event_id or "", {"devices": []})
    attempts = [a for device in report["devices"] if device["device_token"] == token for a in device["attempts"]]
    unknown = [_at(attempt) for attempt in attempts if "status" not in attempt]
    for before, after in pairwise(pushes):
        if any(before.at - IN_TRANSIT_S <= killed <= after.at for killed in outages.kills):
            findings.count("duplicates after the server was killed")
        elif any(_offered_again(before.at, after.at, began, ended) for began, ended in outages.stops):
            findings.count("duplicates after the server was stopped longer than its lease")
        elif found := _disturbance(before.at, after.at, outages.disturbances):
            findings.count(f"duplicates after: {found.what}")
        elif causes := [at for at in unknown if before.at - IN_TRANSIT_S <= at <= after.at + 0.5]:
            unknown.remove(causes[0])  # one attempt without a response explains one more push
            findings.count("duplicates after the connection failed")
        elif event.accepted_at is None:
            # Its id is not known, so its receipts cannot be asked for.
            findings.count("duplicates of unanswered events")
        else:
            detail = f"{event.event_id} {token[:20]}… {after.at - before.at:.3f} s"
            findings.error("duplicates without a reason", detail)
