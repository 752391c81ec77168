"""A client that a generator makes from the published OpenAPI document works: it registers, hands in, and looks up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from tests.judges.packages import generator, or_skip

from tocsin_client.pytest_plugin import tocsin, tocsin_server  # noqa: F401 (fixtures)
from tocsin_client.testing import LocalTocsin

_PROGRAM: Final = """
import sys
from uuid import UUID, uuid4
from generated.api.apps import change_token
from generated.api.producers import explain_event, ingest_events
from generated.client import AuthenticatedClient
from generated.models import ChangeTokenAddOrDeleteAnFCMRegistrationToken as Register
from generated.models import IngestEventsJsonANewFaxHasBeenReceived as FaxNew

url, sid, key, owner = sys.argv[1:]
with AuthenticatedClient(url, sid) as app:
    registration = {"system": "fcm", "action": "add", "device_token": "a-generated-client"}
    change_token.sync_detailed(client=app, body=Register.from_dict(registration))
with AuthenticatedClient(url, key) as backend:
    fax = {"message": "fax_new", "owner": owner, "fax": str(uuid4()), "phone": "", "page_count": 2}
    accepted = ingest_events.sync(client=backend, body=FaxNew.from_dict(fax))
    report = explain_event.sync(client=backend, event_id=UUID(accepted.events[0]))
    print(accepted.accepted, report.owner)
    refused = ingest_events.sync(client=backend, body=FaxNew.from_dict(fax | {"page_count": -1}))
    print(refused.errors[0].at)
"""


@pytest.fixture(scope="module")
def site(tocsin_server: LocalTocsin, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A directory for PYTHONPATH with the generated client."""
    packages = or_skip(generator)
    directory = tmp_path_factory.mktemp("generated")
    (directory / "config.yml").write_text("post_hooks: []\npackage_name_override: generated\n")
    subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"),
            *("--url", f"{tocsin_server.url}/schema/openapi.json"),
            *("--config", "config.yml", "--output-path", "generated"),
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(packages)},
        check=True,
        capture_output=True,
        timeout=100,
    )
    return directory


def test_a_generated_client_rings_a_phone(tocsin: LocalTocsin, site: Path) -> None:  # noqa: F811
    packages = or_skip(generator)
    anna = tocsin.add_user()
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, tocsin.url, anna.sid, tocsin.key, str(anna.id)],
        env={**os.environ, "PYTHONPATH": f"{site}:{packages}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [f"1 {anna.id}", "$.page_count"]
    arrived = [push for push in tocsin.inbox("a-generated-client") if push["provider"] == "fcm"]
    assert len(arrived) == 1
