"""What has to be true after a cut, by what had been answered before it."""

from __future__ import annotations

from msgspec import Struct

from tests.power_loss.told import Facts
from tests.power_loss.trace import Marked


class Action(Struct):
    facts: Facts
    before: Facts
    """What was true of the same things when it started."""
    atomic: bool


class Expected(Struct):
    """Follows the marks of a story. What stands in `facts` is true; what an open action says may be true, too."""

    facts: Facts = {}
    open: dict[int, Action] = {}

    def hear(self, marked: Marked) -> None:
        match marked.kind:
            case "begins":
                self.facts, self.open = dict(marked.facts), {}
            case "starts":
                before = {name: self.facts.get(name) for name in marked.facts}
                self.open[marked.number] = Action(marked.facts, before, marked.atomic)
            case "answers":
                self.facts |= self.open.pop(marked.number).facts
            case "refuses":
                del self.open[marked.number]

    def now(self) -> Expected:
        """As it is now; what is heard later does not change it."""
        return Expected(dict(self.facts), dict(self.open))

    def wrong_in(self, found: Facts) -> list[str]:
        """What does not agree with what was found, as sentences."""
        allowed = {name: {value} for name, value in self.facts.items()}
        for action in self.open.values():
            for name, value in action.facts.items():
                allowed.setdefault(name, {None}).add(value)
        wrong = []
        for name in sorted(allowed.keys() | found.keys()):
            value, right = found.get(name), allowed.get(name, {None})
            if value not in right:
                wrong.append(f"{name} is {value!r}, and was to be {' or '.join(sorted(map(repr, right)))}")
        return wrong or self._torn_in(found)

    def _torn_in(self, found: Facts) -> list[str]:
        """Actions of which a part is there: of those whose things no other open action changes as well."""
        wrong = []
        for number, action in self.open.items():
            others = {name for key, other in self.open.items() if key != number for name in other.facts}
            changed = [name for name, value in action.facts.items() if value != action.before[name]]
            changed = [name for name in changed if name not in others and self.facts.get(name) == action.before[name]]
            there = [name for name in changed if found.get(name) == action.facts[name]]
            if action.atomic and there and len(there) < len(changed):
                wrong.append(f"of one action {len(there)} of {len(changed)} parts are there: {there[0]} is one")
        return wrong
