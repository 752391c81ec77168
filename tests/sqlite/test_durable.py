"""Directories that tocsin makes. That they are durable, `tests/power_loss` shows."""

from __future__ import annotations

import errno
import stat
import sys
from pathlib import Path

import pytest

from tocsin.store.sqlite.durable import make_directory, make_durable


def test_the_last_directory_is_for_its_user_alone_and_those_above_it_are_made(tmp_path: Path) -> None:
    directory = tmp_path / "var" / "lib" / "tocsin"
    make_directory(directory)
    make_directory(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_file_in_the_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_directory(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        make_directory(tmp_path / "file" / "below")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a file system that cannot be synced, on Linux alone")
def test_a_file_system_that_cannot_sync_directories_is_used_as_it_is() -> None:
    with pytest.raises(OSError, match="Invalid argument") as failed:
        make_durable(Path("/proc"))
    assert failed.value.errno == errno.EINVAL
    make_directory(Path("/proc/self"))
