"""What is judged when everything has ended: what became of every event, by the receipts and by what arrived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.simulator.judge import Invariant, Judge
from tests.simulator.model import Accepted, Arrival, Model, Registered, Standing
from tests.simulator.troubles import Trouble
from tocsin.store.records import Attempt, EventRecord, Result, State

_FINAL = frozenset({Result.DELIVERED, Result.TOKEN_DEAD, Result.REFUSED, Result.EXPIRED, Result.CANCELLED})


def check_record(
    judge: Judge,
    model: Model,
    accepted: Accepted,
    record: EventRecord | None,
    by_token: dict[str, list[Arrival]],
    troubles: Iterable[Trouble],
) -> None:
    """One event's receipts against what is known of it.

    Args:
        by_token: its arrivals.
        troubles: all that there were.
    """
    event = accepted.event
    if record is None:
        judge.violated(Invariant.ACCOUNTED, f"event {event.id} was accepted and is not on record")
        return
    if record.state not in (State.DONE, State.DEAD):
        judge.violated(Invariant.DRAINS, f"event {event.id} is {record.state.name.lower()}: {record.waiting}")
        return
    by_device: dict[str, list[Attempt]] = {}
    for attempt in record.attempts:
        by_device.setdefault(attempt.device, []).append(attempt)
    for one in accepted.targets:
        _check_target(judge, model, accepted, record, one, by_device.get(one.phone.key, []), troubles)
    if event.id in model.replayed and not any(attempt.round == record.round > 0 for attempt in record.attempts):
        judge.violated(Invariant.ACCOUNTED, f"event {event.id} was replayed, and nothing came of it: {record.attempts}")
    lifetime_ms = event.expires_ms - event.accepted_ms
    if event.id not in model.replaying and record.event.expires_ms - record.event.accepted_ms != lifetime_ms:
        judge.violated(Invariant.LIFETIME, f"event {event.id} was given another lifetime than {lifetime_ms} ms")
    for key, attempts in by_device.items():
        _check_receipts(judge, model, event.id, key, attempts)
    for token, arrivals in by_token.items():
        if len(arrivals) > 1:
            _check_repeated(judge, model, accepted, token, arrivals, by_device)


def _check_repeated(
    judge: Judge,
    model: Model,
    accepted: Accepted,
    token: str,
    arrivals: list[Arrival],
    by_device: dict[str, list[Attempt]],
) -> None:
    """Each arrival but the first has its cause: an attempt without an answer, or a crash."""
    attempts = next((own for key, own in by_device.items() if key.partition(":")[2] == token), [])
    unanswered = sum(attempt.result == Result.RETRY and attempt.status == 0 for attempt in attempts)
    crashes = sum(accepted.asked_s <= at_s <= arrivals[-1].at_s for at_s in model.crashes)
    if len(arrivals) - 1 > unanswered + crashes:
        judge.violated(
            Invariant.DUPLICATE,
            f"event {accepted.event.id} arrived {len(arrivals)} times at {token[-6:]}, with {unanswered} attempts "
            f"without an answer and {crashes} crashes before the last one: {attempts}",
        )


def _check_target(
    judge: Judge,
    model: Model,
    accepted: Accepted,
    record: EventRecord,
    one: Registered,
    attempts: list[Attempt],
    troubles: Iterable[Trouble],
) -> None:
    """A device that was registered from before the event was handed in, and still is, has had it."""
    stayed = one.standing is Standing.REGISTERED and max(one.asked_s, one.restored_s) <= accepted.asked_s
    died = one.phone.dead_from_s is not None and one.phone.dead_from_s >= accepted.asked_s
    if not stayed or one.phone.dead or died:
        return
    event = accepted.event
    last = attempts[-1] if attempts else None
    result = last.result if last is not None else "nothing"
    if result == Result.DELIVERED:
        return
    if last is not None and result == Result.EXPIRED:
        if last.at_ms < record.event.expires_ms:
            judge.violated(Invariant.ACCOUNTED, f"event {event.id} expired for {one.phone!r} before its time")
        return
    if last is not None and result == Result.REFUSED:
        # By an answer that a trouble has given to this very phone, while it was on.
        said = [
            answer for answer in model.refusals.get((event.id, one.phone.token), ()) if answer.status == last.status
        ]
        by = [trouble for trouble in troubles if trouble.refuses and trouble.affects(one.phone)]
        if any(trouble.has_said(answer) for trouble in by for answer in said):
            return
    judge.violated(Invariant.ACCOUNTED, f"event {event.id} ended with {result} for {one.phone!r}: {attempts}")


def _check_receipts(judge: Judge, model: Model, event_id: str, key: str, attempts: list[Attempt]) -> None:
    token = key.partition(":")[2]
    delivered = [attempt for attempt in attempts if attempt.result == Result.DELIVERED]
    if delivered and not model.arrivals.get((event_id, token)):
        judge.violated(Invariant.TRUE, f"a receipt says that event {event_id} was delivered, and it never arrived")
    final = Counter(attempt.round for attempt in attempts if attempt.result in _FINAL)
    if any(count > 1 for count in final.values()):
        judge.violated(Invariant.TRUE, f"event {event_id} has several final receipts for one device: {attempts}")
