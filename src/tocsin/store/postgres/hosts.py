"""The hosts of a URL, and which of them is tried first."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

Host = tuple[str, int]


class Hosts:
    """A host that does not acknowledge is left, and the next one tried first: that it takes writes does not tell an old
    primary, cut off from its standby, from the new one."""

    def __init__(self, url: str) -> None:
        netloc = urlsplit(url).netloc.rpartition("@")[2]
        self._all = [_host(unquote(part)) for part in netloc.split(",") if part]

    def __len__(self) -> int:
        return len(self._all)

    def in_order(self) -> list[Host]:
        """All of them, beginning with the one to be tried first; empty where the URL names its host otherwise."""
        return list(self._all)

    def prefer(self, host: Host) -> None:
        """This one takes writes."""
        at = self._all.index(host)
        self._all = self._all[at:] + self._all[:at]

    def leave(self) -> None:
        """Try the next one first."""
        self._all = self._all[1:] + self._all[:1]


def _host(text: str) -> Host:
    if text.startswith("["):  # an IPv6 address
        name, _, port = text[1:].partition("]")
        return name, int(port.removeprefix(":") or 5432)
    name, _, port = text.partition(":")
    return name, int(port or 5432)
