"""Sets the stage: an emulator, a configuration, keys and sessions, a server, and everyone's phones registered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from tocsin.cli.demo.calls import call
from tocsin.cli.demo.cast import APPLICATION_ID, PEOPLE, Person
from tocsin.cli.demo.children import Child, running
from tocsin.cli.inputs import now_ms
from tocsin.cli.opening import in_store
from tocsin.domain.devices import ApplicationId
from tocsin.domain.events import UserId
from tocsin.settings import ENV_PREFIX, load
from tocsin.store.ports import Application, FcmProject, Role

if TYPE_CHECKING:
    from tocsin.store.opening import Store

_LIFE_OF_SECRETS_MS = 24 * 3600 * 1000


class Secrets(Struct, frozen=True):
    """What the demo calls the API with; `sids` by user."""

    producer_key: str
    admin_key: str
    sids: dict[str, str]


class Stage(Struct, frozen=True):
    """Everything up and running, and how to reach it."""

    url: str
    emulator: dict[str, Any]
    config: Path
    secrets: Secrets
    children: tuple[Child, Child]

    def check(self) -> None:
        for child in self.children:
            child.check()

    def register(self, person: Person) -> None:
        """The apps on this person's phones sign in and register."""
        for phone in person.phones:
            call("POST", f"{self.url}/api/push", phone.registration(), bearer=self.secrets.sids[person.id])

    def hand_in(self, event: dict[str, Any]) -> str:
        """A backend hands in one event; returns its id."""
        answer = call("POST", f"{self.url}/api/events", event, bearer=self.secrets.producer_key)
        (event_id,) = answer["events"]
        return str(event_id)

    def inbox(self) -> list[dict[str, Any]]:
        """What the emulator has accepted so far, oldest first."""
        found = call("GET", f"{self.emulator['control']}/inbox")
        return list(found["inbox"] if isinstance(found, dict) else found)


@contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """The demo's world in a fresh `directory`, for as long as the block lasts.

    Raises:
        CommandError: something did not start; the message ends with what it logged.
    """
    # Settings in the environment would override the demo's own, and lead it to the operator's store.
    for variable in [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]:
        del os.environ[variable]
    summary, ready, config = directory / "emulator" / "emulator.json", directory / "ready", directory / "tocsin.toml"
    run_emulator = ["tocsin", "emulator", "--directory", str(summary.parent)]
    run_server = ["tocsin", "serve", "--config", str(config), "--ready-file", str(ready)]
    with running("emulator", run_emulator, directory / "emulator.log") as emulator:
        emulator.wait_until(summary.exists)
        facts = msgspec.json.decode(summary.read_bytes())
        config.write_text(configuration(directory, facts))
        application, project = _credentials(facts)
        secrets = in_store(load(config), lambda store: _prepare(store, application, project))
        with running("server", run_server, directory / "server.log") as server:
            server.wait_until(ready.exists)
            yield Stage(ready.read_text().strip(), facts, config, secrets, (emulator, server))


def configuration(directory: Path, emulator: dict[str, Any]) -> str:
    """A tocsin.toml that keeps everything in `directory`, and takes the emulator for Apple and Google."""
    quoted = {
        "store": directory / "tocsin.db",
        "production": emulator["apns"]["production"],
        "sandbox": emulator["apns"]["sandbox"],
        "fcm": emulator["fcm"],
        "ca": emulator["ca"],
    }
    # A JSON string is a TOML string.
    value = {name: msgspec.json.encode(str(text)).decode() for name, text in quoted.items()}
    return f"""# Made by `tocsin demo`: Apple and Google are the emulator on this machine.
[server]
port = 0

[store]
path = {value["store"]}

[apns]
production_url = {value["production"]}
sandbox_url = {value["sandbox"]}
ca_file = {value["ca"]}

[fcm]
url = {value["fcm"]}
ca_file = {value["ca"]}
"""


def _credentials(emulator: dict[str, Any]) -> tuple[Application, FcmProject]:
    """The app with its key, and the Firebase project, from the files that the emulator has written."""
    from tocsin.providers.credentials import read_key, read_service_account

    key = read_key(Path(emulator["apns_key"]).read_bytes())
    account = Path(emulator["service_account"]).read_bytes()
    return (
        Application(ApplicationId(APPLICATION_ID), key, emulator["key_id"], changed_ms=now_ms()),
        FcmProject(read_service_account(account), account.decode(), True, now_ms()),
    )


async def _prepare(store: Store, application: Application, project: FcmProject) -> Secrets:
    """What an operator does once: the app, the project, keys for the backends; and the users' sign-ins."""
    await store.applications.put_application(application)
    await store.applications.put_project(project)
    expires_ms = now_ms() + _LIFE_OF_SECRETS_MS
    producer_key, _ = await store.access.create_key(Role.PRODUCER, "demo", expires_ms)
    admin_key, _ = await store.access.create_key(Role.ADMIN, "demo", expires_ms)
    sids = {person.id: (await store.access.create_session(UserId(person.id), expires_ms))[0] for person in PEOPLE}
    return Secrets(producer_key, admin_key, sids)
