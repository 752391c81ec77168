"""The packages of the judges: fetched from their registries, by the usual clients, into `.judges`, which git ignores.

What was fetched stays there until its manifest changes. Where it cannot be had, `Absent` says why. No lock files are
kept: the manifests name exact versions of what a judge uses.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import pytest

_T = TypeVar("_T")

HERE: Final = Path(__file__).parent
CACHE: Final = HERE.parents[1] / ".judges"
FETCH_TIMEOUT_S: Final = 120
BUILD_TIMEOUT_S: Final = 600
_DEPENDENCY_PLUGIN: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"


class Absent(Exception):  # noqa: N818
    """A judge cannot be asked here; the message says why."""


def or_skip(make: Callable[[], _T]) -> _T:
    """Call it; the test that needs the result is skipped where it is absent, with the reason."""
    try:
        return make()
    except Absent as absent:
        pytest.skip(reason=str(absent))


def program(name: str) -> str:
    """The path of an executable.

    Raises:
        Absent: there is none on the PATH.
    """
    found = shutil.which(name)
    if found is None:
        raise Absent(f"{name} is not installed")
    return found


def node_modules() -> Path:
    """The directory of `node/package.json` with its packages beside it.

    Raises:
        Absent: node or npm is missing, or the packages cannot be fetched.
    """
    program("node")
    manifest = HERE / "node" / "package.json"
    directory = CACHE / "node"
    if not _is_fetched(directory, manifest):
        npm = [program("npm"), "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        _renew(directory, manifest)
        _fetch("the npm packages", [*npm, "--omit=optional", f"--cache={directory / 'cache'}"], directory)
        shutil.rmtree(directory / "cache", ignore_errors=True)
        _note_fetched(directory, manifest)
    return directory


def go_binary() -> Path:
    """The program of the directory `go`, built. It is built anew, in seconds, when its source has changed.

    Raises:
        Absent: Go is missing or too old, or the modules cannot be fetched.
        subprocess.CalledProcessError: it does not compile.
    """
    go = program("go")
    directory = CACHE / "go"
    manifest = HERE / "go" / "go.mod"
    variables = {
        "GOMODCACHE": str(directory / "modules"),
        "GOCACHE": str(directory / "build"),
        "GOFLAGS": "-mod=mod -modcacherw -buildvcs=false",
        "GOTOOLCHAIN": "local",
    }
    source = directory / "source"
    fetched = _is_fetched(directory, manifest)
    if not fetched:
        _renew(directory, manifest)
    source.mkdir(exist_ok=True)
    for file in (HERE / "go").iterdir():
        if file != manifest or not fetched:
            shutil.copy(file, source)
    if not fetched:
        # It adds the indirect requirements to the copy of go.mod, and writes go.sum.
        _fetch("the Go modules", [go, "list", "-deps", "."], source, variables)
        _note_fetched(directory, manifest)
    binary = directory / "clients"
    subprocess.run(
        [go, "build", "-o", str(binary), "."],
        cwd=source,
        env=os.environ | variables,
        check=True,
        timeout=BUILD_TIMEOUT_S,
    )
    return binary


def java_class_path() -> str:
    """A class path with everything that `java/pom.xml` names.

    Raises:
        Absent: Maven is missing, or the packages cannot be fetched.
    """
    manifest = HERE / "java" / "pom.xml"
    directory = CACHE / "java"
    if not _is_fetched(directory, manifest):
        maven = [program("mvn"), "-B", "-q", "-Dstyle.color=never", f"-Dmaven.repo.local={directory / 'repository'}"]
        _renew(directory, manifest)
        copy = [f"{_DEPENDENCY_PLUGIN}:copy-dependencies", f"-DoutputDirectory={directory / 'lib'}"]
        _fetch("the Maven packages", [*maven, *copy], directory)
        shutil.rmtree(directory / "repository")
        _note_fetched(directory, manifest)
    return str(directory / "lib" / "*")


def generator() -> Path:
    """A directory for PYTHONPATH with the generator of clients that `python/requirements.txt` names.

    Raises:
        Absent: it cannot be fetched.
    """
    manifest = HERE / "python" / "requirements.txt"
    directory = CACHE / "python"
    if not _is_fetched(directory, manifest):
        _renew(directory, manifest)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _fetch("the Python packages", [*pip, "--target", "packages", "-r", manifest.name], directory)
        _note_fetched(directory, manifest)
    return directory / "packages"


def java() -> list[str]:
    """The command that compiles and runs one source file; a class path and the file follow.

    Raises:
        Absent: there is no JDK of version 17 or newer.
    """
    java = program("java")
    program("javac")
    answer = subprocess.run([java, "--version"], capture_output=True, text=True, check=False)
    words = answer.stdout.split()
    if answer.returncode or not words[1].split(".")[0].isdigit() or int(words[1].split(".")[0]) < 17:
        raise Absent(f"a JDK of version 17 or newer is needed; java says: {answer.stdout.splitlines()[:1]}")
    return [java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]


def _is_fetched(directory: Path, manifest: Path) -> bool:
    stamp = directory / "fetched"
    return stamp.exists() and stamp.read_text() == _digest(manifest)


def _note_fetched(directory: Path, manifest: Path) -> None:
    (directory / "fetched").write_text(_digest(manifest))


def _digest(manifest: Path) -> str:
    return hashlib.sha256(manifest.read_bytes()).hexdigest()


def _renew(directory: Path, manifest: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shutil.copy(manifest, directory)


def _fetch(what: str, command: list[str], directory: Path, variables: dict[str, str] | None = None) -> None:
    try:
        subprocess.run(
            command,
            cwd=directory,
            env=os.environ | (variables or {}),
            check=True,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise Absent(f"{what} were not fetched within {FETCH_TIMEOUT_S} s") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip() or error.stdout.strip() or f"exit status {error.returncode}"
        lines = said.splitlines()
        first_error = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise Absent(f"{what} cannot be fetched: {first_error}") from None
