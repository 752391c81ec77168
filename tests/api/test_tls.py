"""The API over TLS: the certificate, its key's rights, their replacement, and clients that never shake hands."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from contextlib import asynccontextmanager

import httpx
import pytest
from structlog.testing import capture_logs
from tests.api.raw_http import serving

from tocsin.api import tls_listener
from tocsin.api.tls import ServerTls, TlsError
from tocsin.emulator.credentials import write_credentials

pytestmark = pytest.mark.slow

WITHIN_S = 10


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files of two authorities, each with a server's certificate."""
    return [write_credentials(tmp_path_factory.mktemp("tls") / name) for name in ("first", "second")]


@pytest.fixture
def files(tmp_path, made):
    """A certificate and its key, as an operator has them: in files that are replaced when they are renewed."""
    place(tmp_path, made[0])
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def place(directory, issued, *, only=("cert.pem", "key.pem")):
    """Put the certificate and the key of one authority in place, as renewal does: whole, under their old names."""
    blocks = issued.server.read_text().split("-----BEGIN ")
    contents = {"cert.pem": [block for block in blocks if block.startswith("CERTIFICATE")]}
    contents["key.pem"] = [block for block in blocks if "PRIVATE KEY" in block.split("\n")[0]]
    for name in only:
        partial = directory / f"{name}.new"
        partial.write_text("".join("-----BEGIN " + block for block in contents[name]))
        partial.chmod(0o600)
        partial.rename(directory / name)


@asynccontextmanager
async def client_of(port, ca):
    context = ssl.create_default_context(cafile=str(ca))
    async with httpx.AsyncClient(verify=context, base_url=f"https://localhost:{port}", trust_env=False) as client:
        yield client


async def live(port, ca):
    async with client_of(port, ca) as client:
        return (await client.get("/health/live")).status_code


async def test_the_api_speaks_tls_when_it_is_given_a_certificate(api, files, made):
    async with serving(api.app, ServerTls(*files)) as (port, _), client_of(port, made[0].ca) as client:
        answer = await client.get("/api/push", headers={"authorization": f"Bearer {api.sid}"})
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        # A request that comes with the end of the handshake, and a second one on the same connection.
        assert [(await client.get("/health/live")).status_code for _ in range(3)] == [200] * 3
        large = await client.post("/api/events", content=b"x" * 3_000_000, headers={"authorization": "Bearer x"})
        assert large.status_code == 401


async def test_a_refusal_of_the_server_itself_arrives_over_tls(api, files, made):
    context = ssl.create_default_context(cafile=str(made[0].ca))
    async with serving(api.app, ServerTls(*files)) as (port, server):
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        writer.write(b"nonsense\r\n\r\n")
        async with asyncio.timeout(WITHIN_S):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
            while len(server.shared.connections):
                await asyncio.sleep(0.02)
        writer.transport.abort()


async def test_a_new_certificate_is_used_without_a_restart_and_open_connections_go_on(api, files, made, tmp_path):
    tls = ServerTls(*files)
    async with serving(api.app, tls) as (port, _), client_of(port, made[0].ca) as client:
        assert (await client.get("/health/live")).status_code == 200
        place(tmp_path, made[1])
        await tls.refresh()
        assert await live(port, made[1].ca) == 200
        with pytest.raises(httpx.ConnectError):
            await live(port, made[0].ca)
        assert (await client.get("/health/live")).status_code == 200


async def test_while_only_one_of_both_files_is_replaced_the_old_certificate_stays_in_use(api, files, made, tmp_path):
    tls = ServerTls(*files)
    async with serving(api.app, tls) as (port, _):
        place(tmp_path, made[1], only=["cert.pem"])
        with capture_logs() as lines:
            await tls.refresh()
            await tls.refresh()
        assert [line["log_level"] for line in lines] == ["error"]
        assert await live(port, made[0].ca) == 200
        place(tmp_path, made[1], only=["key.pem"])
        await tls.refresh()
        assert await live(port, made[1].ca) == 200


async def test_a_certificate_that_is_gone_leaves_the_old_one_in_use(api, files, made):
    tls = ServerTls(*files)
    async with serving(api.app, tls) as (port, _):
        for file in files:
            file.unlink()
        await tls.refresh()
        assert await live(port, made[0].ca) == 200


def encrypted(key):
    from cryptography.hazmat.primitives import serialization as s

    loaded = s.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(loaded.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"hunter2")))


UNUSABLE = {
    "a key that others can read": (lambda cert, key: key.chmod(0o644), "mode 0644.*chmod 600"),
    "a key that the group can change": (lambda cert, key: key.chmod(0o660), "mode 0660"),
    "no key": (lambda cert, key: key.unlink(), "tls_key .*No such file"),
    "no certificate": (lambda cert, key: cert.unlink(), "tls_certificate .*No such file"),
    "a directory": (lambda cert, key: (cert.unlink(), cert.mkdir()), "tls_certificate .*(Is a directory|not a file)"),
    "nonsense": (lambda cert, key: cert.write_text("nonsense"), "name a certificate and its private key"),
    "a key of another certificate": (lambda cert, key: key.write_bytes(b""), "name a certificate and its private key"),
    "an encrypted key": (lambda cert, key: encrypted(key), "is encrypted; store it without a password"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_files_that_cannot_be_used_are_refused_with_the_setting_and_the_reason(files, what):
    spoil, said = UNUSABLE[what]
    spoil(*files)
    with pytest.raises(TlsError, match=said) as refused:
        ServerTls(*files)
    assert str(refused.value).startswith("server.tls_")
    assert "hunter2" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_of_tls_are_refused(api, files, made):
    old = ssl.create_default_context(cafile=str(made[0].ca))
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with serving(api.app, ServerTls(*files)) as (port, _):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("localhost", port, ssl=old)


async def test_clients_that_never_shake_hands_are_counted_and_give_way(api, files, made):
    tls = ServerTls(*files)
    async with serving(api.app, tls, max_connections=4) as (port, server):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        await asyncio.sleep(1.2)
        assert len(server.shared.connections) == 4
        assert await live(port, made[0].ca) == 200
        for _, writer in silent:
            writer.transport.abort()


async def test_a_handshake_that_takes_too_long_is_ended_and_told_in_the_log(api, files, monkeypatch):
    monkeypatch.setattr(tls_listener, "_HANDSHAKE_S", 0.3)
    with capture_logs() as lines:
        async with serving(api.app, ServerTls(*files)) as (port, server):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"\x16\x03\x01")
            async with asyncio.timeout(WITHIN_S):
                assert await reader.read() == b""
                while len(server.shared.connections):
                    await asyncio.sleep(0.02)
            writer.transport.abort()
    assert [line["reasons"] for line in lines if "reasons" in line] == [{"no TLS handshake": 1}]


async def test_plain_http_is_not_answered_where_tls_is_spoken(api, files):
    async with serving(api.app, ServerTls(*files)) as (port, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: tocsin\r\n\r\n")
        async with asyncio.timeout(WITHIN_S):
            assert not (await reader.read()).startswith(b"HTTP/")
            while len(server.shared.connections):
                await asyncio.sleep(0.02)
        writer.transport.abort()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, a client that others wrote, is not installed")
async def test_openssl_agrees_that_it_is_tls_1_3_and_http_1_1(api, files, made):
    async with serving(api.app, ServerTls(*files)) as (port, _):
        command = ["s_client", "-connect", f"localhost:{port}", "-CAfile", str(made[0].ca), "-alpn", "h2,http/1.1"]
        asked = await asyncio.create_subprocess_exec(
            "openssl", *command, "-brief", stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, said = await asyncio.wait_for(asked.communicate(), WITHIN_S)
    assert b"Verification: OK" in said
    assert b"TLSv1.3" in said
