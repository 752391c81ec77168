"""`tocsin device import` and `export`: nothing is lost, nothing wrong comes in, and a stop costs nothing."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.cli.conftest import APPLICATION, OWNER, Run

from tocsin.cli import moving
from tocsin.emulator.credentials import Files
from tocsin.store.ports import StoreUnavailable
from tocsin.store.sqlite.registry import SqliteRegistry

TOKEN = "a6461732069737d42065496e0000000000000000000000000000000000000000"
APNS: dict[str, Any] = {"owner": OWNER, "system": "apns", "device_token": TOKEN, "application_id": APPLICATION}
FCM: dict[str, Any] = {"owner": OWNER, "system": "fcm", "device_token": "APA91bHun4MxP5egoKMwt2KZFBaFUH"}
WriteFile = Callable[..., str]


@pytest.fixture(autouse=True)
def application(run: Run, store: Path, credentials: Files) -> None:
    assert run("app", "add", APPLICATION, "--key", str(credentials.apns_key), "--key-id", "ABC123DEFG").status == 0


@pytest.fixture(params=["csv", "ndjson"])
def write_file(request: pytest.FixtureRequest, tmp_path: Path) -> WriteFile:
    """Writes registrations into a file of each format; returns its name."""

    def write(*registrations: dict[str, Any]) -> str:
        text = io.StringIO(newline="")
        if request.param == "csv":
            columns = list(dict.fromkeys(name for one in registrations for name in one))
            table = csv.DictWriter(text, columns)
            table.writeheader()
            table.writerows(registrations)
        else:
            text.writelines(json.dumps(one) + "\n" for one in registrations)
        path = tmp_path / f"devices.{request.param}"
        path.write_text(text.getvalue(), newline="")
        return str(path)

    return write


def numbered(count: int) -> list[dict[str, Any]]:
    return [{**FCM, "owner": str(UUID(int=number)), "device_token": f"token-{number}"} for number in range(count)]


def test_what_is_imported_is_registered_as_an_app_would(run: Run, write_file: WriteFile) -> None:
    voip = {**APNS, "device_token": "b" * 64, "sandbox": "true", "apns_topic": "de.cospace.app.voip"}
    if write_file(APNS).endswith("ndjson"):
        voip["sandbox"] = True
    done = run("device", "import", write_file(APNS, FCM, voip))
    assert (done.status, done.err) == (0, "Registered 3 devices, refused 0.\n")
    found = run("device", "list", "--owner", OWNER, "--json").json
    assert [one["device_token"] for one in found] == [TOKEN, FCM["device_token"], "b" * 64]
    assert (found[2]["sandbox"], found[2]["apns_topic"]) == (True, "de.cospace.app.voip")


@pytest.mark.parametrize("format", ["csv", "ndjson"])
def test_what_is_exported_can_be_imported_again(run: Run, write_file: WriteFile, tmp_path: Path, format: str) -> None:
    run("device", "import", write_file(APNS, *numbered(5)))
    first = run("device", "export", str(tmp_path / f"out.{format}"))
    assert (first.status, first.err) == (0, "Exported 6 devices.\n")
    assert (tmp_path / f"out.{format}").stat().st_mode & 0o777 == 0o600
    before = run("device", "export", "--format", format).out
    again = run("device", "import", str(tmp_path / f"out.{format}"), "--json")
    assert again.json == {"registered": 6, "refused": 0, "evicted": 0}

    def without_times(text: str) -> list[str]:
        return [line.split("registered")[0].rsplit(",", 1)[0] for line in text.splitlines()]

    assert without_times(run("device", "export", "--format", format).out) == without_times(before)


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        ({**APNS, "owner": "anna"}, "owner", "must be a UUID"),
        ({**APNS, "system": "gcm"}, "system", "must be apns or fcm"),
        ({**APNS, "device_token": "abc"}, "device_token", "64 hexadecimal"),
        ({**APNS, "application_id": "x"}, "application_id", "must match"),
        ({**APNS, "application_id": "39JSDKGJ38.de.other"}, "application_id", "is not known here"),
        ({**APNS, "sandbox": "perhaps"}, "sandbox", "true or false"),
        ({"system": "fcm", "device_token": "abc", "owner": ""}, "owner", ""),
    ],
)
def test_a_line_that_breaks_a_rule_is_refused_and_the_others_are_registered(
    run: Run, write_file: WriteFile, tmp_path: Path, line: dict[str, Any], field: str, reason: str
) -> None:
    done = run("device", "import", write_file(FCM, line, APNS), "--refused", str(tmp_path / "refused.csv"))
    assert done.status == 1
    assert "Registered 2 devices, refused 1." in done.err
    (found,) = csv.DictReader((tmp_path / "refused.csv").open())
    number = 3 if (tmp_path / "devices.csv").exists() else 2
    assert (found["line"], found["field"]) == (str(number), field)
    assert reason in found["reason"]
    assert TOKEN not in (tmp_path / "refused.csv").read_text()


def test_a_dry_run_registers_nothing(run: Run, write_file: WriteFile) -> None:
    done = run("device", "import", write_file(APNS, {**APNS, "owner": "x"}), "--dry-run")
    assert done.status == 1
    assert "Would register 1 devices, refused 1." in done.err
    assert run("device", "list", "--owner", OWNER, "--json").json == []


def test_an_import_that_was_stopped_goes_on_where_it_was(
    run: Run, write_file: WriteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_AT_ONCE", 10)
    file = write_file(*numbered(95))
    add_many, calls = SqliteRegistry.add_many, []

    async def stops(self: SqliteRegistry, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 4:
            raise StoreUnavailable("disk full")
        return await add_many(self, *arguments)

    monkeypatch.setattr(SqliteRegistry, "add_many", stops)
    stopped = run("device", "import", file)
    assert (stopped.status, len(list(tmp_path.glob("*.progress")))) == (1, 1)
    done = run("device", "import", file)
    assert (done.status, "Going on after line 3" in done.err) == (0, True)
    # The first three again would be thirteen calls.
    assert len(calls) == 4 + 7
    assert len(run("device", "export", "--format", "ndjson").out.splitlines()) == 95
    assert list(tmp_path.glob("*.progress")) == []


def test_another_file_of_the_same_name_is_not_gone_on_with(run: Run, write_file: WriteFile) -> None:
    file = write_file(FCM)
    Path(file + ".progress").write_text('{"file": "of another", "lines": 1}')
    refused = run("device", "import", file)
    assert (refused.status, "remove it to begin anew" in refused.err) == (2, True)
    assert run("device", "list", "--owner", OWNER, "--json").json == []


def test_older_devices_go_where_a_user_has_too_many(run: Run, write_file: WriteFile, tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text("[push_api]\nmax_tokens_per_user = 2\n")
    done = run(
        "device", "import", write_file(*({**FCM, "device_token": f"t{number}"} for number in range(5))), "--json"
    )
    assert done.json == {"registered": 5, "refused": 0, "evicted": 3}
    assert [one["device_token"] for one in run("device", "list", "--owner", OWNER, "--json").json] == ["t3", "t4"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("d.csv", b"", "no column owner"),
        ("d.csv", b"owner;system;device_token\n", "no column owner"),
        ("d.csv", b"owner,system\n", "no column device_token"),
        ("d.txt", b"", "--format"),
    ],
)
def test_a_file_that_is_none_is_said_to_be(run: Run, tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused = run("device", "import", str(tmp_path / name))
    assert (refused.status, reason in refused.err) == (2, True)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\n",
        b"{" * 100_000 + b"\n",
        b"x" * 200_000,
        b'{"owner":1}\n',
        b"[1]\n",
        b'{"owner":"\xff"}\n',
        b'"' * 70_000 + b"\n",
    ],
)
@pytest.mark.parametrize("format", ["csv", "ndjson"])
def test_no_line_stops_an_import(run: Run, tmp_path: Path, content: bytes, format: str) -> None:
    good = json.dumps(FCM).encode() if format == "ndjson" else ",".join(FCM.values()).encode()
    head = b"" if format == "ndjson" else b"\xef\xbb\xbfowner,system,device_token\n"
    (tmp_path / "d").write_bytes(head + good + b"\n" + content)
    done = run("device", "import", str(tmp_path / "d"), "--format", format)
    assert done.status == 1
    assert "Registered 1 devices" in done.err
    assert "Traceback" not in done.err


def test_an_export_never_overwrites(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("mine")
    refused = run("device", "export", str(tmp_path / "out.csv"))
    assert (refused.status, (tmp_path / "out.csv").read_text()) == (2, "mine")


def test_an_export_that_fails_leaves_no_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    failed = run("device", "export", str(tmp_path / "out.csv"), "--config", str(tmp_path / "none.toml"))
    assert failed.status != 0
    assert not (tmp_path / "out.csv").exists()


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here, which is never anything but full")
def test_a_full_disk_is_told_with_the_name_of_the_file(
    run: Run, write_file: WriteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("device", "import", write_file(APNS, {**FCM, "system": "x"}), "--refused", str(FULL))
    assert (done.status, done.err.count("Traceback")) == (1, 0)
    assert f"--refused {FULL}: No space left on device" in done.err
    monkeypatch.setattr(os, "fdopen", lambda number, *_, **__: (os.close(number), FULL.open("w"))[1])
    failed = run("device", "export", str(tmp_path / "out.csv"))
    assert (failed.status, failed.err) == (
        1,
        f"tocsin: {tmp_path / 'out.csv'}: No space left on device; what was written is not complete\n",
    )
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("name", ["{}", "./{}", "{}.progress"])
def test_what_is_imported_is_not_overwritten_by_its_own_report(
    run: Run, write_file: WriteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = Path(write_file(APNS))
    before = file.read_bytes()
    monkeypatch.chdir(file.parent)
    refused = run("device", "import", str(file), "--refused", name.format(file.name))
    assert (refused.status, "the import itself reads this file" in refused.err) == (2, True)
    assert file.read_bytes() == before
