"""What devices tell of their topics: a topic is blamed only when many owners' devices are said not to belong to it.

Any user can register a token of another application, so one device proves nothing of its topic.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tocsin.delivery.open_items import Delivery
from tocsin.store.records import TopicReached

_OWNERS: Final = 20
_WITHIN_S: Final = 60.0
_MOST_TOPICS: Final = 1000


class Evidence:
    """For one lane: the topics on which a device was reached, and who was said not to belong to each of the others."""

    def __init__(self) -> None:
        self.right: set[str] = set()
        """Topics on which a device was reached since the credential was last changed."""
        self.lately: set[str] = set()
        """Those on which one was reached in this hour: it is not noted again. Looked at directly where a call per
        delivery would cost too much."""
        self.to_note: dict[str, int] = {}
        """When a device was reached on a topic (Unix milliseconds), until the registry has it."""
        self._said: dict[str, dict[str, tuple[str, float]]] = {}
        """By topic and owner: the token, and when it was said."""

    def reach(self, topic: str, now_ms: int) -> None:
        """A device was reached on this topic, for the first time in this hour."""
        self._said.pop(topic, None)
        if len(self.right) < _MOST_TOPICS:
            self.right.add(topic)
        if len(self.lately) < _MOST_TOPICS:
            self.lately.add(topic)
            if topic:
                self.to_note[topic] = now_ms

    def noted(self, reached: Iterable[TopicReached]) -> None:
        """The registry has these."""
        for one in reached:
            if self.to_note.get(one.topic) == one.at_ms:
                del self.to_note[one.topic]

    def not_for_topic(self, delivery: Delivery, now: float) -> set[tuple[str, str]]:
        """A device is said not to belong to its topic. Where that blames the topic itself: the devices (owner, token)
        of which it was said."""
        topic, device = delivery.route.topic, delivery.device
        if not topic or topic in self.right:
            return set()
        said = self._said.get(topic)
        if said is None:
            if len(self._said) >= _MOST_TOPICS:
                self._said.pop(next(iter(self._said)))
            said = self._said[topic] = {}
        said[device.owner] = device.token, now
        if len(said) < _OWNERS:
            return set()
        for owner in [owner for owner, (_, at) in said.items() if now - at > _WITHIN_S]:
            del said[owner]
        if len(said) < _OWNERS:
            return set()
        del self._said[topic]
        return {(owner, token) for owner, (token, _) in said.items()}

    def forget(self, owner: str, token: str) -> None:
        """The device was deleted, or is registered anew."""
        for said in self._said.values():
            if owner in said and said[owner][0] == token:
                del said[owner]

    def clear(self) -> None:
        """The credential was changed: which topics are right has to be seen again."""
        self.right.clear()
        self.lately.clear()
        self._said.clear()

    def __bool__(self) -> bool:
        return bool(self._said)
