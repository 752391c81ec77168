"""schemathesis judges the API of a running server: over its whole published schema, with every kind of key and none."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.judges.packages import HERE
from tests.system.running_system import RunningSystem
from tests.torture.processes import environment

RUNS = [
    ("none", 4, ""),
    ("anonymous", 4, ""),
    ("session", 8, ""),
    ("producer", 8, ""),
    ("admin", 20, ""),
    ("monitoring", 2, ""),
    ("limited producer", 4, "^/api/(events|admin/lanes)"),
    ("limited admin", 4, "^/(api/(events|admin)|health)"),
    ("session", 60, "^/api/push"),
    ("producer", 60, "^/api/events"),
]
"""A kind of key, how many examples of each operation are drawn beside those that cover the schema, and which paths,
where not all. Most examples are of what the key opens: the rest answers 401 or 403 whatever is sent."""
TIMEOUT_S = 110
LIMITS = {
    "server": {"trusted_proxies": []},
    "limits": {"user_per_minute": 30, "key_per_s": 1, "address_per_s": 2, "wrong_secrets_per_minute": 60},
}
Keys = tuple[RunningSystem, dict[str, str]]
_PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """A running system, and a key of every kind."""
    with started(RunningSystem(tmp_path_factory.mktemp("schema"))) as keys:
        yield keys


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """The same, where a few requests a second are too many."""
    with started(RunningSystem(tmp_path_factory.mktemp("limited"), LIMITS)) as keys:
        yield keys


@contextmanager
def started(system: RunningSystem) -> Iterator[Keys]:
    async def start() -> dict[str, str]:
        await system.open(users=1)
        user = await system.user()
        return {"none": "", "session": user.session, "producer": system.secret}

    def created(*command: str) -> str:
        done = system.server.run_cli(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    try:
        keys = asyncio.run(start())
        keys |= {
            "anonymous": created("session", "create", "--anonymous"),
            "admin": created("key", "create", "admin"),
            "monitoring": created("key", "create", "monitoring"),
            "limited producer": created("key", "create", "producer", "--events", "fax_new", "--rate", "5/s"),
            "limited admin": created("key", "create", "admin", "--area", "devices,deliveries", "--read-only"),
        }
        yield system, keys
    finally:
        system.close()


@pytest.mark.parametrize(("kind", "examples", "paths"), RUNS)
def test_every_answer_is_as_the_schema_says(kind: str, examples: int, paths: str, keys: Keys, tmp_path: Path) -> None:
    judge(keys[0], keys[1][kind], examples, paths, tmp_path)


@pytest.mark.parametrize(
    ("kind", "paths"),
    [("none", ""), ("session", "^/api/push"), ("producer", "^/api/events"), ("admin", "^/api/admin")],
)
def test_every_answer_is_as_the_schema_says_also_where_limits_are_reached(
    kind: str, paths: str, limited: Keys, tmp_path: Path
) -> None:
    # These take nothing but 401 and 403 for an answer without a key, and an address over its limit gets 429.
    without = "missing_required_header,ignored_auth"
    judge(limited[0], limited[1][kind], 4, paths, tmp_path, "--exclude-checks", without)


def published_schema(url: str) -> str:
    """The schema, as soon as this address may ask again."""
    give_up = time.monotonic() + _PATIENCE_S
    while (answer := httpx.get(f"{url}/schema/openapi.json", timeout=10)).status_code == 429:
        assert time.monotonic() < give_up, "the limit of this address does not end"
        time.sleep(int(answer.headers["Retry-After"]))
    answer.raise_for_status()
    return answer.text


def judge(system: RunningSystem, secret: str, examples: int, paths: str, tmp_path: Path, *more: str) -> None:
    """Run schemathesis over the schema, or over some paths of it."""
    url = f"http://127.0.0.1:{system.server.port}"
    # From a file: schemathesis gives up where the address is over its limit from the run before.
    schema = tmp_path / "openapi.json"
    schema.write_text(published_schema(url))
    bounds = ["--max-examples", str(examples), "--seed", "1", "--continue-on-failure", "--warnings", "off"]
    key = ["--header", f"Authorization: Bearer {secret}"] if secret else []
    only = ["--include-path-regex", paths] if paths else []
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "--no-color"),
            *("--config-file", str(HERE / "schemathesis.toml"), "run", str(schema), "--url", url),
            *(*bounds, *only, *key, *more),
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, _short(done.stdout + done.stderr)
    counts = re.search(r"Selected: (\d+)/(\d+)\n\s*Tested: (\d+)\n", done.stdout)
    assert counts is not None, _short(done.stdout)
    selected, total, tested = map(int, counts.groups())
    assert tested == selected > 0
    # Only the stream is left out (schemathesis.toml).
    assert paths or selected == total - 1
    assert asyncio.run(system.get("/health/live")).status == 200


def _short(output: str) -> str:
    """It repeats whole bodies, of megabytes."""
    return "\n".join(line[:500] for line in output.splitlines())
