"""Moving in: `tocsin device import` of very many devices, as a command of its own, and what it takes of a core."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.report import Figures
from benchmarks.sizes import Sizes
from tocsin.emulator.credentials import TEAM_ID, write_credentials

_APPLICATION: Final = f"{TEAM_ID}.de.cospace.app"


def moving_in(sizes: Sizes, devices: int | None = None) -> Figures:
    """Half of the devices are Apple's, half Google's, two of each user, in a CSV file."""
    figures, count = Figures(), devices or sizes.imported
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as name:
        directory = Path(name)
        files = write_credentials(directory / "credentials")
        _tocsin(directory, "app", "add", _APPLICATION, "--key", str(files.apns_key), "--key-id", files.key_id)
        _write(directory / "devices.csv", count)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        _tocsin(directory, "device", "import", "devices.csv")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures.add("import_s", time.perf_counter() - began)
        took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        figures.add("import_us_per_device", took_s / count * 1e6)
    return figures


def _write(file: Path, count: int) -> None:
    with file.open("w") as rows:
        rows.write("owner,system,device_token,application_id\n")
        for number in range(count):
            # Spread, as UUIDs and tokens are: neighbours in the file are none in the store.
            spread = number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128)
            user = f"{number // 2 * 2654435761 % (1 << 32):08x}-0000-4000-8000-{number // 2:012x}"
            if number % 2:
                rows.write(f"{user},fcm,{spread:032x}:{number:0110x},\n")
            else:
                rows.write(f"{user},apns,{spread:032x}{number:032x},{_APPLICATION}\n")


def _tocsin(directory: Path, *arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
    subprocess.run(
        [sys.executable, "-m", "tocsin", *arguments],
        cwd=directory,
        env=environment,
        check=True,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    from benchmarks import report
    from benchmarks.sizes import FULL

    print(report.table(moving_in(FULL, int(sys.argv[1]))))
