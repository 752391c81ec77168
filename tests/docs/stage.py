"""What the pages are played on: a directory with servers, in place of the addresses and files that the pages name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from tests.docs.blocks import Command, blocks
from tests.docs.exceptions import FIRST_LINE_ONLY, MAY_FAIL, OUTPUT_NOT_COMPARED
from tests.docs.shapes import real_values
from tests.docs.terminal import Terminal
from tests.torture.processes import free_ports

from tocsin.emulator.credentials import PROJECT_ID, Files, write_service_account

OWNER: Final = "9aed5e94-3803-11e3-8475-0024e8f90cc0"
APPLICATION: Final = "39JSDKGJ38.de.cospace.app"


class Stage:
    """What the pages are played on: a directory, and what stands in place of the names that the pages use."""

    def __init__(self, directory: Path, programs: Path, credentials: Files) -> None:
        self.directory = directory
        self.files = Files(directory / "keys")
        self.base = free_ports(8)
        self.url = f"http://127.0.0.1:{self.base + 6}"
        shutil.copytree(credentials.directory, self.files.directory)
        write_service_account(self.files, f"https://localhost:{self.base + 3}/token")
        self.terminal = Terminal(
            directory,
            programs,
            {
                "TOCSIN_SERVER__PORT": str(self.base + 6),
                "TOCSIN_APNS__PRODUCTION_URL": f"https://localhost:{self.base}",
                "TOCSIN_APNS__SANDBOX_URL": f"https://localhost:{self.base + 1}",
                "TOCSIN_APNS__CA_FILE": str(self.files.ca),
                "TOCSIN_FCM__URL": f"https://localhost:{self.base + 2}",
                "TOCSIN_FCM__CA_FILE": str(self.files.ca),
                "TOCSIN_CONSOLE__PORT": "0",
                "TOCSIN_LOG__FORMAT": "console",
                "NO_COLOR": "1",
            },
        )
        self.replaced = {"--directory ./emulator  ": f"--directory ./emulator --port {self.base}  "}
        # Without a terminal curl tells of its progress.
        (directory / ".curlrc").write_text("silent\nshow-error\n")
        for place in ("etc/tocsin", "backup", "safe"):
            (directory / place).mkdir(parents=True)
            self.replaced[f"/{place}/"] = f"{directory}/{place}/"
        for number, port in enumerate((9443, 9444, 9445)):
            self.replaced[str(port)] = str(self.base + number)
        self.replaced |= {
            "9001": str(free_ports(5)),
            "8080": str(self.base + 6),
            "8090": str(self.base + 7),
            "ABC123DEFG": self.files.key_id,
            "TEAMID1234.com.example.app": APPLICATION,
            "my-project": PROJECT_ID,
            "<user>": OWNER,
        }
        for name in ("AuthKey_ABC123DEFG.p8", "service-account.json", "cospace-firebase.json"):
            source = self.files.apns_key if name.endswith(".p8") else self.files.service_account
            shutil.copy(source, directory / self.real(name))

    def put_credentials(self, directory: str) -> None:
        """The emulator's keys are there, as if it had run before: to make them takes a second."""
        shutil.copytree(self.files.directory, self.directory / directory)

    def real(self, text: str) -> str:
        for shown, real in self.replaced.items():
            text = text.replace(shown, real)
        return text

    def run(self, command: str) -> str:
        """Prepare something that a page takes for granted; returns what was printed."""
        status, printed = self.terminal.run(self.real(command))
        assert status == 0, f"{command}\n{printed}"
        return printed.strip()

    def emulator(self) -> None:
        """Apple and Google are there, and the store has their credentials."""
        self.put_credentials("emulator")
        self.run(f"tocsin emulator --directory emulator --port {self.base} &")
        self.run(f"tocsin app add {APPLICATION} --key AuthKey_ABC123DEFG.p8")
        self.run("tocsin fcm add --service-account service-account.json")

    def devices(self) -> None:
        """The user of the pages has the devices of the page about the command line."""
        (csv,) = (block.text for block in blocks() if block.language == "csv")
        (self.directory / "devices.csv").write_text(csv)
        self.run("tocsin device import devices.csv && rm devices.csv.progress")

    def play(self, command: Command) -> None:
        """Run it as the page has it, and compare what it prints with what the page shows.

        Raises:
            AssertionError: it has failed, or prints something else.
        """
        text = self.real(command.text)
        status, printed = self.terminal.run(text)
        assert status in ((0, 1) if command.text.startswith(tuple(MAY_FAIL)) else (0,)), f"{text}\n{printed}"
        assert "Traceback" not in printed, f"{text}\n{printed}"
        shown = self.real(command.output).strip()
        if not shown or command.text.startswith(tuple(OUTPUT_NOT_COMPARED)):
            return
        if command.text.startswith(tuple(FIRST_LINE_ONLY)):
            shown = shown.splitlines()[0] + "…"
        values = real_values(shown, printed)
        assert values is not None, f"{text}\nprints\n{printed}\nand the page shows\n{shown}"
        self.replaced |= values
