"""Applications and projects: few, and known to everyone at once."""

from __future__ import annotations

import asyncio

from tests.contract.support import SqliteStores

from tocsin.domain.devices import ApplicationId
from tocsin.store.opening import Store
from tocsin.store.ports import Application, FcmProject

FIRST = Application(ApplicationId("39JSDKGJ38.de.cospace.app"), key_pem="KEY", key_id="ABC", changed_ms=1)
SECOND = Application(ApplicationId("39JSDKGJ38.de.cospace.other"), certificate_pem="CERTIFICATE", changed_ms=2)


async def test_applications_are_kept_over_a_crash(stores: SqliteStores) -> None:
    store = await stores.open()
    await store.applications.put_application(SECOND)
    await store.applications.put_application(FIRST)
    store = await stores.crash()
    assert await store.applications.applications() == [FIRST, SECOND]


async def test_an_application_put_again_is_replaced_whole(store: Store) -> None:
    await store.applications.put_application(FIRST)
    assert await store.applications.applications() == [FIRST]
    replaced = Application(FIRST.id, certificate_pem="CERTIFICATE", changed_ms=9)
    await store.applications.put_application(replaced)
    assert await store.applications.applications() == [replaced]


async def test_a_removed_application_is_gone(store: Store) -> None:
    await store.applications.put_application(FIRST)
    assert await store.applications.remove_application(FIRST.id) is True
    assert await store.applications.remove_application(FIRST.id) is False
    assert await store.applications.applications() == []


async def defaults(store: Store) -> dict[str, bool]:
    return {project.name: project.default for project in await store.applications.projects()}


async def test_the_first_project_is_the_default_and_there_is_never_more_than_one(store: Store) -> None:
    await store.applications.put_project(FcmProject("main", "{}"))
    await store.applications.put_project(FcmProject("beta", "{}"))
    assert await defaults(store) == {"beta": False, "main": True}
    await store.applications.put_project(FcmProject("beta", "{}", default=True))
    assert await defaults(store) == {"beta": True, "main": False}


async def test_the_only_project_stays_the_default_when_it_is_changed(store: Store) -> None:
    await store.applications.put_project(FcmProject("main", "{}"))
    await store.applications.put_project(FcmProject("main", '{"new": 1}', default=False, changed_ms=3))
    assert await store.applications.projects() == [FcmProject("main", '{"new": 1}', default=True, changed_ms=3)]


async def test_after_the_default_is_removed_the_next_one_put_becomes_it(store: Store) -> None:
    for name in ("main", "beta"):
        await store.applications.put_project(FcmProject(name, "{}"))
    assert await store.applications.remove_project("main") is True
    assert await store.applications.remove_project("main") is False
    assert await defaults(store) == {"beta": False}
    await store.applications.put_project(FcmProject("beta", "{}"))
    assert await defaults(store) == {"beta": True}


async def test_what_another_process_changes_is_seen_once_it_is_noticed(stores: SqliteStores) -> None:
    server = await stores.open()
    assert await server.applications.applications() == []
    assert await server.applications.projects() == []
    other = await stores.open(server=False)
    await other.applications.put_application(FIRST)
    await other.applications.put_project(FcmProject("main", "{}"))
    assert await server.notice_changes()
    assert await server.applications.applications() == [FIRST]
    assert await defaults(server) == {"main": True}


async def test_a_list_read_while_it_changes_is_not_remembered(store: Store) -> None:
    for n in range(50):
        application = Application(FIRST.id, changed_ms=n)
        store.applications.forget()
        await asyncio.gather(store.applications.put_application(application), store.applications.applications())
        assert await store.applications.applications() == [application]
