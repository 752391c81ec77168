"""Makes the provider fail, by the fault script of the emulator."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

import msgspec

from tests.torture.http_client import Client, NoResponse
from tests.torture.processes import Emulator

Rule = dict[str, Any]
_AFTER_1_S: Final = {"retry-after": "1"}

FAULTS: Final[dict[str, list[Rule]]] = {
    "503": [{"status": 503, "reason": "ServiceUnavailable", "headers": _AFTER_1_S, "rate": 0.5}],
    "503 without end": [{"status": 503, "headers": _AFTER_1_S}],
    "429": [{"status": 429, "reason": "TooManyRequests", "headers": _AFTER_1_S, "rate": 0.3}],
    "resets": [
        {"reset": 7, "rate": 0.1},
        {"reset": 2, "rate": 0.05},
        {"reset": 2, "processed": True, "rate": 0.05},
    ],
    "GOAWAY": [
        {"goaway": {"mode": "graceful", "every": 40}},
        {"goaway": {"mode": "mid", "every": 31}},
        {"goaway": {"mode": "immediate", "every": 57}},
    ],
    "cuts": [
        {"cut": "before_answer", "rate": 0.005},
        {"cut": "mid_headers", "rate": 0.005},
        {"cut": "before_answer", "processed": True, "rate": 0.005},
    ],
    "no answer": [{"no_answer": True, "rate": 0.1}, {"no_answer": True, "processed": True, "rate": 0.05}],
    "slow": [{"delay_s": 0.5, "rate": 0.5}],
    "TLS": [{"tls_fail": True}, {"goaway": {"mode": "immediate", "every": 25}}],
    "expired access tokens": [{"match": {"provider": "fcm"}, "expire_tokens": True, "times": 2}],
    "expired provider tokens": [
        {"match": {"provider": "apns"}, "status": 403, "reason": "ExpiredProviderToken", "times": 3}
    ],
}


class Provider:
    """The emulator's control API."""

    def __init__(self, emulator: Emulator, rng: random.Random) -> None:
        self._rng = rng
        self._control = Client(int(emulator.summary["control"].rsplit(":", 1)[1]))

    async def script(self, rules: list[Rule]) -> None:
        """Replace the fault script; without rules everything works."""
        body = msgspec.json.encode({"rules": rules, "seed": self._rng.randrange(2**31)})
        for _ in range(50):
            try:
                response = await self._control.call("PUT", "/faults", body)
            except NoResponse:
                await asyncio.sleep(0.1)
                continue
            assert response.status == 200, response.body
            return
        raise AssertionError("the emulator's control API does not respond")

    def close(self) -> None:
        self._control.close()
