"""Others, sending the same payload from memory to the same emulator: no registry, no queue, no receipts.

A peer that is absent is None with a reason. Nothing of theirs is kept in the repository: packages come from the
registries, by the machine's own clients, into a temporary folder.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.stage import start_emulator

_INSTALL_S = 180
Measured = tuple[float | None, str]

_NODE = """
const apn = require('@parse/node-apn'), fs = require('fs');
const [host, port, key, keyId, teamId, ca, count] = process.argv.slice(2);
const provider = new apn.Provider({
  token: {key, keyId, teamId}, address: host, port: Number(port), ca: fs.readFileSync(ca), production: true,
  requestTimeout: 60000,
});
async function run(total, offset) {
  const started = process.hrtime.bigint(); let next = 0, sent = 0;
  async function worker() {
    while (next < total) {
      const number = next++;
      const note = new apn.Notification();
      note.topic = 'de.cospace.app'; note.pushType = 'background'; note.priority = 5; note.contentAvailable = 1;
      note.payload = {owner: '00000000-0000-4000-8000-000000000000', message: 'fax_new',
        fax: 'af729cc0-3251-11e2-81c1-0800200c9a66', phone: '+492215587412', page_count: 2};
      const result = await provider.send(note, (offset + number).toString(16).padStart(64, '0'));
      sent += result.sent.length;
    }
  }
  await Promise.all(Array.from({length: 500}, worker));
  if (sent !== total) throw new Error('sent ' + sent + ' of ' + total);
  return total / (Number(process.hrtime.bigint() - started) / 1e9);
}
(async () => {
  await run(500, 1000000);
  console.log(JSON.stringify({rate: await run(Number(count), 0)}));
  provider.shutdown(); process.exit(0);
})().catch(error => { console.error(error); process.exit(1); });
"""


def aioapns(count: int) -> Measured:
    """`aioapns`, 500 at a time over its pool's one connection."""
    with tempfile.TemporaryDirectory() as directory:
        summary, emulator = start_emulator(Path(directory) / "emulator")
        try:
            return asyncio.run(_aioapns(summary, count)), ""
        finally:
            emulator.child.terminate()
            emulator.child.wait()


async def _aioapns(summary: dict[str, object], count: int) -> float:
    from aioapns import APNs, NotificationRequest, PushType
    from aioapns.connection import APNsProductionClientProtocol

    urls = summary["apns"]
    assert isinstance(urls, dict)
    port = int(urls["production"].rsplit(":", 1)[1])
    client = APNs(
        key=Path(str(summary["apns_key"])).read_text(),
        key_id=str(summary["key_id"]),
        team_id=str(summary["team_id"]),
        topic="de.cospace.app",
        max_connections=1,
        ssl_context=ssl.create_default_context(cafile=str(summary["ca"])),
    )

    class Protocol(APNsProductionClientProtocol):  # type: ignore[misc]
        APNS_SERVER = "localhost"
        APNS_PORT = port

    client.pool.protocol_class = Protocol
    payload = {"aps": {"content-available": 1}, "message": "fax_new", "page_count": 2, "phone": "+492215587412"}
    payload |= {"owner": "00000000-0000-4000-8000-000000000000", "fax": "af729cc0-3251-11e2-81c1-0800200c9a66"}
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            request = NotificationRequest(
                device_token=f"{number:064x}", message=payload, push_type=PushType.BACKGROUND, priority=5
            )
            response = await client.send_notification(request)
            assert response.is_successful, response.description

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(500)))
    return count / (time.perf_counter() - started)


def node_apn(count: int) -> Measured:
    """`@parse/node-apn`, 500 at a time."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return None, "node or npm is absent"
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "package.json").write_text('{"name": "peer", "private": true}')
        (home / "peer.js").write_text(_NODE)
        try:
            subprocess.run(
                ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent", "@parse/node-apn"],
                cwd=home, check=True, capture_output=True, timeout=_INSTALL_S,
            )  # fmt: skip
        except (subprocess.SubprocessError, OSError) as error:
            return None, f"@parse/node-apn could not be installed: {type(error).__name__}"
        summary, emulator = start_emulator(home / "emulator")
        try:
            urls = summary["apns"]
            arguments = ["localhost", urls["production"].rsplit(":", 1)[1], summary["apns_key"], summary["key_id"]]
            arguments += [summary["team_id"], summary["ca"], str(count)]
            ran = subprocess.run(
                ["node", "peer.js", *arguments], cwd=home, capture_output=True, text=True, timeout=120, check=False
            )
        except subprocess.TimeoutExpired:
            return None, "it did not finish within two minutes"
        finally:
            emulator.child.terminate()
            emulator.child.wait()
        if ran.returncode != 0:
            return None, f"it failed: {ran.stderr.strip().splitlines()[-1:] or ran.returncode}"
        return float(json.loads(ran.stdout.splitlines()[-1])["rate"]), ""


def gorush(count: int) -> Measured:
    """gorush reaches Apple's own addresses only: they are constants of the library that it stands on."""
    if shutil.which("go") is None:
        return None, "Go is absent"
    return None, (
        "gorush takes Apple's hosts from constants of its APNs library, so that an unmodified build cannot be pointed"
        " at an emulator"
    )


def h2load(port: int, count: int) -> Measured:
    """h2load against a server, one connection and 500 streams: what the same requests cost a compiled client."""
    if shutil.which("h2load") is None:
        return None, "h2load is absent (Debian: apt-get install nghttp2-client)"
    rates = []
    for _ in range(3):
        ran = subprocess.run(
            ["h2load", "-n", str(count), "-c", "1", "-m", "500", "-t", "1", f"https://127.0.0.1:{port}/index.html"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        line = next((line for line in ran.stdout.splitlines() if line.startswith("finished in")), "")
        if not line:
            return None, "h2load did not finish"
        rates.append(float(line.split(",")[1].split()[0]))
    return statistics.median(rates), ""


def engine(count: int) -> tuple[list[float] | None, str]:
    """Our pool with one connection against nghttpd, over h2load against the same: the share of its rate."""
    if shutil.which("nghttpd") is None:
        return None, "nghttpd is absent (Debian: apt-get install nghttp2-server)"
    from tocsin.emulator.credentials import write_credentials

    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        files = write_credentials(home / "peer")
        pem = files.server.read_text()
        at = pem.index("-----BEGIN PRIVATE KEY")
        (home / "key.pem").write_text(pem[at:])
        (home / "certificate.pem").write_text(pem[:at])
        (home / "index.html").write_text("ok")
        port = _free_port()
        keys = (str(home / "key.pem"), str(home / "certificate.pem"))
        server = subprocess.Popen(
            ["nghttpd", "-a", "127.0.0.1", "-d", directory, "-m", "1000", str(port), *keys]
        )  # fmt: skip
        try:
            time.sleep(0.5)
            shares = []
            for _ in range(3):
                theirs, reason = h2load(port, count)
                if theirs is None:
                    return None, reason
                import uvloop

                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    ours = runner.run(_pool_rate(port, files.ca, count))
                shares.append(ours / theirs)
            return shares, ""
        finally:
            server.terminate()
            server.wait()


async def _pool_rate(port: int, ca: Path, count: int) -> float:
    from tocsin.http2.dial import client_tls
    from tocsin.http2.messages import Request
    from tocsin.http2.pool import Pool, PoolOptions

    finished = asyncio.get_running_loop().create_future()
    left = count

    def done(requests: list[Request]) -> None:
        nonlocal left
        assert requests[0].status == 200, requests[0].failure
        left -= len(requests)
        if left <= 0 and not finished.done():
            finished.set_result(None)

    tls = client_tls(ca)
    pool = Pool(f"https://localhost:{port}", lambda: tls, done, PoolOptions(max_connections=1, max_streams=500))
    head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", pool.authority), (b":path", b"/index.html")]
    requests = [Request(head, b"") for _ in range(count)]
    started = time.perf_counter()
    pool.send(requests)
    await finished
    took = time.perf_counter() - started
    await pool.close()
    return count / took


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
