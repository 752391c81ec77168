"""What of a secret is in the file: nothing."""

from __future__ import annotations

from tests.support.sqlite import SqliteStores

from tocsin.domain.events import UserId
from tocsin.store.records import Role

OWNER = UserId("9aed5e94-3803-11e3-8475-0024e8f90cc0")


async def test_no_secret_is_in_the_file(stores: SqliteStores) -> None:
    store = await stores.open()
    secrets = [
        (await store.access.create_session(OWNER, None))[0],
        (await store.access.create_key(Role.ADMIN, "a", None))[0],
    ]
    for secret in secrets:
        await store.access.session(secret)
        await store.access.key(secret)
    await stores.close()
    content = b"".join(file.read_bytes() for file in stores.path.parent.iterdir())
    assert OWNER.encode() in content
    for secret in secrets:
        assert secret.encode() not in content
        assert secret.removeprefix("tocsin_admin_").encode() not in content
