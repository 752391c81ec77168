"""What takes long to make and is the same in every simulation: the emulator's credentials, and a store with the keys
and sessions of those who call.

Made once per process, before virtual time begins. Keys whose signatures would be on the wire are derived from a number,
and ECDSA signs deterministically (RFC 6979), so that every run writes the same bytes.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import ECAlgorithm
from jwt.utils import der_to_raw_signature
from msgspec import Struct
from structlog.testing import capture_logs

from tests.simulator.api import Secrets
from tests.simulator.clocks import WALL_AT_ZERO_S
from tests.simulator.phones import OTHER_PROJECT, PROJECT, owner_of
from tests.simulator.plan import MOST_OWNERS
from tocsin.emulator.credentials import Files, write_credentials, write_service_account
from tocsin.emulator.oauth_assertion import GOOGLE_AUDIENCE
from tocsin.store import secrets
from tocsin.store.records import Role
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions

_KEY_ID: Final = "SIMULATED1"
_OTHER_KEY: Final = 1_002
_KEY: Final = 1_001


class Template(Struct, frozen=True):
    directory: Path
    """With `emulator/`, `tocsin.db` and its master key, to be copied."""
    secrets: Secrets


@lru_cache(1)
def template() -> Template:
    directory = Path(tempfile.mkdtemp(prefix="tocsin-simulator-"))
    emulator = directory / "emulator"
    emulator.mkdir()
    (emulator / "key_id").write_text(_KEY_ID)
    (emulator / f"AuthKey_{_KEY_ID}.p8").write_text(apns_key())
    files = write_credentials(emulator)
    for project in (PROJECT, OTHER_PROJECT):
        write_service_account(files, "http://localhost:1/token", project)
        account = json.loads(files.service_account_of(project).read_text())
        # It is in the header of each assertion. The RSA key may be any: its signatures have one length.
        files.service_account_of(project).write_text(json.dumps(account | {"private_key_id": "0" * 40}))
    with capture_logs():
        return Template(directory, asyncio.run(_make_store(directory / "tocsin.db")))


async def _make_store(path: Path) -> Secrets:
    random = Random("secrets")
    options = SqliteOptions(max_events=1, max_bytes=1, lease_s=1, wall_clock=lambda: WALL_AT_ZERO_S, random=random)
    store = await open_store(path, options, server=True)
    # The same ones in every process: where they stand in the file decides how many pages that has.
    seeded = SimpleNamespace(
        token_urlsafe=lambda size: f"{random.getrandbits(8 * size):0{2 * size}x}",
        token_hex=lambda size: f"{random.getrandbits(8 * size):0{2 * size}x}",
    )
    with patch.object(secrets, "secrets", seeded):
        access = store.access
        producer, _ = await access.create_key(Role.PRODUCER, "a producer", None)
        admin, _ = await access.create_key(Role.ADMIN, "the operator", None)
        owners = [owner_of(number) for number in range(MOST_OWNERS)]
        sessions = {owner: (await access.create_session(owner, None))[0] for owner in owners}
    await store.close()
    return Secrets(producer, admin, sessions)


def apns_key(*, other: bool = False) -> str:
    """The key that the emulator knows, or with `other` one that it does not."""
    key = ec.derive_private_key(_OTHER_KEY if other else _KEY, ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def service_account(files: Files, project: str, *, other: bool = False) -> bytes:
    """The account of a project that the emulator knows, or with `other` one of a project that it does not."""
    account = json.loads(files.service_account_of(project).read_text())
    account["token_uri"] = GOOGLE_AUDIENCE
    return json.dumps(account | ({"project_id": "somebody-else"} if other else {})).encode()


@contextmanager
def deterministic_signatures() -> Iterator[None]:
    """ECDSA without random numbers (RFC 6979)."""

    def sign(algorithm: Any, message: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
        signature = key.sign(message, ec.ECDSA(algorithm.hash_alg(), deterministic_signing=True))
        return der_to_raw_signature(signature, key.curve)

    with patch.object(ECAlgorithm, "sign", sign):
        yield
