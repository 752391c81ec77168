"""What devices tell of their topics: a topic is blamed only when many owners' devices are said not to belong to it.

Any user can register a token of another application, so one device proves nothing of its topic.
"""

from __future__ import annotations

from typing import Final

from tocsin.delivery.open_items import Delivery

_OWNERS: Final = 20
_WITHIN_S: Final = 60.0
_MOST_TOPICS: Final = 1000


class Evidence:
    """For one lane: the topics on which a device was reached, and who was said not to belong to each of the others."""

    def __init__(self) -> None:
        self.reached: set[str] = set()
        """Topics on which a device was reached since the credential was last changed: these are right. Looked at
        directly where a call per delivery would cost too much."""
        self._said: dict[str, dict[str, tuple[str, float]]] = {}
        """By topic and owner: the token, and when it was said."""

    def reach(self, topic: str) -> None:
        """A device was reached on this topic."""
        self._said.pop(topic, None)
        if len(self.reached) < _MOST_TOPICS:
            self.reached.add(topic)

    def not_for_topic(self, delivery: Delivery, now: float) -> set[tuple[str, str]]:
        """A device is said not to belong to its topic. Where that blames the topic itself: the devices (owner, token)
        of which it was said."""
        topic, device = delivery.route.topic, delivery.device
        if not topic or topic in self.reached:
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
        self.reached.clear()
        self._said.clear()

    def __bool__(self) -> bool:
        return bool(self._said)
