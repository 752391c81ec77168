"""What is fuzzed: for each name, how to make a function that takes the bytes of one input.

A function catches what its callers expect of bad input, and nothing else; and it checks what must hold of whatever was
taken. It must not keep anything of an input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.fuzz import answers, records, requests, wires

Run = Callable[[bytes], None]

TARGETS: Final[dict[str, Callable[[], Run]]] = {
    "ingest": requests.ingest,
    "push": requests.push,
    "tokens": requests.tokens,
    "jwt": answers.json_web_token,
    "sign-in": answers.sign_in,
    "apns": answers.apns,
    "fcm": answers.fcm,
    "records": records.records,
    "http1": wires.http1,
    "http2-client": wires.http2_client,
    "http2-server": wires.http2_server,
}
