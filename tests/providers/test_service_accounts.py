"""Firebase's service accounts: what is refused when one is stored, and what asking for an access token may meet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tocsin.emulator.credentials import Files, write_credentials
from tocsin.providers.base import CredentialError
from tocsin.providers.fcm.address import PROJECT_ID, PROJECT_NAME
from tocsin.providers.fcm.credentials import ServiceAccount, read_service_account, read_stored, stored
from tocsin.providers.fcm.oauth import HttpOAuthClient, Token, TokenRefused, TokenUnavailable

NOW_S = 1_760_000_000


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


@pytest.fixture(scope="module")
def account() -> dict[str, Any]:
    return {
        "type": "service_account",
        "project_id": "calls",
        "private_key_id": "k1",
        "private_key": pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        "client_email": "push@calls.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }


def test_what_google_hands_out_is_read(account: dict[str, Any]) -> None:
    read = read_service_account(json.dumps(account).encode())
    assert (read.project_id, read.private_key_id, read.path) == ("calls", "k1", "/v1/projects/calls/messages:send")
    del account["private_key_id"]
    assert read_service_account(json.dumps(account).encode()).private_key_id == ""


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("client_email", None, "client_email"),
        ("client_email", "", "client_email"),
        ("private_key", 7, "private_key"),
        ("private_key", "no PEM", "private_key"),
        ("private_key", pem(ec.generate_private_key(ec.SECP256R1())), "private_key"),
        ("token_uri", "ftp://oauth2.googleapis.com", "token_uri"),
        ("token_uri", "http://oauth2.googleapis.com/token", "token_uri"),
        ("token_uri", "https://evil.example/token", "token_uri"),
        ("token_uri", "https://oauth2.googleapis.com.evil.example/token", "token_uri"),
        ("token_uri", "https://oauth2.googleapis.com@evil.example/token", "token_uri"),
        ("token_uri", "https://user@oauth2.googleapis.com/token", "token_uri"),
        ("token_uri", "https://oauth2.googleapis.com:port/token", "token_uri"),
        ("project_id", "", "project_id"),
        ("project_id", ["calls"], "project_id"),
        ("project_id", "calls/../other", "project_id"),
        ("project_id", "calls other", "project_id"),
        ("project_id", "Calls", "project_id"),
        ("project_id", ":calls", "project_id"),
        ("project_id", "example.com:", "project_id"),
        ("project_id", "a.example:b.example:calls", "project_id"),
        ("project_id", "calls\n", "project_id"),
        ("private_key_id", 12, "private_key_id"),
    ],
)
def test_what_is_refused_is_named_and_no_value_is_quoted(
    account: dict[str, Any], field: str, value: object, named: str
) -> None:
    with pytest.raises(CredentialError) as refused:
        read_service_account(json.dumps(account | {field: value}).encode())
    assert named in str(refused.value)
    assert account["private_key"] not in str(refused.value)
    assert "gserviceaccount" not in str(refused.value)


@pytest.mark.parametrize("project", ["calls", "calls-2", "123456789012", "example.com:calls", "a.b-c.example:calls-2"])
def test_every_project_id_of_googles_is_taken_and_may_be_the_projects_name(
    account: dict[str, Any], project: str
) -> None:
    read = read_service_account(json.dumps(account | {"project_id": project}).encode())
    assert read.path == f"/v1/projects/{project}/messages:send"
    assert PROJECT_NAME.fullmatch(project)


def test_the_longest_project_id_may_be_the_projects_name() -> None:
    longest = "d" * 100 + ":" + "p" * 100
    assert PROJECT_ID.fullmatch(longest)
    assert PROJECT_NAME.fullmatch(longest)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b'"text"', b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(content: bytes) -> None:
    with pytest.raises(CredentialError, match="not a service account"):
        read_service_account(content)


class TokenServer:
    """Answers every request with `answer`, byte for byte, over a real connection."""

    def __init__(self) -> None:
        self.answer = b""
        self.requests: list[bytes] = []
        self.uri = ""
        self.ca: Path | None = None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.requests.append(head + await reader.readexactly(length))
        with contextlib.suppress(ConnectionError):
            writer.write(self.answer)
            await writer.drain()
        writer.close()

    def say(self, status: str, body: bytes, *headers: str) -> None:
        head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
        self.answer = "\r\n".join(head).encode() + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_credentials(tmp_path_factory.mktemp("credentials"))


@pytest.fixture
async def server(files: Files) -> AsyncIterator[TokenServer]:
    server = TokenServer()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.server)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    server.uri = f"https://localhost:{listening.sockets[0].getsockname()[1]}/token"
    server.ca = files.ca
    async with listening:
        yield server


async def asked(account: dict[str, Any], uri: str, ca: Path | None) -> Token:
    fields = {name: account[name] for name in ("client_email", "private_key", "project_id")}
    return await HttpOAuthClient(("localhost",), ca).token(ServiceAccount(token_uri=uri, **fields), NOW_S)


async def test_a_token_is_granted_with_its_lifetime(account: dict[str, Any], server: TokenServer) -> None:
    server.say("200 OK", b'{"access_token": "ya29.a", "expires_in": 1800, "token_type": "Bearer"}')
    assert await asked(account, server.uri, server.ca) == Token("ya29.a", 1800)
    assert b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer" in server.requests[0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"access_token": 7}',
        b'{"access_token": ""}',
        b'{"access_token": "a\\r\\nb: c"}',
        b"\xff",
        b'{"access_token": "a", "expires_in": 0}',
        b'{"access_token": "a", "expires_in": -3600}',
    ],
)
async def test_a_200_without_a_usable_token_may_be_asked_again(
    account: dict[str, Any], server: TokenServer, body: bytes
) -> None:
    server.say("200 OK", body)
    with pytest.raises(TokenUnavailable):
        await asked(account, server.uri, server.ca)


async def test_a_lifetime_without_bounds_is_a_day(account: dict[str, Any], server: TokenServer) -> None:
    server.say("200 OK", b'{"access_token": "a", "expires_in": 1' + b"0" * 18 + b"}")
    assert await asked(account, server.uri, server.ca) == Token("a", 86_400)
    server.say("200 OK", b'{"access_token": "a", "expires_in": 1' + b"0" * 400 + b"}")
    with contextlib.suppress(TokenUnavailable):
        assert (await asked(account, server.uri, server.ca)).lifetime_s == 86_400


@pytest.mark.parametrize("project", ["../admin", "a/b", "a b", "a\r\nx: y", "a?b", "a#b", "", "A" * 300])
def test_no_project_id_that_an_older_version_stored_gets_into_a_path(account: dict[str, Any], project: str) -> None:
    content = json.dumps(account | {"project_id": project}).encode()
    kept = read_stored(stored("main", content, default=True, changed_ms=0))
    assert (kept.project_id, kept.path) == ("", "/v1/projects//messages:send")


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "403 Forbidden"])
async def test_only_an_error_that_oauth_names_is_a_refusal(
    account: dict[str, Any], server: TokenServer, status: str
) -> None:
    server.say(status, b'{"error": "invalid_grant", "error_description": "secret words"}')
    with pytest.raises(TokenRefused, match="invalid_grant") as refused:
        await asked(account, server.uri, server.ca)
    assert "secret words" not in str(refused.value)
    server.say(status, b"<html>a proxy's page</html>")
    with pytest.raises(TokenUnavailable):
        await asked(account, server.uri, server.ca)


async def test_a_server_error_may_be_asked_again(account: dict[str, Any], server: TokenServer) -> None:
    server.say("503 Service Unavailable", b'{"error": "internal_failure"}')
    with pytest.raises(TokenUnavailable, match="answered 503 internal_failure"):
        await asked(account, server.uri, server.ca)


async def test_no_redirect_is_followed(account: dict[str, Any], server: TokenServer) -> None:
    server.say("302 Found", b"", f"location: {server.uri}/elsewhere")
    with pytest.raises(TokenUnavailable, match="answered 302"):
        await asked(account, server.uri, server.ca)
    assert len(server.requests) == 1, "the signed assertion goes nowhere else"


async def test_an_answer_larger_than_any_token_is_not_read(account: dict[str, Any], server: TokenServer) -> None:
    server.say("200 OK", b" " * 1_000_000)
    with pytest.raises(TokenUnavailable, match="larger than 65536 bytes"):
        await asked(account, server.uri, server.ca)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 secret-words\r\n\r\n", b"HTTP/1.1 200 OK\r\nsecret-words\r\n\r\n"])
async def test_an_answer_that_is_no_http_is_quoted_nowhere(
    account: dict[str, Any], server: TokenServer, answer: bytes
) -> None:
    server.answer = answer
    with pytest.raises(TokenUnavailable, match="RemoteProtocolError") as unavailable:
        await asked(account, server.uri, server.ca)
    assert "secret-words" not in str(unavailable.value)


async def test_what_cannot_be_reached_may_be_asked_again(account: dict[str, Any]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(TokenUnavailable):
            await asked(account, f"https://localhost:{closed.getsockname()[1]}/token", None)


@pytest.mark.parametrize(
    "uri", ["https://[", "https://", "http://exa mple/", "http://localhost/", "https://127.0.0.1/"]
)
async def test_an_account_that_was_stored_before_names_no_other_endpoint_either(
    account: dict[str, Any], uri: str
) -> None:
    with pytest.raises(TokenRefused, match="token_uri"):
        await asked(account, uri, None)
