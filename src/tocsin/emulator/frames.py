"""Recognises the part of a request's header fields that repeats from one request to the next.

A sender repeats all but two or three fields. What repeats is kept once, with what was found out about it, so that a
request is read by one comparison, and the thousands of pushes in the inbox share it: measured, a third of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final

from msgspec import Struct

from tocsin.http2.messages import Header
from tocsin.http2.server import Exchange

_MOST_FRAMES: Final = 2_000
_SECRET: Final = b"authorization"


class Frame(Struct, eq=False):
    """The fields that repeat; `verdict` is the handler's own."""

    fields: dict[bytes, bytes]
    varying: tuple[bytes, ...]
    """The names of those that do not."""
    verdict: Any = None

    def shown(self, values: tuple[bytes | None, ...]) -> dict[str, str]:
        """All fields of a request but its credentials, given the values of those that vary."""
        own = zip(self.varying, values, strict=True)
        every = [*self.fields.items(), *((name, value) for name, value in own if value is not None)]
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in every if name != _SECRET}


class Reading(Struct, frozen=True, gc=False):
    """One request's header fields. `values` are those of the fields that vary, None where there is none."""

    frame: Frame
    values: tuple[bytes | None, ...]
    repeated: bool = False
    """Some field came twice."""


class _Layout(Struct, frozen=True):
    """Where, on one connection, the fields that vary are."""

    count: int
    names: tuple[bytes, ...]
    own: Callable[[Sequence[Header]], tuple[Header, ...]]
    stable: Callable[[Sequence[Header]], tuple[Header, ...]]


class Frames:
    """Reads requests whose fields `varying` vary and whose other fields repeat."""

    def __init__(self, *varying: bytes) -> None:
        self._varying = varying
        self._frames: dict[tuple[Header, ...], Frame] = {}

    def read(self, exchange: Exchange) -> Reading:
        headers = exchange.headers
        layout = exchange.connection.state.get("layout")
        if layout is not None and len(headers) == layout.count:
            own = layout.own(headers)
            names, values = zip(*own, strict=True)
            if names == layout.names:
                frame = self._frames.get(layout.stable(headers))
                if frame is not None:
                    if names != self._varying:
                        found = dict(own)
                        values = tuple(found.get(name) for name in self._varying)
                    return Reading(frame, values)
        return self._learn(exchange)

    def _learn(self, exchange: Exchange) -> Reading:
        headers = exchange.headers
        fields = dict(headers)
        places = [
            index for name in self._varying for index, header in enumerate(headers) if header[0] == name
        ]  # in the order of `varying`
        others = [index for index in range(len(headers)) if index not in places]
        layout = _Layout(len(headers), tuple(headers[index][0] for index in places), _at(places), _at(others))
        own, stable = layout.own(headers), layout.stable(headers)
        frame = Frame(dict(stable), self._varying)
        repeated = len(fields) != len(headers)
        if own and not repeated:
            exchange.connection.state["layout"] = layout
            if len(self._frames) >= _MOST_FRAMES:
                self._frames.clear()
            frame = self._frames.setdefault(stable, frame)
        return Reading(frame, tuple(fields.get(name) for name in self._varying), repeated)


def _at(places: list[int]) -> Callable[[Sequence[Header]], tuple[Header, ...]]:
    """Takes these places out of a sequence, always as a tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda headers: tuple(headers[index] for index in places)
