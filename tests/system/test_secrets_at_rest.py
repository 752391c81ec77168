"""Secrets are planted, and the whole story is told: crashes, errors, a backup, commands. None is found in clear.

Searched are all files of the server's directory (the store, its log, what was backed up, the server's log), the
arguments of its process while it runs, and all that the API and commands have said. The emulator's files are not: it is
the other side.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from tests.system.running_system import EVENTS, RunningSystem, eventually
from tests.torture.http_client import Client
from tests.torture.sent_events import SentEvent
from tests.torture.users import User

TEXT = "Treffen um 17:45 am Hintereingang, Kennwort Sauerteig"
LONG_TEXT = "Sehr geheim. " * 300
PROVIDER_QUOTES = f"Invalid value at 'message.data[3].value': {TEXT}"


class Secrets(Struct):
    """What was planted, by name; and what may stand in the store's files alone."""

    nowhere: dict[str, str]
    only_in_the_store: dict[str, str]

    def found_in(self, content: bytes, *, in_store: bool) -> list[str]:
        wanted = self.nowhere if in_store else self.nowhere | self.only_in_the_store
        return [name for name, text in wanted.items() for form in _forms(text) if form in content]


def _forms(text: str) -> Iterable[bytes]:
    """In which it might stand: as it is, in JSON, in hex, in base64 (whichever way it is aligned)."""
    raw = text.encode()
    yield from {raw, json.dumps(text)[1:-1].encode(), raw.hex().encode(), raw.hex().upper().encode()}
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw)
        # Without what depends on the bytes beside it; of a short one too little is left to be told from others.
        if len(middle := encoded[4 if shift else 0 : len(encoded) - 4]) >= 16:
            yield middle


def _lines_of(pem: str) -> str:
    """The middle of a key, which is long enough to be found by nothing else."""
    return "".join(line for line in pem.splitlines() if "-----" not in line)[40:100]


def planted(system: RunningSystem, users: Iterable[User]) -> Secrets:
    summary = system.emulator.summary
    account = msgspec.json.decode(Path(summary["service_account"]).read_bytes())
    apns_key = Path(summary["apns_key"]).read_text()
    users = list(users)
    return Secrets(
        {
            "APNs key": _lines_of(apns_key),
            "service account": _lines_of(account["private_key"]),
            "access token": "ya29.",
            "producer's key": system.secret,
            "chat text": TEXT,
            "long chat text": LONG_TEXT[:60],
        }
        | {f"session {number}": user.session for number, user in enumerate(users)},
        {f"device token {number}": user.devices[0].token for number, user in enumerate(users)},
    )


def chat(user: User, number: int, text: str) -> SentEvent:
    other = "52a9fd3c-8aad-11e0-9138-0024e8f90cc0"
    marker = f"c1aa1566-84d7-11e2-a7a8-0024e8f9{number:04d}"
    fields = {"chat": other, "uuid": marker, "time": 1362407297, "user": other, "user_name": "John Doe"}
    content = {"owner": user.owner, "message": "chat_message", "type": "text", "text": text, "event_id": marker}
    return SentEvent(marker, user.owner, "chat_message", msgspec.json.encode(content | fields), marker)


def in_files(secrets: Secrets, directory: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in sorted(directory.rglob("*")):
        if file.is_file() and (names := secrets.found_in(file.read_bytes(), in_store=file.suffix.startswith(".db"))):
            found[file.name] = names
    return found


def in_arguments(secrets: Secrets, pid: int) -> list[str]:
    return secrets.found_in(Path(f"/proc/{pid}/cmdline").read_bytes(), in_store=False)


def printed_by(system: RunningSystem, *commands: tuple[str, ...]) -> tuple[bytes, bytes]:
    """What these commands print on standard output and on standard error."""
    done = [system.server.run_cli(*command) for command in commands]
    assert [one.stderr for one in done if one.returncode] == []
    return "".join(one.stdout for one in done).encode(), "".join(one.stderr for one in done).encode()


@pytest.mark.slow
async def test_no_secret_and_no_message_is_in_clear_in_any_file_log_argument_or_error(system: RunningSystem) -> None:
    users = [await system.user("apns"), await system.user("fcm")]
    apple, google = users
    secrets, directory, server = planted(system, users), system.server.directory, system.server
    told: list[bytes] = []

    # Delivered; parked; and refused, by a provider that quotes what it was sent.
    delivered = [chat(user, number, TEXT) for number, user in enumerate(users)]
    assert (await system.post(delivered)).status == 202
    await system.all_received(delivered)
    await system.faults(
        {"match": {"provider": "apns"}, "status": 503},
        {"match": {"provider": "fcm"}, "status": 400, "body": _refusal()},
    )
    waiting, refused = chat(apple, 10, TEXT), chat(google, 11, LONG_TEXT + TEXT)
    assert (await system.post([waiting, refused])).status == 202
    await eventually(lambda: _letters(system) == 1, 30, system.explain)
    assert in_arguments(secrets, server.pid) == []

    # Errors that had the secrets before them.
    client = system.client()
    wrong_session = Client(server.port, apple.session)
    bodies = (b'{"message":"chat_message","text":"%s"}' % TEXT.encode(), TEXT.encode(), delivered[0].body[:-9])
    told += [(await client.call("POST", EVENTS, body)).body for body in bodies]
    told.append((await client.call("POST", EVENTS, chat(apple, 0, "another text").body)).body)  # a conflict
    told.append((await wrong_session.call("POST", EVENTS, delivered[0].body)).body)
    bad = msgspec.json.encode({"system": "apns", "action": "add", "device_token": apple.devices[0].token + "zz"})
    told.append((await wrong_session.call("POST", "/api/push", bad)).body)
    admin = Client(server.port, server.run_cli("key", "create", "admin").stdout.strip())
    told += [(await admin.call("GET", path)).body for path in ("/health/ready", "/metrics", "/schema/openapi.json")]
    letters = (await admin.call("GET", "/api/admin/dead-letters")).body
    assert (refused.event_id or "?").encode() in letters
    admin.close()
    client.close()
    wrong_session.close()

    # A crash, with contents in the log beside the file; a backup; what an operator asks.
    await system.post([chat(apple, 12, TEXT)])
    server.kill()
    assert in_files(secrets, directory) == {}
    await server.start()
    printed, errors = printed_by(
        system,
        ("store", "backup", str(directory / "backup.db")),
        ("store", "check"),
        ("event", "show", refused.event_id or ""),
        ("event", "show", delivered[0].event_id or ""),
        ("deadletter", "list"),
        ("session", "list"),
        ("key", "list"),
        ("app", "list"),
        ("fcm", "list"),
        ("device", "list", "--owner", apple.owner),
        ("store", "rekey"),
    )
    await system.faults()
    server.run_cli("deadletter", "replay", "--all")
    await system.all_received([waiting], 120)
    server.kill()
    await server.start()
    server.terminate()
    assert in_files(secrets, directory) == {}
    # An operator who asks for devices and receipts is shown the tokens; nobody else is.
    assert secrets.found_in(printed + letters, in_store=True) == []
    assert secrets.found_in(b"\n".join([*told, errors]), in_store=False) == []


def test_the_search_would_find_a_secret_in_any_of_its_forms(tmp_path: Path) -> None:
    secrets = Secrets({"chat text": TEXT}, {"device token 0": "ab" * 32})
    for number, content in enumerate(
        (TEXT.encode(), TEXT.encode().hex().encode(), base64.b64encode(b"x" + TEXT.encode() + b"y"))
    ):
        (tmp_path / f"{number}.log").write_bytes(b"before " + content + b" after")
    (tmp_path / "a.log").write_bytes(b"ab" * 32)
    (tmp_path / "tocsin.db").write_bytes(b"ab" * 32)
    assert in_files(secrets, tmp_path).keys() == {"0.log", "1.log", "2.log", "a.log"}


def _refusal() -> str:
    error = {"code": 400, "message": PROVIDER_QUOTES, "status": "INVALID_ARGUMENT", "details": []}
    return json.dumps({"error": error})


def _letters(system: RunningSystem) -> int:
    done = system.server.run_cli("deadletter", "list", "--json")
    return len(json.loads(done.stdout))
