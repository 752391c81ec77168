"""The fields of a request's head that say where the request ends and whom it is for.

A proxy in front of tocsin that reads them in another way would take one request for two, or two for one (request
smuggling). So only one reading is possible, and everything else is refused. Source: RFC 9112, sections 2.3, 3.2, 6 and
11.2; RFC 9110, section 7.8.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tocsin.http2.messages import Header

FRAMING_FIELDS: Final = frozenset({b"host", b"transfer-encoding", b"te", b"expect"})
"""The fields that `refusal` and `expects_continue` look at."""

_VERSIONS: Final = ("1.1", "1.0")
_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")
_OF_AN_UPGRADE: Final = frozenset({b"upgrade", b"http2-settings"})


def refusal(version: str, fields: Sequence[Header]) -> str | None:
    """Why a request must not be taken, as a sentence; None where it may be.

    `version` is that of the request line; `fields` are those of `FRAMING_FIELDS`, with names in lower case.
    """
    if version not in _VERSIONS:
        return "The server speaks HTTP/1.1 and HTTP/1.0."
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) != 1 and (version == "1.1" or hosts):
        return "The request must have one Host."
    if hosts and not _HOST.fullmatch(hosts[0]):
        return "Host must be a host name or an address, and perhaps a port."
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if codings and [value.lower() for value in codings] != [b"chunked"]:
        return "The only Transfer-Encoding is `chunked`."
    if version == "1.0" and (codings or any(name == b"te" for name, _ in fields)):
        return "HTTP/1.0 has neither Transfer-Encoding nor TE."
    return None


def expects_continue(fields: Sequence[Header]) -> bool:
    """Whether the client waits for `100 Continue` before it sends the body."""
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in fields)


def head_without_upgrade(method: bytes, target: bytes, version: str, fields: Sequence[Header]) -> bytes:
    """The head of a request as bytes, without its offer to go on in another protocol, which a server may ignore."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    for name, value in fields:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() not in _OF_AN_UPGRADE)
        if name not in _OF_AN_UPGRADE:
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
