"""Answers that are one whole list: at most so many rows, and a header that says whether there are more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from litestar import Response

T = TypeVar("T")

MOST: Final = 1000
MORE: Final = "Tocsin-More"


def capped(rows: Sequence[T], *, newest_last: bool = False) -> Response[list[T]]:
    """The first `MOST` rows, or the last where those are the newest."""
    kept = rows[-MOST:] if newest_last else rows[:MOST]
    return Response(list(kept), headers={MORE: "true" if len(rows) > MOST else "false"})
