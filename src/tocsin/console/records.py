"""The answers of the admin API, as far as the pages use them (docs/api.md). What is unknown is passed over, and what is
absent has a default: a console of one version reads a server of another."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class Explanation(Struct, frozen=True):
    """Cause and remedy in one sentence each; no remedy where nothing is to be done."""

    code: str = ""
    cause: str = ""
    remedy: str = ""


class Me(Struct, frozen=True):
    """What the key may do. No `areas`: all of them."""

    id: str = ""
    name: str = ""
    role: str = "admin"
    read_only: bool = False
    areas: list[str] = []


class Pause(Struct, frozen=True):
    """Why a lane, or one topic of it, sends nothing, since when, and when it tries again."""

    cause: str = ""
    reason: str = ""
    topic: str = ""
    since: str = ""
    next_at: str = ""
    probing: bool = False
    explanation: Explanation = Explanation()


class Lane(Struct, frozen=True):
    """One lane of one node."""

    name: str
    state: str = "running"
    reason: str = ""
    in_flight: int = 0
    waiting: int = 0
    misconfigured_topics: dict[str, str] = {}
    misconfigured_devices: int = 0
    fuse_blown: bool = False
    provider: str = ""
    environment: str = ""
    account: str = ""
    pauses: list[Pause] = []
    parked_due_at: str | None = None

    @property
    def well(self) -> bool:
        return self.state == "running" and not self.misconfigured_topics and not self.fuse_blown


class Node(Struct, frozen=True):
    """One process of tocsin, as it last said of itself."""

    node: str
    version: str = ""
    at: str = ""
    age_s: float = 0.0
    gone: bool = False
    problems: list[str] = []
    lanes: list[Lane] = []
    delivers: bool = True


class Rates(Struct, frozen=True):
    accepted: float = 0.0
    sent: float = 0.0
    failed: float = 0.0


class Latency(Struct, frozen=True):
    """From acceptance to the provider's answer, in milliseconds. None: nothing was sent lately."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    samples: int = 0
    window_s: float = 60


class Backlog(Struct, frozen=True):
    events: int = 0
    size_bytes: int = 0
    oldest_at: str | None = None
    oldest_s: float | None = None


class Sample(Struct, frozen=True):
    """The figures of one second."""

    at: str
    accepted: float = 0.0
    sent: float = 0.0
    failed: float = 0.0
    backlog: int = 0
    p99_ms: float | None = None


class Figures(Struct, frozen=True):
    """How the service is now. `history` is there only without a stream."""

    at: str
    node: str = ""
    version: str = ""
    window_s: float = 10
    per_second: Rates = Rates()
    latency_ms: Latency = Latency()
    backlog: Backlog = Backlog()
    dead_letters: int = 0
    quarantined: list[str] = []
    lanes: list[Lane] = []
    nodes: list[Node] = []
    problems: list[str] = []
    of_nodes: list[str] = []
    """Whose rates and latency these are together. Empty from a server that tells its own alone."""
    history: list[Sample] = []

    @property
    def whose(self) -> str:
        """Whose rates and latency these are, where there is more than one node."""
        living = [node.node for node in self.nodes if not node.gone]
        if len(self.nodes) < 2:
            return ""
        if not self.of_nodes:
            return "Rates and latency of the node alone that was asked; the others do not tell theirs."
        untold = [name for name in living if name not in self.of_nodes]
        if untold:
            return f"Rates and latency without {', '.join(untold)}: not known of an older version."
        return f"Rates and latency of {len(self.of_nodes)} nodes together." if len(self.of_nodes) > 1 else ""

    def sample(self) -> Sample:
        """This moment as a part of the history."""
        rates = self.per_second
        return Sample(self.at, rates.accepted, rates.sent, rates.failed, self.backlog.events, self.latency_ms.p99)


class Check(Struct, frozen=True):
    """What the provider said when it was asked about a credential."""

    ok: bool
    at: str = ""
    answer: str = ""
    environment: str | None = None


class Account(Struct, frozen=True):
    """An application or a project, with the state of its credential."""

    system: str
    account: str
    kind: str = ""
    key_id: str | None = None
    default: bool = False
    changed_at: str = ""
    expires_at: str | None = None
    last_check: Check | None = None
    lanes: tuple[str, ...] = ()


class Delivery(Struct, frozen=True):
    """One event to one device, as the search finds it. Without a device: its user has none."""

    event_id: str
    owner: str
    message: str
    outcome: str
    accepted_at: str = ""
    at: str = ""
    state: str = ""
    system: str | None = None
    device_token: str | None = None
    account: str | None = None
    lane: str | None = None
    status: int | None = None
    reason: str | None = None
    attempts: int = 0
    due_at: str | None = None


class Index(Struct, frozen=True):
    """How far the search's index is behind what has happened."""

    behind_s: float = 0.0
    waiting_events: int = 0
    rebuilding: bool = False
    indexed_to: str | None = None


class Found(Struct, frozen=True):
    """One page of a search. Not `complete`: the time for one call was over before the page was full."""

    deliveries: list[Delivery] = []
    next: str | None = None
    complete: bool = True
    looked_back_to: str | None = None
    index: Index = Index()
    most: int = 200


class Attempt(Struct, frozen=True):
    at: str
    result: str
    lane: str = ""
    status: int | None = None
    reason: str | None = None
    provider_id: str | None = None
    retry_at: str | None = None
    round: int = 0
    number: int = 0
    meaning: str = ""


class NextStep(Struct, frozen=True):
    """What will be done for a delivery that has not ended."""

    what: str = ""
    text: str = ""
    lane: str = ""
    at: str | None = None


class PushRequest(Struct, frozen=True):
    """The request that is still to be sent, without what is secret."""

    url: str = ""
    headers: list[tuple[str, str]] = []
    body: Any = None
    size_bytes: int = 0


class EventDevice(Struct, frozen=True):
    """One delivery of an event, with every attempt."""

    system: str
    device_token: str
    outcome: str = ""
    explanation: Explanation = Explanation()
    registered: bool = True
    registered_at: str | None = None
    removed_at: str | None = None
    removed_because: str | None = None
    attempts: list[Attempt] = []
    next: NextStep | None = None
    request: PushRequest | None = None


class Content(Struct, frozen=True):
    state: str = "gone"
    body: Any = None


class EventTimeline(Struct, frozen=True):
    """What became of one event."""

    event_id: str
    owner: str
    message: str
    state: str
    accepted_at: str
    expires_at: str = ""
    round: int = 0
    explanation: Explanation = Explanation()
    content: Content = Content()
    devices: list[EventDevice] = []

    @property
    def ended(self) -> bool:
        return self.state in ("done", "dead")


class Device(Struct, frozen=True):
    """A registration."""

    owner: str
    system: str
    device_token: str
    registered_at: str = ""
    application_id: str | None = None
    sandbox: bool | None = None
    apns_topic: str | None = None
    learned_sandbox: bool | None = None
    learned_project: str | None = None
    last_success_at: str | None = None
    complaint: str | None = None
    complaint_since: str | None = None


class Removed(Struct, frozen=True):
    """A registration that is gone, and why."""

    device: Device
    removed_at: str = ""
    reason: str = ""
    quarantined: bool = False
    account: str | None = None
    explanation: Explanation = Explanation()


class Devices(Struct, frozen=True):
    devices: list[Device] = []
    removed: list[Removed] = []
    most: int = 1000


class Restored(Struct, frozen=True):
    restored: int = 0


class LetterDevice(Struct, frozen=True):
    device: str
    result: str = ""
    status: int = 0
    reason: str = ""
    at: str = ""


class Letter(Struct, frozen=True):
    id: str
    owner: str
    message: str
    accepted_at: str = ""
    devices: list[LetterDevice] = []


class Letters(Struct, frozen=True):
    dead_letters: list[Letter] = []
    next: str | None = None


class Quarantined(Struct, frozen=True):
    application: str
    tokens: int = 0
    oldest_at: str = ""
    system: str = ""
    for_topic: int = 0


class Preview(Struct, frozen=True):
    """What a bulk action would be done to."""

    action: str = ""
    estimate: int = 0
    exact: bool = True
    looked_at: int = 0
    examples: list[str] = []
    filter: dict[str, Any] = {}
    at_least: bool = False


class Job(Struct, frozen=True):
    """A bulk action: durable, over a filter that was frozen when it began."""

    id: str
    action: str
    state: str
    created_at: str = ""
    changed_at: str = ""
    done: int = 0
    skipped: int = 0
    total: int | None = None
    result: str = ""
    error: str | None = None
    filter: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.state in ("done", "stopped", "failed")

    @property
    def expected(self) -> int | None:
        """About how many there are in all, while that still tells something."""
        if self.ended or self.total is None or self.total < self.done + self.skipped:
            return None
        return self.total


class Jobs(Struct, frozen=True):
    jobs: list[Job] = []
    next: str | None = None
    most: int = 200


class Accepted(Struct, frozen=True):
    events: list[str] = []


class Anything(Struct, frozen=True):
    """An answer of which nothing is read."""


class KeyRate(Struct, frozen=True):
    """So many events within so many seconds."""

    count: int = 0
    per_s: int = 0


class AccessKey(Struct, frozen=True):
    """A key, and what it is limited to."""

    id: str
    role: str = ""
    name: str = ""
    created_at: str = ""
    expires_at: str | None = None
    read_only: bool = False
    events: list[str] = []
    areas: list[str] = []
    rate: KeyRate | None = None


class UserSession(Struct, frozen=True):
    id: str
    created_at: str = ""
    expires_at: str | None = None


class UserSessions(Struct, frozen=True):
    """A user's newest sessions; `capped`: there are more than `most`."""

    sessions: list[UserSession] = []
    capped: bool = False
    most: int = 0
