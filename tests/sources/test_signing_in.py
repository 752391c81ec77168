"""TLS, and every way to sign in; what does not work is told in a sentence, without a secret, until it does."""

from __future__ import annotations

import base64
import json
import os
import ssl
from pathlib import Path
from typing import Any

import nkeys
import pytest
from tests.sources.bus import bus_on, encoded, eventually, fax, nats_settings, taking
from tests.support.nats import NatsServer, nats_server

from tocsin.emulator.credentials import Files, write_credentials

pytestmark = pytest.mark.slow

_PREFIXES = {"O": 14 << 3, "A": 0, "U": 20 << 3}


def nkey(kind: str) -> tuple[bytes, str]:
    """The seed of a new NKey of an operator, account or user, and its public key."""
    seed = nkeys.encode_seed(os.urandom(32), _PREFIXES[kind])
    return seed, nkeys.from_seed(seed).public_key.decode()


def jwt(claims: dict[str, Any], seed: bytes) -> str:
    """As NATS signs them (`ed25519-nkey`)."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    signer = nkeys.from_seed(seed)
    claims = {"jti": "x", "iat": 0, "iss": signer.public_key.decode()} | claims
    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    text = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}"
    return f"{text}.{part(signer.sign(text.encode()))}"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_credentials(tmp_path_factory.mktemp("tls"))


def tls_block(files: Files, *, verify: bool = False) -> str:
    own = f'cert_file: "{files.server}", key_file: "{files.server}"'
    return f'tls {{ {own}, ca_file: "{files.ca}", verify: {str(verify).lower()} }}'


async def one_event_arrives(server: NatsServer, directory: Path, backend: dict[str, Any], **settings: Any) -> None:
    """From a backend that signs in by its own options, through a source that does by these settings."""
    async with bus_on(server, client=backend) as bus, taking(directory, nats_settings(server, **settings)) as taken:
        await bus.publish(encoded(fax(1)))
        await taken.has(1)
        await eventually(lambda: taken.source.problems() == [])


async def test_with_tls_the_servers_certificate_is_verified(tmp_path: Path, tls: Files) -> None:
    context = ssl.create_default_context(cafile=tls.ca)
    async with nats_server(tmp_path / "nats", extra=tls_block(tls), scheme="tls") as server:
        await one_event_arrives(server, tmp_path, {"tls": context}, ca_file=tls.ca)
        async with taking(tmp_path / "other", nats_settings(server)) as taken:
            await eventually(lambda: any("certificate verify failed" in one for one in taken.source.problems()))


async def test_our_own_certificate_is_shown_to_servers_that_ask_for_one(tmp_path: Path, tls: Files) -> None:
    context = ssl.create_default_context(cafile=tls.ca)
    context.load_cert_chain(tls.certificate)
    async with nats_server(tmp_path / "nats", extra=tls_block(tls, verify=True), scheme="tls") as server:
        own = {"certificate_file": tls.certificate, "private_key_file": tls.certificate_key}
        await one_event_arrives(server, tmp_path, {"tls": context}, ca_file=tls.ca, **own)
        async with taking(tmp_path / "other", nats_settings(server, ca_file=tls.ca)) as taken:
            await eventually(lambda: taken.source.problems())


async def test_a_password_is_read_from_its_file_and_read_again_when_it_was_corrected(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("wrong-secret\n")
    extra = "authorization { users = [ { user: tocsin, password: right-secret } ] }"
    own = {"user": "tocsin", "password_file": password}
    async with (
        nats_server(tmp_path / "nats", extra=extra) as server,
        bus_on(server, client={"user": "tocsin", "password": "right-secret"}) as bus,
        taking(tmp_path, nats_settings(server, **own)) as taken,
    ):
        await bus.publish(encoded(fax(1)))
        await eventually(lambda: any("Authorization Violation" in one for one in taken.source.problems()))
        assert not any("secret" in one for one in taken.source.problems())
        password.write_text("right-secret\n")
        await taken.has(1)
        await eventually(lambda: taken.source.problems() == [])


async def test_an_nkey_signs_in(tmp_path: Path) -> None:
    seed, public = nkey("U")
    file = tmp_path / "user.nk"
    file.write_bytes(seed)
    extra = f"authorization {{ users = [ {{ nkey: {public} }} ] }}"
    async with nats_server(tmp_path / "nats", extra=extra) as server:
        await one_event_arrives(server, tmp_path, {"nkeys_seed": str(file)}, nkey_file=file)


async def test_a_credentials_file_signs_in(tmp_path: Path) -> None:
    operator, operator_id = nkey("O")
    account, account_id = nkey("A")
    user, user_id = nkey("U")
    _system, system_id = nkey("A")
    limits = {"subs": -1, "data": -1, "payload": -1}
    account_limits = limits | {"imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}

    def account_jwt(id: str, more: dict[str, Any]) -> str:
        nats = {"limits": account_limits | more, "type": "account", "version": 2}
        return jwt({"name": id, "sub": id, "nats": nats}, operator)

    operator_jwt = jwt(
        {"name": "o", "sub": operator_id, "nats": {"type": "operator", "version": 2, "system_account": system_id}},
        operator,
    )
    user_jwt = jwt({"name": "u", "sub": user_id, "nats": limits | {"type": "user", "version": 2}}, account)
    extra = (
        f"operator: {operator_jwt}\nsystem_account: {system_id}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account_id}: {account_jwt(account_id, storage)}\n"
        f" {system_id}: {account_jwt(system_id, {})} }}"
    )
    file = tmp_path / "user.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.decode()}\n------END USER NKEY SEED------\n"
    )
    async with nats_server(tmp_path / "nats", extra=extra) as server:
        await one_event_arrives(server, tmp_path, {"user_credentials": str(file)}, credentials_file=file)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"user": "a", "password_file": "missing"}, "sources.nats.password_file missing: No such file"),
        ({"nkey_file": "missing"}, "sources.nats.nkey_file missing: No such file"),
        ({"credentials_file": "missing"}, "sources.nats.credentials_file missing: No such file"),
        ({"nkey_file": "/dev/null"}, "must have 1 to"),
        ({"nkey_file": __file__}, "sources.nats.nkey_file"),
        ({"ca_file": "missing"}, "the files for TLS cannot be used"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named(
    server: NatsServer, tmp_path: Path, more: dict[str, Any], told: str
) -> None:
    async with taking(tmp_path, nats_settings(server, **more)) as taken:
        await eventually(lambda: any(told in one for one in taken.source.problems()), told=taken.source.problems)


async def test_a_server_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    async with taking(tmp_path, nats_settings(server)) as taken:
        await eventually(lambda: any("not connected" in one for one in taken.source.problems()))
        assert taken.metric("tocsin_source_connected", source="nats") == 0
        try:
            await server.start()
            async with bus_on(server) as bus:
                await bus.publish(encoded(fax(1)))
                await taken.has(1)
                await eventually(lambda: taken.source.problems() == [])
                assert taken.metric("tocsin_source_connected", source="nats") == 1
        finally:
            server.stop()
