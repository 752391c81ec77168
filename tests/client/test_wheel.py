"""The client as its users install it: a wheel of its own, with a plugin that pytest finds; and the examples."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tocsin_client.testing import LocalTocsin

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples"


def run(*command: str, cwd: Path, **environment: str) -> str:
    ended = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=110
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def build(source: Path, target: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source), cwd=target.parent)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    # In a copy: a build leaves its own directories beside the sources.
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src/tocsin_client", source, ignore=shutil.ignore_patterns("__pycache__"))
    return build(source, tmp_path / "wheels")


@pytest.mark.slow
def test_the_wheel_holds_the_client_alone_and_needs_httpx_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    assert {name.split("/")[0] for name in names} == {"tocsin_client", "tocsin_client-0.1.0.dist-info"}
    assert "tocsin_client/py.typed" in names
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert [line for line in needed if "extra ==" not in line] == ["Requires-Dist: httpx"]


@pytest.mark.slow
def test_a_backends_tests_find_the_fixture_in_the_wheel(wheel: Path, tmp_path: Path) -> None:
    site, project = tmp_path / "site", tmp_path / "project"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    project.mkdir()
    shutil.copy(EXAMPLES / "test_backend.py", project)
    output = run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_backend.py"),
        cwd=project,
        PYTHONPATH=str(site),
    )
    assert "2 passed" in output


def test_the_example_of_a_backend_works(tocsin: LocalTocsin, tmp_path: Path) -> None:
    anna = tocsin.add_user()
    anna.add_iphone()
    anna.add_android()
    output = run(
        *(sys.executable, str(EXAMPLES / "backend.py")),
        cwd=tmp_path,
        TOCSIN_ADDRESS=tocsin.url,
        PRODUCER_KEY=tocsin.key,
        OWNER=str(anna.id),
    )
    assert output.splitlines() == ["fax_new: apns delivered", "fax_new: fcm delivered", "100 recordings handed in"]
