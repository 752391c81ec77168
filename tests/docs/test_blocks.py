"""Every code block of the documentation has a test: it is run, checked, or a picture. What is none of these fails.

Blocks of the language `console` are run by `test_commands`. The list of what runs nowhere is `exceptions`.
"""

from __future__ import annotations

import asyncio
import configparser
import inspect
import json
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import yaml
from examples.test_backend import FaxBackend
from tests.docs.blocks import ROOT, Block, blocks, blocks_of, commands
from tests.support.pgbouncer import SETTINGS

from tocsin.api.delivery_search import SearchAnswer
from tocsin.api.event_records import EventReport
from tocsin.api.problems import Kind
from tocsin.emulator.credentials import write_credentials
from tocsin.emulator.faults import Script, load_script, parse_script
from tocsin.settings import SettingsError, load
from tocsin.store import ports
from tocsin_client import AsyncBuffer, AsyncClient, FaxNew
from tocsin_client.testing import LocalTocsin

BLOCKS: Final = {block.name: block for block in blocks()}
OWNER: Final = UUID("9aed5e94-3803-11e3-8475-0024e8f90cc0")
_DRAWN: Final = re.compile(r"[─│┌└▶▼◀]")

Check = Callable[[Block, LocalTocsin, Path], Any]


# -- settings ----------------------------------------------------------------------------------------------------------


def settings(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """They can be copied into a configuration as they stand."""
    file = directory / "tocsin.toml"
    file.write_text(block.text)
    load(file, {})


def fault_script(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """The emulator takes it; tests/emulator compares its two forms."""
    assert (parse_script(block.text.encode()) if block.language == "json" else load_script(block.text)) != Script()


# -- what is sent, and what is answered --------------------------------------------------------------------------------


def event(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    kind = "application/x-ndjson" if block.language == "ndjson" else "application/json"
    headers = {"authorization": f"Bearer {tocsin.key}", "content-type": kind}
    answer = httpx.post(f"{tocsin.url}/api/events", content=block.text.encode(), headers=headers)
    assert answer.status_code == 202, answer.text


def registration(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    user = tocsin.add_user()
    answer = httpx.post(
        f"{tocsin.url}/api/push", json=json.loads(block.text), headers={"authorization": f"Bearer {user.sid}"}
    )
    assert (answer.status_code, answer.json()) == (200, {})


def search_answer(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    _is_one(block, SearchAnswer)


def answer(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """What the page shows is what is answered: the same fields, with values of the same kind."""
    shown = json.loads(block.text)
    if "attempts" in block.text:
        _is_one(block, EventReport)
    elif "type" in shown:
        kind = next(kind for kind in Kind if shown["type"].endswith(f":{kind.slug}"))
        assert (shown["status"], shown["title"]) == (kind.status, kind.title)
        if kind.slug == "bad-input":
            assert _same_kinds(shown, _refusal(tocsin, at_a_line="line" in shown["errors"][0]))
    elif "accepted" in shown:
        assert _same_kinds(shown, json.loads(_send_fax(tocsin).content))
    else:
        assert shown == _registered(tocsin, shown)


def _is_one(block: Block, type: Any) -> None:
    """It has all fields of the type that are always there, and no other fields."""
    shown = json.loads(block.text)
    assert msgspec.to_builtins(msgspec.convert(shown, type)) == shown


def _same_kinds(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same_kinds(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return all(_same_kinds(*pair) for pair in zip(one, other, strict=True))
    return type(one) is type(other)


def _send_fax(tocsin: LocalTocsin, **changed: Any) -> httpx.Response:
    fax = {"owner": str(OWNER), "message": "fax_new", "fax": str(OWNER), "phone": "", "page_count": 1, **changed}
    return httpx.post(f"{tocsin.url}/api/events", json=fax, headers={"authorization": f"Bearer {tocsin.key}"})


def _refusal(tocsin: LocalTocsin, *, at_a_line: bool) -> Any:
    if not at_a_line:
        headers = {"authorization": f"Bearer {tocsin.add_user().sid}"}
        body = {"system": "apns", "action": "delete", "device_token": "a6"}
        return httpx.post(f"{tocsin.url}/api/push", json=body, headers=headers).json()
    headers = {"authorization": f"Bearer {tocsin.key}", "content-type": "application/x-ndjson"}
    return httpx.post(f"{tocsin.url}/api/events", content=b'{"message": "fax_new"', headers=headers).json()


def _registered(tocsin: LocalTocsin, shown: dict[str, Any]) -> Any:
    """The answer to somebody who has registered what is shown."""
    headers = {"authorization": f"Bearer {tocsin.add_user().sid}"}
    devices = [{"system": "fcm", "device_token": token} for token in shown["fcm"]["device_tokens"]]
    devices += [
        {"system": "apns", "device_token": token, **more} for token, more in shown["apns"]["device_tokens"].items()
    ]
    for device in devices:
        httpx.post(f"{tocsin.url}/api/push", json={**device, "action": "add"}, headers=headers).raise_for_status()
    return httpx.get(f"{tocsin.url}/api/push", headers=headers).json()


def introspection(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """What tocsin asks is compared in tests/sign_in; this has the same method, header fields and form fields."""
    head, _, form = block.text.partition("\n\n")
    method, *fields = head.splitlines()
    assert method.startswith("POST ")
    assert [field.partition(":")[0] for field in fields] == ["Authorization", "Content-Type"]
    assert [one.partition("=")[0] for one in form.strip().split("&")] == ["token", "token_type_hint"]
    source = (ROOT / "src/tocsin/sign_in/introspection.py").read_text()
    assert '"token": text, "token_type_hint": "access_token"' in source


# -- programs ----------------------------------------------------------------------------------------------------------


def python(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """It runs, with the names that the page has explained; tests in it are called."""
    names: dict[str, Any] = {
        "asyncio": asyncio,
        "AsyncClient": AsyncClient,
        "AsyncBuffer": AsyncBuffer,
        "FaxNew": FaxNew,
        "url": tocsin.url,
        "key": tocsin.key,
        "owner": OWNER,
        "fax": uuid4(),
        "FaxBackend": FaxBackend,
        "events": [FaxNew(owner=OWNER, fax=uuid4(), phone="", page_count=pages) for pages in range(3)],
    }
    text = block.text.replace("http://127.0.0.1:8080", tocsin.url)
    if "def test_" in text:
        exec(compile(text, block.name, "exec"), names)
        (test,) = (value for name, value in names.items() if name.startswith("test_"))
        given = {"tocsin": tocsin, "tmp_path": directory}
        called = test(**{name: given[name] for name in inspect.signature(test).parameters})
    else:
        exec(compile(f"async def main():\n{textwrap.indent(text, '    ')}", block.name, "exec"), names)
        called = names["main"]()
    if inspect.isawaitable(called):
        asyncio.run(asyncio.wait_for(called, 60))


def action(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """Auth0 would call it so: the token gets the claim."""
    node = shutil.which("node")
    if node is None:
        pytest.skip(reason="node, which is to run the block, is not installed")
    called = """
    let claims = {};
    const api = {accessToken: {setCustomClaim: (name, value) => { claims[name] = value; }}};
    const event = {user: {app_metadata: {uuid: "the uuid"}}};
    exports.onExecutePostLogin(event, api).then(() => console.log(JSON.stringify(claims)));
    """
    ran = subprocess.run([node, "-e", block.text + called], capture_output=True, text=True, timeout=30)
    assert json.loads(ran.stdout) == {"https://example.com/uuid": "the uuid"}, ran.stderr


# -- files of other programs -------------------------------------------------------------------------------------------


def prometheus(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """It names the job that the alerts look for and the file that there is; promtool takes it where it is installed."""
    configuration = yaml.safe_load(block.text)
    (job,), (rules,) = configuration["scrape_configs"], configuration["rule_files"]
    alerts = (ROOT / "deploy/prometheus/alerts.yaml").read_text()
    assert f'job="{job["job_name"]}"' in alerts
    promtool = shutil.which("promtool")
    if promtool is not None:
        (directory / rules).write_text(alerts)
        (directory / "key").touch()
        text = block.text.replace("/etc/prometheus/tocsin.key", str(directory / "key"))
        (directory / "prometheus.yaml").write_text(text)
        subprocess.run([promtool, "check", "config", directory / "prometheus.yaml"], check=True, timeout=60)


def nginx(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """It says nothing else than the file in deploy/, which is tested with a real nginx; nginx takes it where it is."""
    whole = " ".join((ROOT / "deploy/nginx/tocsin.conf").read_text().split())
    said = [line.partition("#")[0].strip() for line in block.text.splitlines()]
    directives = [" ".join(line.split()) for line in said if line.endswith(";")]
    assert [one for one in directives if one not in whole] == []
    program = shutil.which("nginx")
    if program is not None:
        files = write_credentials(directory / "tls")
        text = re.sub(r"/etc/nginx/tocsin\.(pem|key)", str(files.server), block.text)
        (directory / "nginx.conf").write_text(
            f"pid {directory}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{text}}}\n"
        )
        checked = subprocess.run(
            [program, "-t", "-p", directory, "-c", directory / "nginx.conf"], capture_output=True, text=True, timeout=30
        )
        assert "syntax is ok" in checked.stderr, checked.stderr


def pgbouncer(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """The PgBouncer of the tests has the same settings."""
    shown = configparser.ConfigParser()
    shown.read_string(block.text)
    assert set(shown) == {"DEFAULT", "databases", "pgbouncer"}
    assert dict(shown["pgbouncer"]) == SETTINGS


def devices(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """`test_commands` imports it, and uses these devices."""
    assert len(block.text.splitlines()) == 3


# -- pictures ----------------------------------------------------------------------------------------------------------


def state_machine(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """Every line is a transition, and it is named after an operation of the store, or happens at the store's start."""
    first, *lines = block.text.splitlines()
    assert first == "stateDiagram-v2"
    operations = {name for port in vars(ports).values() if isinstance(port, type) for name in vars(port)} | {"start"}
    for line in lines:
        matched = re.fullmatch(r"    (?:\[\*\]|\w+) --> (?:\[\*\]|\w+)(?:: (\w+).*)?", line)
        assert matched, line
        assert matched[1] is None or matched[1] in operations, line


def picture(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """A drawing, for people alone."""
    assert _DRAWN.search(block.text)


def output(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """What `make demo` prints: tests/cli/test_demo.py compares it."""
    assert "test_it_prints_what_the_readme_shows" in (ROOT / "tests/cli/test_demo.py").read_text()


def terminal(block: Block, tocsin: LocalTocsin, directory: Path) -> None:
    """`test_commands` runs its commands."""
    assert commands(block)


CHECKS: Final[dict[tuple[str, str], Check]] = {
    # By language, for the pages that begin so; the first one counts.
    ("console", ""): terminal,
    ("python", ""): python,
    ("mermaid", ""): state_machine,
    ("toml", "docs/emulator.md"): fault_script,
    ("toml", ""): settings,
    ("json", "docs/emulator.md"): fault_script,
    ("json", "docs/for-producers.md"): event,
    ("json", "docs/for-app-developers.md"): registration,
    ("json", "docs/api.md"): search_answer,
    ("json-answer", "docs/for-"): answer,
    ("ndjson", "docs/for-producers.md"): event,
    ("csv", "docs/cli.md"): devices,
    ("http", "docs/sign-in.md"): introspection,
    ("js", "docs/sign-in.md"): action,
    ("yaml", "docs/operating.md"): prometheus,
    ("nginx", "docs/operating.md"): nginx,
    ("ini", "docs/scale.md"): pgbouncer,
}


def check_of(block: Block) -> Check:
    """Raises LookupError: nothing tests a block of this language on this page."""
    if not block.language and _DRAWN.search(block.text):
        return picture
    if not block.language and block.page == "README.md":
        return output
    if not block.language:
        raise LookupError(f"{block.name}: a block without a language is a picture; say what this is: console, say")
    for (language, page), check in CHECKS.items():
        if block.language == language and block.page.startswith(page):
            return check
    raise LookupError(f"{block.name}: no test for a block of the language {block.language}; add one to CHECKS")


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_as_true_as_its_page_says(name: str, tocsin: LocalTocsin, tmp_path: Path) -> None:
    check_of(BLOCKS[name])(BLOCKS[name], tocsin, tmp_path)


def test_a_block_that_nothing_tests_is_found() -> None:
    (block,) = blocks_of("docs/new.md", "```cobol\nSTOP RUN.\n```\n")
    with pytest.raises(LookupError, match=r"docs/new.md:1: no test for a block of the language cobol"):
        check_of(block)


def test_a_block_without_a_language_that_is_no_picture_is_found() -> None:
    (block,) = blocks_of("docs/new.md", "```\nmake torture\n```\n")
    with pytest.raises(LookupError, match=r"docs/new.md:1: a block without a language"):
        check_of(block)


def test_a_block_without_an_end_is_found() -> None:
    with pytest.raises(ValueError, match=r"docs/new.md:1: the block has no end"):
        list(blocks_of("docs/new.md", "```toml\n[server]\n"))


def test_settings_that_there_are_not_are_found(tmp_path: Path) -> None:
    (block,) = blocks_of("docs/new.md", "```toml\n[server]\nprot = 80\n```\n")
    with pytest.raises(SettingsError, match=r"server\.prot: unknown key"):
        settings(block, None, tmp_path)  # type: ignore[arg-type]


def test_every_check_has_a_block() -> None:
    used = {check_of(block) for block in BLOCKS.values()}
    assert {*CHECKS.values(), picture, output} == used
