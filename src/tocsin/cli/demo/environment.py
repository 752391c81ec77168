"""What the demo runs: an emulator, a server and the console, with a configuration, credentials, keys and sessions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.cli.console import is_installed as console_is_installed
from tocsin.cli.demo.calls import call
from tocsin.cli.demo.children import Child, running
from tocsin.cli.demo.users import APPLICATION_ID, USERS, User
from tocsin.cli.opening import in_store
from tocsin.domain.credentials import Credential
from tocsin.domain.events import UserId
from tocsin.settings import ENV_PREFIX, load
from tocsin.store.ports import Store
from tocsin.store.records import Role

CONFIG: Final = "tocsin.toml"
_SECRETS_LIFETIME_MS: Final = 24 * 3600 * 1000


class Secrets(Struct, frozen=True):
    """What the demo calls the API with; `sids` by user id."""

    producer_key: str
    admin_key: str
    sids: dict[str, str]


class Environment(Struct, frozen=True):
    """The emulator, the server and the console while they run, and how to reach them."""

    url: str
    console_url: str | None
    """None where what the console needs is not installed."""
    emulator: dict[str, Any]
    directory: Path
    secrets: Secrets
    children: tuple[Child, ...]

    @property
    def config(self) -> Path:
        return self.directory / CONFIG

    def check(self) -> None:
        """Raise CommandError when one of them has ended."""
        for child in self.children:
            child.check()

    def register(self, user: User) -> None:
        """Register the user's phones, as their apps do."""
        for phone in user.phones:
            call("POST", f"{self.url}/api/push", phone.registration(), bearer=self.secrets.sids[user.id])

    def send(self, event: dict[str, Any]) -> str:
        """Send one event to the API, as a backend does; returns its id."""
        answer = call("POST", f"{self.url}/api/events", event, bearer=self.secrets.producer_key)
        (event_id,) = answer["events"]
        return str(event_id)

    def inbox(self) -> list[dict[str, Any]]:
        """The pushes that the emulator has accepted so far, oldest first."""
        found = call("GET", f"{self.emulator['control']}/inbox")
        return list(found["inbox"] if isinstance(found, dict) else found)


@contextmanager
def running_environment(directory: Path) -> Iterator[Environment]:
    """Run an emulator, a server and the console in an empty `directory` until the block ends.

    Raises:
        CommandError: something did not start; the message ends with what it logged.
    """
    # Settings in the environment would override the demo's own, and make it use the operator's store.
    for variable in [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]:
        del os.environ[variable]
    summary, ready, config = directory / "emulator" / "emulator.json", directory / "ready", directory / CONFIG
    run_emulator = ["emulator", "--directory", str(summary.parent)]
    run_server = ["serve", "--config", str(config), "--ready-file", str(ready)]
    with running("emulator", run_emulator, directory / "emulator.log") as emulator:
        emulator.wait_until(summary.exists)
        described = msgspec.json.decode(summary.read_bytes())
        config.write_text(configuration(directory, described))
        # Of a master key nobody needs to hear: the store is thrown away at the end.
        secrets = in_store(
            load(config),
            lambda store: _prepare(store, described),
            create=True,
            in_steps=True,
            say=lambda _: None,
        )
        with running("server", run_server, directory / "server.log") as server:
            server.wait_until(ready.exists)
            url = ready.read_text().strip()
            with _console(directory, url, described["control"]) as (console_url, console):
                children = (emulator, server, *([console] if console else []))
                yield Environment(url, console_url, described, directory, secrets, children)


@contextmanager
def _console(directory: Path, url: str, emulator_url: str) -> Iterator[tuple[str | None, Child | None]]:
    """Run the console until the block ends: its address, and its process. Without what it needs, nothing is run."""
    if not console_is_installed():
        yield None, None
        return
    ready, phones = directory / "console.ready", directory / "phones.json"
    described = [
        {"user": user.name, "owner": user.id, "name": phone.name, "token": phone.token, "kind": phone.reached_through}
        for user in USERS
        for phone in user.phones
    ]
    phones.write_bytes(msgspec.json.encode(described))
    arguments = ["console", "--port", "0", "--api", url, "--emulator", emulator_url, "--phones", str(phones)]
    arguments += ["--config", str(directory / CONFIG), "--ready-file", str(ready)]
    with running("console", arguments, directory / "console.log") as console:
        console.wait_until(ready.exists)
        yield ready.read_text().strip(), console


def configuration(directory: Path, emulator: dict[str, Any]) -> str:
    """A tocsin.toml with the store in `directory`, and the emulator's addresses for Apple and Google."""
    values = {
        "store": directory / "tocsin.db",
        "production": emulator["apns"]["production"],
        "sandbox": emulator["apns"]["sandbox"],
        "fcm": emulator["fcm"],
        "ca": emulator["ca"],
    }
    # A JSON string is a TOML string.
    quoted = {name: msgspec.json.encode(str(text)).decode() for name, text in values.items()}
    return f"""# Made by `tocsin demo`: Apple and Google are the emulator on this machine.
[server]
port = 0

[store]
path = {quoted["store"]}

[apns]
production_url = {quoted["production"]}
sandbox_url = {quoted["sandbox"]}
ca_file = {quoted["ca"]}

[fcm]
url = {quoted["fcm"]}
ca_file = {quoted["ca"]}
"""


async def _prepare(store: Store, emulator: dict[str, Any]) -> Secrets:
    """Add what an operator adds once (credentials and API keys), and a session for each user."""
    now_ms = store.now_ms()
    for credential in _credentials(emulator, now_ms):
        await store.credentials.put(credential)
    expires_ms = now_ms + _SECRETS_LIFETIME_MS
    producer_key, _ = await store.access.create_key(Role.PRODUCER, "demo", expires_ms)
    admin_key, _ = await store.access.create_key(Role.ADMIN, "demo", expires_ms)
    sids = {user.id: (await store.access.create_session(UserId(user.id), expires_ms))[0] for user in USERS}
    return Secrets(producer_key, admin_key, sids)


def _credentials(emulator: dict[str, Any], now_ms: int) -> tuple[Credential, Credential]:
    """The app with its key, and the Firebase project, from the files that the emulator has written."""
    from tocsin.providers.apns.credentials import ApnsCredential, read_key
    from tocsin.providers.fcm.credentials import stored

    key = ApnsCredential(key_pem=read_key(Path(emulator["apns_key"]).read_bytes()), key_id=emulator["key_id"])
    account = Path(emulator["service_account"]).read_bytes()
    return (
        key.stored(APPLICATION_ID, now_ms),
        stored(emulator["project_id"], account, default=True, changed_ms=now_ms),
    )
