"""The command itself: in which order things are looked at, and what is left out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from tocsin.cli.commands import AsJson, Config
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.opening import in_store, settings_of
from tocsin.settings import Settings
from tocsin.store.ports import Store

if TYPE_CHECKING:
    from tocsin.cli.doctor.findings import Report


def doctor(
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask nobody over the network, but the store's own server.")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Look at everything that tocsin needs, and say what to do about what is wrong; status 1 where there is a problem.

    Settings, store, master key, file rights, disk, clock, providers, credentials, certificates, sign-in and sources of
    events. It changes nothing, and no device gets a push. A server may be running.
    """
    # Only here: the providers and certificates take long to import.
    from tocsin.cli.doctor import configuration as settings_found
    from tocsin.cli.doctor import machine, store
    from tocsin.cli.doctor.findings import Report, problem

    report = Report(as_json=as_json)
    try:
        settings = settings_of(config)
    except InputError as error:
        report.add([problem("settings", one) for one in str(error).splitlines()])
        report.end()
        raise typer.Exit(1) from None
    report.add(settings_found.configuration(settings_found.file_of(config), settings))
    report.add(settings_found.extras(settings))
    report.add(settings_found.certificates(settings))
    report.add(machine.machine(settings))
    wrong = store.wrong_with(settings)
    report.add(store.store(settings, wrong))
    _look_inside(settings, report, sound=wrong == [], offline=offline)
    if not report.end():
        raise typer.Exit(1)


def _look_inside(settings: Settings, report: Report, *, sound: bool, offline: bool) -> None:
    """What needs the store open, and the network. A store that is not `sound` is left alone."""
    from tocsin.cli.doctor import network
    from tocsin.cli.doctor.findings import problem
    from tocsin.cli.doctor.store import audit_log

    async def look(store: Store | None) -> None:
        if store is not None:
            report.add(await audit_log(store))
        report.add(await network.providers(settings, store, offline=offline))
        if store is not None:
            report.add(await network.sign_in(settings, store, offline=offline))
        if not offline:
            report.add(await network.source(settings))

    if not sound:
        asyncio.run(look(None))
        return
    try:
        in_store(settings, look)
    except CommandError as error:
        report.add([problem("store", str(error))])
