"""Writes the list of all that tocsin needs to run, as CycloneDX 1.6 (JSON): from the pinned requirements, offline.

    python -m tools.sbom [--out dist/tocsin.cdx.json]

Names, versions and hashes are those of `requirements/runtime.txt`; licences and who needs whom are read from the
packages as they are installed in this environment. The same requirements give the same file, byte by byte.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from msgspec import Struct
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[1]
REQUIREMENTS: Final = ROOT / "requirements" / "runtime.txt"
_PINNED: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*])?==([^ ;\\]+)")
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NAMESPACE: Final = uuid.UUID("5f0cf0a2-9f3c-5f43-8c8e-1b7a6a9f2d10")


class Pinned(Struct, frozen=True):
    """One package of the requirements."""

    name: str
    version: str
    hashes: tuple[str, ...]
    """SHA-256 of each of its files (wheels and source) that may be installed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "tocsin.cdx.json")
    out = parser.parse_args().out
    packages = list(pinned(REQUIREMENTS.read_text()))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(sbom(packages))
    print(f"{out}: {len(packages)} packages")
    return 0


def pinned(text: str) -> Iterator[Pinned]:
    """The packages that a file of requirements pins.

    Raises:
        ValueError: a line is no pinned package with its hashes.
    """
    for entry in text.replace("\\\n", " ").splitlines():
        if not entry.strip() or entry.lstrip().startswith("#"):
            continue
        found, hashes = _PINNED.match(entry), tuple(sorted(_HASH.findall(entry)))
        if found is None or not hashes:
            raise ValueError(f"{entry[:60]}: not pinned to a version and its hashes")
        yield Pinned(found[1].lower(), found[2], hashes)


def sbom(packages: list[Pinned]) -> bytes:
    """The CycloneDX document of tocsin with these packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    root = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        bom_ref=project["name"],
        licenses=[LicenseExpression(project["license"])],
        description=project["description"],
        supplier=OrganizationalEntity(name="The maintainers of tocsin"),
    )
    components = {one.name: _component(one) for one in packages}
    text = JsonV1Dot6(_bom(root, components)).output_as_string()
    # The library notes the moment, and a random number: the same requirements are to give the same file.
    document: dict[str, Any] = msgspec.json.decode(text)
    del document["metadata"]["timestamp"]
    del document["serialNumber"]
    content = msgspec.json.encode(document, order="sorted")
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMESPACE, content.decode())}"
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


def _bom(root: Component, components: dict[str, Component]) -> Bom:
    bom = Bom(components=list(components.values()))
    bom.metadata.component = root
    direct = (ROOT / "requirements" / "runtime.in").read_text().splitlines()
    bom.register_dependency(root, _needed([line for line in direct if line and not line.startswith("#")], components))
    for name, component in components.items():
        bom.register_dependency(component, _needed(_requirements_of(name), components))
    return bom


def _component(one: Pinned) -> Component:
    return Component(
        name=one.name,
        version=one.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{one.name}@{one.version}",
        purl=PackageURL("pypi", name=one.name, version=one.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=value) for value in one.hashes],
        licenses=_licence(one.name),
    )


def _licence(name: str) -> list[LicenseExpression | DisjunctiveLicense]:
    """As the installed package says it; nothing where it does not."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:  # not for this machine
        return []
    if expression := metadata.get("License-Expression"):
        return [LicenseExpression(expression)]
    named = metadata.get("License", "").strip()
    if named and "\n" not in named and len(named) < 100:
        return [DisjunctiveLicense(name=named)]
    classified = [
        one.rpartition(" :: ")[2] for one in metadata.get_all("Classifier") or [] if one.startswith("License")
    ]
    return [DisjunctiveLicense(name=one) for one in sorted(set(classified))]


def _requirements_of(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _needed(requirements: list[str], components: dict[str, Component]) -> list[Component]:
    """Those of the requirements that are pinned, on whatever machine; not those that only an extra needs."""
    parsed = [Requirement(one) for one in requirements]
    names = {re.sub(r"[-_.]+", "-", one.name).lower() for one in parsed if "extra" not in str(one.marker)}
    return [components[name] for name in sorted(names & components.keys())]


if __name__ == "__main__":
    sys.exit(main())
