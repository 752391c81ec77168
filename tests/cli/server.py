"""A server as a process, for commands that ask one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.torture.processes import free_ports

from tocsin.cli.demo.children import Child, running
from tocsin.cli.opening import in_store
from tocsin.settings import load
from tocsin.store.ports import Store
from tocsin.store.records import Role

_CONFIGURATION = "[server]\nport = {port}\nprivate_host = '127.0.0.1:{private}'\n[store]\npath = '{path}'\n"


class Server:
    """A server, with the files of its configuration and its keys; it runs while `serving`."""

    def __init__(self, directory: Path) -> None:
        port = free_ports(2)
        self.url = f"http://127.0.0.1:{port}"
        self.private_url = f"http://127.0.0.1:{port + 1}"
        self.config = directory / "tocsin.toml"
        self.config.write_text(_CONFIGURATION.format(port=port, private=port + 1, path=directory / "tocsin.db"))
        self.admin_key, self.producer_key = directory / "admin.key", directory / "producer.key"

        async def keys(store: Store) -> None:
            for role, file in ((Role.ADMIN, self.admin_key), (Role.PRODUCER, self.producer_key)):
                secret, _ = await store.access.create_key(role, "test", None)
                file.write_text(secret + "\n")

        in_store(load(self.config), keys, create=True)

    @contextmanager
    def serving(self) -> Iterator[Child]:
        """It runs, and answers, in the block."""
        ready = self.config.with_name("ready")
        ready.unlink(missing_ok=True)
        arguments = ["serve", "--config", str(self.config), "--ready-file", str(ready)]
        with running("server", arguments, self.config.with_name("log")) as child:
            child.wait_until(ready.exists)
            yield child
