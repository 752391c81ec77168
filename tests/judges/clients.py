"""Clients of APNs and FCM in other languages: each is a program that reads a task and writes what became of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from tests.emulator.harness import TOPIC, new_token

TASK_TIMEOUT_S: Final = 60.0


class Notification(Struct, kw_only=True):
    """One push to APNs."""

    token: str = msgspec.field(default_factory=new_token)
    topic: str = TOPIC
    payload: dict[str, Any] = msgspec.field(
        default_factory=lambda: {"aps": {"alert": "A new fax"}, "message": "fax_new"}
    )
    push_type: str = "alert"
    priority: int = 10
    expiration: int = 2_000_000_000
    """Unix time, in seconds."""
    collapse_id: str = ""
    id: str


class Message(Struct, kw_only=True):
    """One push to FCM."""

    token: str = "APA91bHun4MxP5egoKMwt2KZFBaFUH"
    data: dict[str, str] = msgspec.field(default_factory=lambda: {"message": "fax_new", "page_count": "2"})
    ttl_s: int = 3600


class ApnsTask(Struct, kw_only=True, tag_field="provider", tag="apns"):
    """Send these pushes to APNs."""

    url: str
    ca: str
    auth: dict[str, str]
    """`key`, `key_id` and `team_id`; or a push certificate: `p12`, or `pem` with its key."""
    notifications: list[Notification]


class FcmTask(Struct, kw_only=True, tag_field="provider", tag="fcm"):
    """Send these pushes to FCM."""

    url: str
    account: str
    """The path of a service account file."""
    call: str
    """The function of the client: `send`, `dry_run`, `send_each`, or `send_each_http1`, which only Node has."""
    messages: list[Message]


class Program(Struct, frozen=True):
    """A client's program."""

    name: str
    command: list[str]
    variables: dict[str, str] = {}

    async def run(self, task: ApnsTask | FcmTask, ca: Path) -> list[dict[str, Any]]:
        """Returns what became of each push: of APNs `status`, `reason` and `timestamp`; of FCM `name`, or `code` and
        `message`.

        Raises:
            AssertionError: the program failed; the message is what it wrote.
            TimeoutError: it did not end in time.
        """
        output = await run(self.command, msgspec.json.encode(task), self.variables | trust(ca))
        answers: list[dict[str, Any]] = msgspec.json.decode(output)
        return answers


def trust(ca: Path) -> dict[str, str]:
    """Environment variables with which Node and Go trust this CA."""
    return {"NODE_EXTRA_CA_CERTS": str(ca), "SSL_CERT_FILE": str(ca)}


async def run(command: list[str], given: bytes, variables: Mapping[str, str]) -> bytes:
    """Run a program to its end, with this on its standard input; returns its standard output.

    Raises:
        AssertionError: it failed; the message is what it wrote.
        TimeoutError: it did not end in time.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ | variables
    )
    try:
        async with asyncio.timeout(TASK_TIMEOUT_S):
            output, errors = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode(errors="replace")
    return output
