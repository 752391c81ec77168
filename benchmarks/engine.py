"""The HTTP/2 client alone: compared with h2load against nghttpd, and from memory against the emulator."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.environment import Environment, child_variables, fax, owner, token
from tocsin.emulator.credentials import write_credentials
from tocsin.http2.dial import client_tls
from tocsin.http2.messages import Header, Request, unindexed
from tocsin.http2.network import SystemNetwork
from tocsin.http2.pool import Pool, PoolOptions
from tocsin.providers.apns.provider_token import ProviderToken
from tocsin.providers.base import delivery_id

_STREAMS = 500


class Absent(Exception):  # noqa: N818
    """A program that this needs is not installed; the message says which."""


def against_h2load(count: int, rounds: int) -> list[float]:
    """The rate of our client over that of h2load, each with one connection to the same nghttpd, by turns."""
    for program, package in (("h2load", "nghttp2-client"), ("nghttpd", "nghttp2-server")):
        if shutil.which(program) is None:
            raise Absent(f"{program} is absent (Debian: apt-get install {package})")
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        files = write_credentials(home / "peer")
        pem = files.server.read_text()
        at = pem.index("-----BEGIN PRIVATE KEY")
        (home / "key.pem").write_text(pem[at:])
        (home / "certificate.pem").write_text(pem[:at])
        (home / "index.html").write_text("ok")
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        keys = (str(home / "key.pem"), str(home / "certificate.pem"))
        server = subprocess.Popen(["nghttpd", "-a", "127.0.0.1", "-d", directory, "-m", "1000", str(port), *keys])
        try:
            time.sleep(0.5)
            _own(port, files.ca, count)
            shares = []
            for _ in range(rounds):
                theirs = _h2load(port, count)
                shares.append(_own(port, files.ca, count) / theirs)
            return shares
        finally:
            server.terminate()
            server.wait()


def _h2load(port: int, count: int) -> float:
    command = ["h2load", "-n", str(count), "-c", "1", "-m", str(_STREAMS), "-t", "1"]
    ran = subprocess.run(
        [*command, f"https://127.0.0.1:{port}/index.html"], capture_output=True, text=True, timeout=120, check=True
    )
    line = next(line for line in ran.stdout.splitlines() if line.startswith("finished in"))
    return float(line.split(",")[1].split()[0])


def _own(port: int, ca: Path, count: int) -> float:
    head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", b"/index.html")]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_rate(port, ca, [Request(head, b"") for _ in range(count)]))


async def _rate(port: int, ca: Path, requests: list[Request]) -> float:
    finished = asyncio.get_running_loop().create_future()
    left = len(requests)

    def done(answered: list[Request]) -> None:
        nonlocal left
        if wrong := next((request for request in answered if request.status != 200), None):
            finished.set_exception(RuntimeError(f"{wrong.status} {wrong.failure}"))
        left -= len(answered)
        if left <= 0 and not finished.done():
            finished.set_result(None)

    tls = client_tls(ca)
    options = PoolOptions(max_connections=1, max_streams=_STREAMS)
    pool = Pool(f"https://localhost:{port}", lambda: tls, done, options, network=SystemNetwork())
    started = time.perf_counter()
    pool.send(requests)
    await finished
    took = time.perf_counter() - started
    await pool.close()
    return len(requests) / took


def emulator_alone(environment: Environment, count: int) -> tuple[float, float]:
    """Prepared pushes from memory, sent by our client in another process: pushes a second, and the emulator's CPU for
    one (microseconds). No server can send more on this machine."""
    before = environment.emulator_process.cpu_s()
    command = [sys.executable, "-m", "benchmarks.engine", json.dumps(environment.emulator), str(count)]
    ran = subprocess.run(command, env=child_variables(), capture_output=True, text=True, timeout=120, check=True)
    return float(ran.stdout), (environment.emulator_process.cpu_s() - before) / count * 1e6


def _push_from_memory(emulator: dict[str, Any], count: int) -> None:
    provider_token = ProviderToken(
        Path(emulator["apns_key"]).read_text(),
        emulator["key_id"],
        emulator["team_id"],
        wall_clock=time.time,
        monotonic=time.monotonic,
    )
    port = int(emulator["apns"]["production"].rsplit(":", 1)[1])
    body = fax(owner(0))[:-1] + b',"aps":{"content-available":1}}'
    shared: list[Header] = [
        (b"authorization", provider_token.header()),
        (b"apns-topic", b"de.cospace.app"),
        (b"apns-push-type", b"background"),
        (b"apns-priority", b"5"),
        (b"apns-expiration", b"%d" % (time.time() + 3600)),
    ]
    requests = []
    for number in range(count):
        name = token(2**64 + number)
        head: list[Header] = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"localhost")]
        head += [(b":path", b"/3/device/" + name.encode()), *shared]
        head.append(unindexed((b"apns-id", delivery_id("", name).encode())))
        requests.append(Request(head, body))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(_rate(port, Path(emulator["ca"]), requests)))


if __name__ == "__main__":
    _push_from_memory(json.loads(sys.argv[1]), int(sys.argv[2]))
