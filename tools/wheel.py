"""Builds the wheels so that whoever builds them from the same commit gets the same bytes.

    python -m tools.wheel [--out dist]

What could differ is taken away: the files are those of the commit (`git archive`), with modes that do not come from the
umask; the times in the wheel are the commit's (SOURCE_DATE_EPOCH, https://reproducible-builds.org/specs/source-date-epoch);
the build back end is the one that `requirements/dev.txt` pins, without isolation and without network.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = (".", "src/tocsin_client")
"""Where the projects are that a wheel is made of."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out = parser.parse_args().out
    changed = _git("status", "--porcelain").decode().strip()
    if changed:
        print("What is not committed is not in the wheels.", file=sys.stderr)
    with TemporaryDirectory() as directory:
        with tarfile.open(fileobj=BytesIO(_git("archive", "HEAD"))) as archive:
            archive.extractall(directory, filter="data")
        wheels = build(Path(directory), out, int(_git("log", "-1", "--format=%ct")))
    for wheel in wheels:
        print(f"{sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}")
    return 0


def build(tree: Path, out: Path, epoch_s: int) -> list[Path]:
    """Make the wheels of the source in `tree`, which is changed by it, in `out`.

    Args:
        epoch_s: the time that all files in the wheels get, Unix seconds.

    Raises:
        subprocess.CalledProcessError: the build has failed; what it says is on standard error.
    """
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    out.mkdir(parents=True, exist_ok=True)
    wheels = []
    for package in PACKAGES:
        with TemporaryDirectory(dir=out) as fresh:
            command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run(
                [*command, "--no-build-isolation", "--no-index", "--wheel-dir", fresh, str(tree / package)],
                check=True,
                stdout=sys.stderr,
                env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch_s), "PYTHONHASHSEED": "0"},
                umask=0o022,
            )
            [made] = Path(fresh).glob("*.whl")
            wheels.append(made.replace(out / made.name))
    return wheels


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    sys.exit(main())
