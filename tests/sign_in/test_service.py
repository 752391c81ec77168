"""`tocsin serve` with a platform's sign-in: a real process that reads the issuer's keys by its own timer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
from tests.sign_in.conftest import AUDIENCE, INTROSPECT, JWKS, OWNER, World, jwk
from tests.support.https_server import Reply
from tests.support.serving import PATIENCE_S, serving

from tocsin.emulator.credentials import Files

SID = "platform-sid-8f2c41d07a"
DEBUG = {"TOCSIN_LOG__LEVEL": "debug"}


def status(url: str, token: str) -> int:
    return httpx.get(f"{url}/api/push", headers={"authorization": f"Bearer {token}"}, timeout=PATIENCE_S).status_code


def test_wrong_keys_and_sessions_are_one_line_of_the_log_without_the_secret(tmp_path: Path) -> None:
    with serving(tmp_path, DEBUG | {"TOCSIN_LOG__FORMAT": "json"}) as url:
        for number in range(20):
            bearer = {"authorization": f"Bearer planted-secret-{number}"}
            assert httpx.get(f"{url}/api/admin/backlog", headers=bearer, timeout=PATIENCE_S).status_code == 401
            assert status(url, f"planted-secret-{number}") == 401
    log = (tmp_path / "log").read_text()
    assert "planted-secret" not in log
    lines = [json.loads(line) for line in log.splitlines() if "wrong keys or sessions" in line]
    # On a slow machine the minute may end in between.
    assert sum(line["count"] for line in lines) == 40
    assert 1 <= len(lines) < 40
    assert all(line["addresses"].keys() == {"127.0.0.1"} for line in lines)


def test_a_server_reads_the_keys_by_itself_and_tells_its_log_no_token(world: World, tmp_path: Path) -> None:
    world.now_s = time.time()
    world.server.say(INTROSPECT, Reply(json.dumps({"active": True, "sub": OWNER}).encode()))
    settings = {
        "ISSUER": world.issuer,
        "AUDIENCES": json.dumps([AUDIENCE]),
        "JWKS_URL": world.server.url(JWKS),
        "JWKS_REFRESH_S": "1",
        "INTROSPECTION_URL": world.server.url(INTROSPECT),
        "INTROSPECTION_CLIENT_ID": "tocsin",
        "INTROSPECTION_CLIENT_SECRET": "s3cret-of-tocsin",
        "CACHE_S": "0",
        "REFUSED_CACHE_S": "0",
        "CA_FILE": str(Files(tmp_path / "tls").ca),
    }
    good, later = world.token(), world.token("rsa-2")
    with serving(tmp_path, DEBUG | {f"TOCSIN_SESSIONS__{name}": value for name, value in settings.items()}) as url:
        deadline = time.monotonic() + PATIENCE_S
        while world.times_asked(JWKS) < 2:
            assert time.monotonic() < deadline, "nobody has asked for anything, and the keys are read"
            time.sleep(0.05)
        assert [status(url, good), status(url, SID), status(url, later)] == [200, 200, 401]
        world.publish(jwk("rsa-2"))
        while status(url, good) != 401:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert status(url, later) == 200
        world.server.stop()
        assert [status(url, later), status(url, SID)] == [200, 503]
    log = (tmp_path / "log").read_text()
    for secret in (good, later, good.split(".")[2], SID, "s3cret-of-tocsin"):
        assert secret not in log


def test_a_server_whose_secret_is_readable_by_everybody_does_not_start(tmp_path: Path) -> None:
    secret = tmp_path / "client-secret"
    secret.write_text("s3cret")
    secret.chmod(0o644)
    ended = subprocess.run(
        [sys.executable, "-m", "tocsin", "serve"],
        cwd=tmp_path,
        env=os.environ
        | {
            "TOCSIN_SERVER__PORT": "0",
            "TOCSIN_SESSIONS__INTROSPECTION_URL": "https://localhost:1/introspect",
            "TOCSIN_SESSIONS__INTROSPECTION_CLIENT_ID": "tocsin",
            "TOCSIN_SESSIONS__INTROSPECTION_CLIENT_SECRET_FILE": str(secret),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(
        f"tocsin: sessions.introspection_client_secret_file {secret}: others may read or change it (mode 0644); run"
    )
