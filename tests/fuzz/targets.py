"""What is fuzzed: for each name, where the function is made that takes the bytes of one input.

Such a function catches what its callers expect of bad input, and nothing else; and it checks what must hold of whatever
was taken. It must not keep anything of an input.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

Run = Callable[[bytes], None]

TARGETS: Final = {
    "ingest": "requests.ingest",
    "push": "requests.push",
    "tokens": "requests.tokens",
    "jwt": "answers.json_web_token",
    "sign-in": "answers.sign_in",
    "apns": "answers.apns",
    "fcm": "answers.fcm",
    "records": "records.records",
    "http1": "wires.http1",
    "http2-client": "wires.http2_client",
    "http2-server": "wires.http2_server",
}
"""The module here, and the function in it that makes the one that is wanted."""


def made(target: str) -> Run:
    """The function of a target. Only what it needs is imported."""
    module, _, make = TARGETS[target].partition(".")
    run: Run = getattr(import_module(f"tests.fuzz.{module}"), make)()
    return run
