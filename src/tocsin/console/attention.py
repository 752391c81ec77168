"""What an operator should look at now: each with its cause, and what to do about it. Nothing to list: all is well."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from tocsin.console import formats, words
from tocsin.console.records import Account, Figures, Lane, Node

_SOON: Final = timedelta(days=30)
_OLD_S: Final = 60.0


class Matter(Struct, frozen=True):
    """One thing to look at. `link` is a page of the console that is about it."""

    tone: str
    title: str
    cause: str
    remedy: str = ""
    link: str = ""
    link_text: str = ""


def attention(figures: Figures, accounts: Iterable[Account], now: datetime) -> list[Matter]:
    """What needs attention, the worst first."""
    lanes = [(node.node, lane) for node in figures.nodes if not node.gone for lane in node.lanes]
    if not lanes:
        lanes = [(figures.node, lane) for lane in figures.lanes]
    unwell = [(node, lane) for node, lane in lanes if not lane.well]
    several = len(figures.nodes) > 1
    matters = _lanes([(node if several else "", lane) for node, lane in unwell])
    matters += _nodes(figures.nodes)
    matters += _problems(figures, [lane.name for _, lane in unwell])
    # What a lane says of its credential need not be said twice.
    said = {lane.account for _, lane in unwell for pause in lane.pauses if pause.cause == "credential"}
    matters += [matter for account in accounts if account.account not in said for matter in _credential(account, now)]
    oldest_s = figures.backlog.oldest_s
    if oldest_s is not None and oldest_s > _OLD_S and not unwell:
        matters.append(
            Matter(
                "wait",
                "Events wait for long",
                f"The oldest of {formats.plural(figures.backlog.events, 'event')} has waited for"
                f" {formats.duration(oldest_s)}.",
                "See what it waits for.",
                "/deliveries?outcome=waiting",
                "What is waiting",
            )
        )
    if figures.quarantined:
        matters.append(
            Matter(
                "bad",
                "Devices are in quarantine",
                f"Tokens of {', '.join(figures.quarantined)} get no pushes: suspiciously many were declared dead at"
                " once, or they are not for their topic.",
                "See which and find out why, then release them, or purge them if the provider was right.",
                "/quarantine",
                "Quarantine",
            )
        )
    if figures.dead_letters:
        matters.append(
            Matter(
                "wait",
                f"{formats.plural(figures.dead_letters, 'dead letter')}",
                "They were refused by a provider, or expired before one accepted them.",
                "Replay them when the cause is gone, or discard them.",
                "/dead-letters",
                "Dead letters",
            )
        )
    return sorted(dict.fromkeys(matters), key=lambda matter: matter.tone != "bad")


def credential_tones(accounts: Iterable[Account], now: datetime) -> dict[Account, str]:
    """How each credential is coloured: `good`, `wait` near its end, `bad`."""
    return {account: next((one.tone for one in _credential(account, now)), "good") for account in accounts}


def _lanes(unwell: list[tuple[str, Lane]]) -> list[Matter]:
    """One matter for each pause; lanes that are paused for the same cause have it in common."""
    names: dict[Matter, list[str]] = {}
    for node, lane in unwell:
        for topic, matter in _pauses(lane):
            name = topic or words.lane(lane.provider, lane.environment, lane.account, lane.name)
            names.setdefault(matter, []).append(name + (f" on {node}" if node else ""))
    return [
        msgspec.structs.replace(matter, title=f"{'; '.join(dict.fromkeys(listed))}: paused")
        for matter, listed in names.items()
    ]


def _pauses(lane: Lane) -> list[tuple[str, Matter]]:
    """Why it is paused, without a title: the topic where it is that, and cause and remedy."""
    to_credentials = ("/applications", "Applications")
    found = [
        (
            pause.topic,
            Matter(
                "bad",
                "",
                pause.explanation.cause or pause.reason or words.pause(pause.cause),
                pause.explanation.remedy,
                *(to_credentials if pause.cause in ("credential", "topic") else ()),
            ),
        )
        for pause in lane.pauses
    ]
    if not found and lane.state != "running":
        found.append(("", Matter("bad", "", lane.reason, "", *to_credentials)))
    if not lane.pauses:
        found += [
            (topic, Matter("bad", "", f"The provider answers {reason}.", "", *to_credentials))
            for topic, reason in lane.misconfigured_topics.items()
        ]
    return found


def _nodes(nodes: list[Node]) -> list[Matter]:
    """Those that are gone, and what becomes of what they had."""
    is_served = any(node.delivers and not node.gone for node in nodes)
    matters = [_gone(node, is_served) for node in nodes if node.gone]
    if nodes and not is_served and not any(node.gone and node.delivers for node in nodes):
        matters.append(
            Matter(
                "bad",
                "No node delivers",
                "Events are accepted, and wait until a node delivers.",
                "Start one that delivers: `tocsin serve`, with `--role delivery` or without a role.",
            )
        )
    return matters


def _gone(node: Node, is_served: bool) -> Matter:
    if not node.delivers:
        then = "It served the API alone, so nothing waits for it."
    elif is_served:
        then = "Since then the other nodes have taken over what it had."
    else:
        then = "What is accepted waits: no node is left that delivers."
    return Matter(
        "bad",
        f"{node.node}: gone",
        f"It said nothing for {formats.duration(node.age_s)}. {then}",
        "Look at its machine, and start it again.",
    )


def _problems(figures: Figures, lanes: list[str]) -> list[Matter]:
    """What the nodes say of themselves, without what is said of their lanes and of quarantine already."""
    said: dict[str, list[str]] = {}
    for node in figures.nodes:
        for problem in [] if node.gone else node.problems:
            said.setdefault(problem, []).append(node.node)
    for problem in figures.problems:
        said.setdefault(problem, [])
    several = len(figures.nodes) > 1
    return [
        Matter("bad", f"{', '.join(nodes)}: not ready" if several and nodes else "Not ready", problem)
        for problem, nodes in said.items()
        if not any(name in problem for name in (*lanes, *figures.quarantined))
    ]


def _credential(account: Account, now: datetime) -> list[Matter]:
    link = (f"/applications/{account.system}/{account.account}", "Its credential")
    who = f"{words.provider(account.system)}, {account.account}"
    if account.expires_at:
        ends = formats.parse_time(account.expires_at)
        if ends <= now:
            return [
                Matter("bad", f"{who}: expired", "Its certificate is no longer valid.", "Replace it.", *link),
            ]
        if ends - now < _SOON:
            left = formats.duration((ends - now).total_seconds())
            return [
                Matter("wait", f"{who}: near its end", f"Its certificate ends in {left}.", "Replace it in time.", *link)
            ]
    if account.last_check and not account.last_check.ok:
        return [Matter("bad", f"{who}: not accepted", account.last_check.answer, "", *link)]
    return []
