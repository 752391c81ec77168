"""Accounts for every event: what was promised, against what arrived and what the receipts say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from msgspec import Struct, field

from tests.torture.ledger import HandedIn, Ledger, marker_of
from tests.torture.people import ON_THE_WIRE_S, Device
from tocsin.domain.events import URGENT

URGENT_LIFETIME_S: Final = 60.0
_MOST_TOLD: Final = 15

Report = Mapping[str, Any]
"""What `GET /api/events/{id}` answers."""


class Arrival(Struct, frozen=True):
    at: float
    provider: str
    environment: str | None
    token: str
    id: str


class Findings(Struct):
    """What was counted, and what must not be."""

    counts: dict[str, int] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    latest_after_delete_s: float = 0.0

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def fault(self, rule: str, detail: str) -> None:
        self.faults.setdefault(rule, []).append(detail)

    def told(self) -> list[str]:
        lines = []
        for rule, details in self.faults.items():
            lines.append(f"  {rule}: {len(details)}")
            lines += [f"    {detail}" for detail in details[:_MOST_TOLD]]
        return lines


def account(
    ledger: Ledger,
    devices: Sequence[Device],
    journal: Iterable[Mapping[str, Any]],
    reports: Mapping[str, Report],
    deaths: Sequence[float],
    stops: Sequence[tuple[float, float]],
) -> Findings:
    """`reports` has one for every event that was accepted; `deaths` are the instants of the server's sudden ends, and
    `stops` the times for which it was stopped, each longer than its lease."""
    findings = Findings(counts={"accepted": 0, "deliveries owed": 0, "deliveries owed that arrived": 0})
    for wrong in ledger.wrong:
        findings.fault("a wrong answer", wrong)
    by_marker = {event.marker: event for event in ledger.events}
    own: dict[str, dict[str, Device]] = {}
    for device in devices:
        own.setdefault(device.owner, {})[device.token] = device
    arrived = _sort(findings, journal, by_marker, own)
    for event in ledger.events:
        here = arrived.get(event.marker, {})
        if event.accepted is None:
            _not_accepted(findings, event, here)
        else:
            findings.count("accepted")
            _accepted(findings, event, here, own.get(event.owner, {}), reports)
        for token, pushes in here.items():
            if len(pushes) > 1:
                _duplicates(findings, event, token, pushes, reports, deaths, stops)
    return findings


def _sort(
    findings: Findings,
    journal: Iterable[Mapping[str, Any]],
    by_marker: Mapping[str, HandedIn],
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
            findings.fault("a push that nobody handed in", str(line)[:300])
            continue
        device = own.get(event.owner, {}).get(arrival.token)
        if device is None or device.system != arrival.provider or device.environment != arrival.environment:
            findings.fault("a push to a device that is not its owner's", str(line)[:300])
            continue
        late = device.lateness(arrival.at)
        if late > ON_THE_WIRE_S:
            findings.fault("a push to a deleted token", f"{event.event_id} {device.key[:20]}… {late:.3f} s late")
        else:
            findings.latest_after_delete_s = max(findings.latest_after_delete_s, late)
        arrived.setdefault(event.marker, {}).setdefault(arrival.token, []).append(arrival)
    return arrived


def _not_accepted(findings: Findings, event: HandedIn, here: Mapping[str, Sequence[Arrival]]) -> None:
    if event.unanswered and not event.invalid:
        findings.count("unanswered, delivered" if here else "unanswered, not delivered")
        return
    findings.count("refused")
    if here:
        what = "invalid" if event.invalid else "refused"
        findings.fault("refused, and delivered all the same", f"{what} {event.event_id or event.marker}")


def _accepted(
    findings: Findings,
    event: HandedIn,
    here: Mapping[str, Sequence[Arrival]],
    devices: Mapping[str, Device],
    reports: Mapping[str, Report],
) -> None:
    assert event.event_id is not None
    report = reports.get(event.event_id)
    if report is None:
        findings.fault("accepted, and unknown afterwards", event.event_id)
        return
    if report["state"] not in ("done", "dead"):
        findings.fault("accepted, and not settled", f"{event.event_id} is {report['state']}")
    receipts = {device["device_token"]: device for device in report["devices"]}
    for token, receipt in receipts.items():
        findings.count(f"receipts: {receipt['outcome']}")
        _receipt(findings, event, token, receipt, arrived=token in here)
    for token, device in devices.items():
        if not device.registered_throughout(event.sent):
            continue
        findings.count("deliveries owed")
        if token in here:
            findings.count("deliveries owed that arrived")
            continue
        outcome = receipts[token]["outcome"] if token in receipts else "no receipt"
        if outcome == "expired":
            findings.count("deliveries owed that expired")
        else:
            findings.fault("lost", f"{event.event_id} {device.key[:20]}… {outcome}")


def _receipt(findings: Findings, event: HandedIn, token: str, receipt: Mapping[str, Any], *, arrived: bool) -> None:
    """What a receipt may say: no fault of the script makes a provider refuse, and only a call's events expire here."""
    detail = f"{event.event_id} {event.message} {token[:20]}…"
    results = [attempt["result"] for attempt in receipt["attempts"]]
    if results.count("delivered") > 1:
        findings.fault("settled twice", detail)
    match receipt["outcome"]:
        case "delivered" if not arrived:
            findings.fault("delivered by its receipt alone", detail)
        case "refused":
            findings.fault("refused by its receipt, for no reason", f"{detail} {receipt['attempts'][-1]}")
        case "expired":
            at = min(_at(attempt) for attempt in receipt["attempts"] if attempt["result"] == "expired")
            if event.message not in URGENT or at < event.sent + URGENT_LIFETIME_S:
                findings.fault("expired before its time", f"{detail} {at - event.sent:.3f} s after it was sent")


def _came_back_late(before: float, after: float, began: float, ended: float) -> bool:
    """Whether a push was on its way when the server was stopped; its lease then ended, and it was offered again."""
    return began - ON_THE_WIRE_S <= before <= ended + ON_THE_WIRE_S and after >= ended


def _at(attempt: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(attempt["at"]).timestamp()


def _duplicates(
    findings: Findings,
    event: HandedIn,
    token: str,
    pushes: Sequence[Arrival],
    reports: Mapping[str, Report],
    deaths: Sequence[float],
    stops: Sequence[tuple[float, float]],
) -> None:
    """The same push again is right only where the outcome of the one before it was unknown."""
    findings.count("duplicates", len(pushes) - 1)
    if pushes[0].provider == "apns" and len({push.id.lower() for push in pushes}) > 1:
        findings.fault("duplicates with different apns-ids", f"{event.event_id} {token[:20]}…")
    report = reports.get(event.event_id or "", {"devices": []})
    attempts = [a for device in report["devices"] if device["device_token"] == token for a in device["attempts"]]
    unknown = [_at(attempt) for attempt in attempts if "status" not in attempt]
    for before, after in pairwise(pushes):
        if any(before.at - ON_THE_WIRE_S <= death <= after.at for death in deaths):
            findings.count("duplicates after the server died")
        elif any(_came_back_late(before.at, after.at, began, ended) for began, ended in stops):
            findings.count("duplicates after the server was stopped longer than its lease")
        elif causes := [at for at in unknown if before.at - ON_THE_WIRE_S <= at <= after.at + 0.5]:
            unknown.remove(causes[0])  # one push without an answer explains one more push
            findings.count("duplicates after the link failed")
        elif event.accepted is None:
            # Nobody has its id, so nobody can ask for its receipts.
            findings.count("duplicates of unanswered events")
        else:
            findings.fault("duplicates for no reason", f"{event.event_id} {token[:20]}… {after.at - before.at:.3f} s")
