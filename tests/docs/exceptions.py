"""What the documentation shows and no test runs here: the one list, each with its reason.

Files of this repository that such a command names are looked for all the same (`test_commands`).
"""

from __future__ import annotations

from typing import Final

_NEEDS_ROOT: Final = "changes the machine: needs root, and a machine that may be changed"
_NEEDS_KUBERNETES: Final = "needs a Kubernetes; tests/deploy validates the manifests against its schemas"
_NEEDS_PODMAN: Final = "builds and runs an image: needs podman and a registry; tests/deploy checks the Containerfile"
_NEEDS_NATS_CLI: Final = "needs the program `nats`; tests/sources does the same with a real server by nats-py"

PROGRAMS: Final = {
    "useradd": _NEEDS_ROOT,
    "install": _NEEDS_ROOT,
    "systemctl": _NEEDS_ROOT,
    "python3": f"{_NEEDS_ROOT}: installs into /opt; the wheel is built and looked at in tests/unit",
    "(umask": f"{_NEEDS_ROOT}: writes a key into /etc, or into the checkout",
    "/opt/tocsin/bin/pip": f"{_NEEDS_ROOT}: installs into /opt; tests/deploy checks the extras",
    "/opt/tocsin/bin/tocsin": f"{_NEEDS_ROOT}; `tocsin key create` runs on other pages",
    "podman": _NEEDS_PODMAN,
    "kubectl": _NEEDS_KUBERNETES,
    "nats": _NEEDS_NATS_CLI,
    "pipx": "asks the internet for known holes",
}
"""By the first word of the command."""

NOT_RUN: Final = {
    "make": "runs for minutes, or runs this test; its target must exist, and its recipe be what make can read",
    "pip": "asks a registry; the extra that it names must be declared",
    "python": "runs for minutes; every option that it names must be one of the program",
}
"""What is looked at without being run, by the kind of the command."""

FIRST_LINE_ONLY: Final = {
    "tocsin audit list": "the entries are of a made-up day; that its columns are these is compared",
    'curl "$control/inbox': "the body is shortened in the middle; tests/emulator compares bodies",
}
"""Commands of whose output only the first line is compared."""

OUTPUT_NOT_COMPARED: Final = {
    "ls -l": "sizes, owners, and files that are there while a server runs",
}

MAY_FAIL: Final = {
    "tocsin doctor": "judges this machine: its disk, its limits and its clock",
    "tocsin status": "says what it thinks of a server that has just started",
    "tocsin session check": "the page shows a refusal",
}
"""Commands that may end with 1."""
