"""Who has signed in: keys by random cookie, in memory alone. A restart of the console signs everybody out."""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Final

_MOST: Final = 1000
_NOTICES: Final = 20


class Notice:
    """What is to be said once, on the next page: that something was done, or why not."""

    __slots__ = ("bad", "text")

    def __init__(self, text: str, *, bad: bool = False) -> None:
        self.text = text
        self.bad = bad


class Session:
    """One signed-in browser. `key` is its admin key: it is sent to the API, and never to the browser."""

    __slots__ = ("_notices", "csrf", "ended", "held", "key", "key_name", "last_used_s", "may", "read_only", "streams")

    def __init__(
        self, key: str, csrf: str, now_s: float, *, read_only: bool, key_name: str, may: frozenset[str]
    ) -> None:
        self.key = key
        self.csrf = csrf
        self.read_only = read_only
        self.key_name = key_name
        self.may = may
        """The areas of the admin API that the key may change."""
        self.last_used_s = now_s
        self.ended = False
        """Whether it is over: its owner has signed out, did nothing for too long, or it gave way to another."""
        self.streams = 0
        """How many live streams it has open."""
        self.held: dict[str, str] = {}
        """Device tokens that were searched for, by the names that stand for them in addresses."""
        self._notices: list[Notice] = []

    def __repr__(self) -> str:
        return f"<Session read_only={self.read_only}>"

    def say(self, text: str, *, bad: bool = False) -> None:
        """Say something on the next page."""
        self._notices = [*self._notices, Notice(text, bad=bad)][-_NOTICES:]

    def take_notices(self) -> list[Notice]:
        """What is to be said now; it is said once."""
        notices, self._notices = self._notices, []
        return notices


class Sessions:
    """The sessions by the SHA-256 of their cookies. A thousand at most: the one used longest ago gives way."""

    def __init__(self, idle: timedelta, now_s: Callable[[], float]) -> None:
        self._idle_s = idle.total_seconds()
        self._now_s = now_s
        self._secret = secrets.token_bytes(32)
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def create(
        self, key: str, *, read_only: bool = False, key_name: str = "", may: frozenset[str] = frozenset()
    ) -> tuple[str, Session]:
        """A new session for this key; returns its cookie, too."""
        cookie = new_cookie()
        session = Session(key, self.csrf(cookie), self._now_s(), read_only=read_only, key_name=key_name, may=may)
        self._sessions[_digest(cookie)] = session
        while len(self._sessions) > _MOST:
            _, displaced = self._sessions.popitem(last=False)
            displaced.ended = True
        return cookie, session

    def find(self, cookie: str | None, *, use: bool = True) -> Session | None:
        """The session of a cookie; None where there is none, or it was unused for too long. With `use` it is used."""
        if not cookie:
            return None
        digest = _digest(cookie)
        session = self._sessions.get(digest)
        if session is None:
            return None
        if self.is_over(session):
            del self._sessions[digest]
            return None
        if use:
            session.last_used_s = self._now_s()
            self._sessions.move_to_end(digest)
        return session

    def is_over(self, session: Session) -> bool:
        """Whether a session has ended, or was unused for too long."""
        if self._now_s() - session.last_used_s > self._idle_s:
            session.ended = True
        return session.ended

    def end(self, cookie: str | None) -> None:
        """Forget the session of this cookie, and its key."""
        session = self._sessions.pop(_digest(cookie), None) if cookie else None
        if session is not None:
            session.ended = True

    def csrf(self, cookie: str) -> str:
        """What every form of this cookie's owner must bring. It cannot be computed without this process's secret."""
        return hmac.new(self._secret, cookie.encode(), sha256).hexdigest()

    def is_csrf(self, cookie: str | None, given: str) -> bool:
        """Whether a form brought what belongs to the cookie."""
        return cookie is not None and hmac.compare_digest(self.csrf(cookie).encode(), given.encode())

    def __len__(self) -> int:
        return len(self._sessions)


def new_cookie() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def _digest(cookie: str) -> bytes:
    # The dictionary compares digests: how long that takes says nothing of a cookie.
    return sha256(cookie.encode()).digest()
