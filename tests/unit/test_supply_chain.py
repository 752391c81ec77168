"""What a release is made of: wheels that anybody can build again, and a list of all that they need."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from pathlib import Path

import msgspec
import pytest
from cyclonedx.model.bom import Bom
from tools.sbom import REQUIREMENTS, pinned, sbom
from tools.wheel import build

ROOT = Path(__file__).parents[2]
EPOCH_S = 1_790_000_000


def checkout(target: Path, umask: int, mtime_s: int) -> Path:
    """The source as somebody else has it."""
    before = os.umask(umask)
    try:
        target.mkdir()
        skipped = shutil.ignore_patterns("*.egg-info", "__pycache__", "build")
        shutil.copytree(ROOT / "src", target / "src", ignore=skipped, copy_function=shutil.copyfile)
        shutil.copytree(ROOT / "requirements", target / "requirements", copy_function=shutil.copyfile)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(ROOT / name, target / name)
    finally:
        os.umask(before)
    for path in target.rglob("*"):
        os.utime(path, (mtime_s, mtime_s))
    return target


@pytest.mark.slow
def test_a_wheel_that_is_built_twice_is_the_same_byte_by_byte(tmp_path: Path) -> None:
    one = build(checkout(tmp_path / "a", 0o022, 1_700_000_000), tmp_path / "out-a", EPOCH_S)
    other = build(checkout(tmp_path / "another name", 0o077, 1_750_000_001), tmp_path / "out-b", EPOCH_S)
    assert [wheel.name for wheel in one] == [wheel.name for wheel in other]
    assert len(one) == 2
    for first, second in zip(one, other, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
    names = zipfile.ZipFile(one[0]).namelist()
    assert "tocsin/py.typed" in names
    assert "tocsin/store/sqlite/migrations/versions/0011_audit_log.py" in names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "benchmarks/"))]


def test_the_list_has_every_pinned_package_with_its_version_and_hashes() -> None:
    text = REQUIREMENTS.read_text()
    document = msgspec.json.decode(sbom(list(pinned(text))))
    listed = {
        (one["name"], one["version"]): {each["content"] for each in one["hashes"]} for one in document["components"]
    }
    named = re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE)
    assert sorted(listed) == sorted(named)
    assert len(named) > 30
    assert sum(map(len, listed.values())) == text.count("--hash=sha256:")
    for one in document["components"]:
        assert one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}"


def test_the_list_says_who_needs_whom() -> None:
    document = msgspec.json.decode(sbom(list(pinned(REQUIREMENTS.read_text()))))
    needs = {one["ref"].partition("@")[0]: one.get("dependsOn", []) for one in document["dependencies"]}
    direct = {one.partition("@")[0] for one in needs["tocsin"]}
    assert {"litestar", "cryptography", "ngh2", "msgspec"} <= direct
    assert any(one.startswith(("greenlet@", "typing-extensions@")) for one in needs["sqlalchemy"])
    known = {one["bom-ref"] for one in document["components"]}
    assert all(one in known for some in needs.values() for one in some)


def test_the_list_is_read_by_the_library_of_its_makers_and_is_the_same_every_time() -> None:
    packages = list(pinned(REQUIREMENTS.read_text()))
    content = sbom(packages)
    assert content == sbom(packages)
    bom = Bom.from_json(msgspec.json.decode(content))  # type: ignore[attr-defined]
    assert len(bom.components) == len(packages)


@pytest.mark.parametrize("line", ["litestar>=2", "litestar==2.0", "git+file:///x --hash=sha256:" + "0" * 64])
def test_what_is_not_pinned_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not pinned"):
        list(pinned(f"# a comment\n{line}\n"))


def test_every_list_of_requirements_is_pinned_by_hash() -> None:
    for name in ("runtime.txt", "test.txt", "dev.txt"):
        assert len(list(pinned((ROOT / "requirements" / name).read_text()))) > 30
