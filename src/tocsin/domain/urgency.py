"""Urgent first, and a quarter of the room for the others: the one rule by which places are given out."""

from __future__ import annotations


class Turns:
    """The number of the turn. A room of one cannot be divided: every fourth turn is the others'."""

    def __init__(self) -> None:
        self._turn = 0

    def next(self) -> int:
        self._turn = (self._turn + 1) % 4
        return self._turn


def reserved(room: int, turn: int) -> int:
    """How many of `room` places are kept for what is not urgent, as long as there is any."""
    return (room + turn) // 4


def divide(room: int, urgent: int, others: int, turn: int) -> tuple[int, int]:
    """How many of `urgent` and of `others` get one of `room` places."""
    first = min(urgent, room - min(others, reserved(room, turn)))
    return first, min(others, room - first)
