"""Runs stories under the preloaded recorder (`recorder.c`), and reads what it has recorded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.power_loss.disk import Disk
from tests.power_loss.trace import Operation, read

ROOT = Path(__file__).parents[2]
ROUNDS = 6
CANNOT = "without a C compiler on Linux the recorder, which is preloaded into the process, cannot be built"


class RecordingFailed(Exception):  # noqa: N818
    """A story did not go as it should."""


def build(directory: Path) -> Path | None:
    """The compiled recorder; None where it cannot be compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    library = directory / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl", "-lpthread"],
        capture_output=True,
        text=True,
    )
    if built.returncode != 0:
        print(built.stderr, file=sys.stderr)
    return library if built.returncode == 0 else None


def record(
    library: Path, directory: Path, stories: Sequence[str], *, rounds: int = ROUNDS, fault: str = ""
) -> list[Operation]:
    """What the process that tells `stories` does to its files. `directory` is made for it.

    Raises:
        RecordingFailed: it has failed.
    """
    root, elsewhere, log = directory / "recorded", directory / "elsewhere", directory / "log"
    for made in (directory, root, elsewhere):
        made.mkdir()
    environment = os.environ | {
        "LD_PRELOAD": str(library),
        "RECORD_ROOT": os.path.realpath(root),
        "RECORD_LOG": str(log),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }
    child = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.power_loss.child",
            os.path.realpath(root),
            str(elsewhere),
            str(rounds),
            fault,
            *stories,
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if child.returncode != 0:
        raise RecordingFailed(f"the recorded process ended with {child.returncode}:\n{child.stdout}{child.stderr}")
    operations = read(log, Path(os.path.realpath(root)))
    if wrong := missed(operations, root):
        raise RecordingFailed(f"the recorder has missed something: {wrong[0]}")
    return operations


def missed(operations: Sequence[Operation], root: Path) -> list[str]:
    """Where the files below `root` are not, byte for byte, what the operations have made of them."""
    disk = Disk()
    for operation in operations:
        disk.do(operation)
    made = disk.after(disk.optional)
    there = {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")}
    there = {name: content for name, content in there.items() if not name.endswith("-shm")}
    wrong = [f"{name} was made, and is not there" for name in sorted(made.keys() - there.keys())]
    wrong += [f"{name} is there, and was not made" for name in sorted(there.keys() - made.keys())]
    return wrong + [f"{name} has another content" for name in sorted(made) if made[name] != there.get(name, made[name])]
