"""The test harness: a running emulator, and valid requests to it, which tests can change."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import jwt
from tests.emulator.h2_client import Answer, H2Client, Headers, open_client, provider_token

from tocsin.emulator.faults import Latency, Rule, Script
from tocsin.emulator.oauth_assertion import GRANT_TYPE
from tocsin.emulator.run import Emulator

TOPIC = "de.cospace.app"
BODY = b'{"aps":{"content-available":1},"message":"fax_new"}'
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_numbers = itertools.count(1)


def new_token() -> str:
    """A device token that no other test uses."""
    return f"{next(_numbers):064x}"


class Harness:
    """A running emulator and the connections to it; they are opened when needed and closed at the end of the test."""

    def __init__(self, emulator: Emulator, stack: AsyncExitStack) -> None:
        self.emulator = emulator
        self._stack = stack
        self._access_token = ""

    @property
    def account(self) -> dict[str, str]:
        """The content of the service account file."""
        return dict(json.loads(self.emulator.files.service_account.read_text()))

    def url(self, endpoint: str) -> str:
        """The URL of `production`, `sandbox`, `fcm`, `token_uri` or `control`."""
        apns = self.emulator.summary["apns"]
        assert isinstance(apns, dict)
        return str(apns[endpoint] if endpoint in apns else self.emulator.summary[endpoint])

    async def connect(self, endpoint: str, certificate: Path | None = None) -> H2Client:
        return await self._stack.enter_async_context(
            open_client(self.url(endpoint), self.emulator.files.ca, certificate)
        )

    def script(
        self, *rules: Rule, latency: Latency | None = None, seed: int | None = None, tls_fail: bool = False
    ) -> None:
        """Set a fault script."""
        self.emulator.faults.replace(Script(rules=list(rules), latency=latency, seed=seed, tls_fail=tls_fail))

    # -- Apple ---------------------------------------------------------------------------------------------------------

    def bearer(self, **changes: Any) -> str:
        """The `authorization` of a valid provider token; keywords replace the key, the key id, or claims."""
        files = self.emulator.files
        return provider_token(
            changes.pop("key", files.apns_key.read_text()), changes.pop("key_id", files.key_id), **changes
        )

    def push(self, token: str | None = None, **changes: str | None) -> Headers:
        """Header fields of a valid push; a keyword (`apns_id`, `method`, `path`) replaces a field, None removes it."""
        fields = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "localhost",
            ":path": f"/3/device/{token or new_token()}",
            "authorization": self.bearer(),
            "apns-topic": TOPIC,
            "apns-push-type": "background",
            "apns-priority": "5",
            "apns-expiration": str(int(time.time()) + 3600),
            "apns-id": f"00000000-0000-4000-8000-{next(_numbers):012x}",
        }
        for name, value in changes.items():
            field = f":{name}" if name in ("method", "path") else name.replace("_", "-")
            if value is None:
                fields.pop(field, None)
            else:
                fields[field] = value
        return list(fields.items())

    # -- Google --------------------------------------------------------------------------------------------------------

    def assertion(self, **changes: Any) -> str:
        """A valid assertion for the token endpoint; a keyword replaces the key or a claim, None removes a claim."""
        account = self.account
        now = int(time.time())
        key = changes.pop("key", account["private_key"])
        claims = {
            "iss": account["client_email"],
            "scope": SCOPE,
            "aud": account["token_uri"],
            "iat": now,
            "exp": now + 3600,
        }
        return jwt.encode(
            {name: value for name, value in (claims | changes).items() if value is not None}, key, "RS256"
        )

    async def grant(self, assertion: str, grant_type: str = GRANT_TYPE) -> Answer:
        connection = await self.connect("token_uri")
        head = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/token")]
        return await connection.ask(head, f"grant_type={grant_type}&assertion={assertion}".encode())

    async def access_token(self) -> str:
        if not self._access_token:
            self._access_token = (await self.grant(self.assertion())).json["access_token"]
        return self._access_token

    def drop_access_token(self) -> None:
        self._access_token = ""

    async def message_headers(self, **changes: str | None) -> Headers:
        """Header fields of a valid request to FCM; a keyword replaces a field, None removes it."""
        fields = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "localhost",
            ":path": "/v1/projects/tocsin-emulator/messages:send",
        }
        if "authorization" not in changes:
            fields["authorization"] = f"Bearer {await self.access_token()}"
        for name, value in changes.items():
            field = f":{name}" if name in ("method", "path") else name
            if value is None:
                fields.pop(field, None)
            else:
                fields[field] = value
        return list(fields.items())

    async def send_message(self, message: Any, **request: Any) -> Answer:
        connection = await self.connect("fcm")
        body = json.dumps({"message": message} | request).encode()
        return await connection.ask(await self.message_headers(), body)


StartEmulator = Callable[..., Awaitable[Harness]]
