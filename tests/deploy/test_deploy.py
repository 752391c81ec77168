"""What `deploy/` and its README name is what there is: settings, commands, paths, ports, fields."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any, Final

import httpx
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tocsin.api.health import READY
from tocsin.domain.nodes import NodeRole
from tocsin.emulator.credentials import write_credentials
from tocsin.settings import Settings, load
from tocsin.store.master_keys import SYSTEMD_CREDENTIAL
from tocsin_client import FaxNew
from tocsin_client.pytest_plugin import tocsin, tocsin_server  # noqa: F401 (fixtures)
from tocsin_client.testing import LocalTocsin, _run, _running

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = "1.31"
MOST_EXPOSED: Final = 2.0
"""`systemd-analyze security`, from 0 (safe) to 10."""


ONE_NODE: Final = "kubernetes/tocsin.yaml"
CLUSTER: Final = "kubernetes/cluster/tocsin.yaml"
CONSOLE: Final = "kubernetes/console/tocsin-console.yaml"
UNITS: Final = ("tocsin", "tocsin-console")
EXTRAS: Final = ("postgres", "nats", "console")
"""What the image has beside what tocsin always needs."""


def documents(file: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / file).read_text()))


def document(kind: str, file: str = ONE_NODE) -> dict[str, Any]:
    (found,) = (one for one in documents(file) if one["kind"] == kind)
    return found


def named(kind: str, name: str) -> dict[str, Any]:
    """One of several in the manifests of a cluster."""
    (found,) = (one for one in documents(CLUSTER) if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def settings_of(text: str, tmp_path: Path) -> Settings:
    (tmp_path / "tocsin.toml").write_text(text)
    return load(tmp_path / "tocsin.toml")


def unit(name: str = "tocsin") -> dict[str, str]:
    lines = (DEPLOY / f"systemd/{name}.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(reason=f"{program}, which is to judge the file, is not installed")
    return found


# -- the configuration -------------------------------------------------------------------------------------------------


def test_the_configuration_is_one(tmp_path: Path) -> None:
    settings = settings_of((DEPLOY / "tocsin.toml").read_text(), tmp_path)
    assert settings.store.path == Path("/var/lib/tocsin/tocsin.db")
    assert settings.server.private_host is not None


# -- systemd -----------------------------------------------------------------------------------------------------------


def test_the_unit_stops_no_server_before_it_has_drained() -> None:
    settings = Settings()
    assert float(unit()["TimeoutStopSec"]) > settings.server.drain_s + 4


def test_the_unit_hands_the_master_key_over_under_the_name_that_tocsin_looks_for() -> None:
    assert unit()["LoadCredential"].startswith(f"{SYSTEMD_CREDENTIAL}:")


def test_the_unit_writes_where_the_configuration_has_the_store(tmp_path: Path) -> None:
    settings = settings_of((DEPLOY / "tocsin.toml").read_text(), tmp_path)
    assert settings.store.path.parent == Path("/var/lib") / unit()["StateDirectory"]


def test_the_console_is_run_as_strictly_as_the_server_and_can_read_nothing_of_it() -> None:
    server, console = unit(), unit("tocsin-console")
    hardening = list(server)[list(server).index("NoNewPrivileges") : list(server).index("WantedBy")]
    assert {name: console.get(name) for name in hardening} == {name: server[name] for name in hardening}
    assert console["DynamicUser"] == "yes"
    assert not {"User", "StateDirectory"} & console.keys()
    name, file = console["LoadCredential"].split(":")
    assert console["ExecStart"].endswith(f" console --config %d/{name}")
    assert f"deploy/tocsin-console.toml {file}" in (DEPLOY / "README.md").read_text()


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    analyze = needs("systemd-analyze")
    text = (DEPLOY / f"systemd/{name}.service").read_text()
    # Only the program is not there: everything else is verified as it is.
    (tmp_path / f"{name}.service").write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    verified = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / f"{name}.service")], capture_output=True, text=True, timeout=60
    )
    said = [line for line in verified.stderr.splitlines() if f"{name}.service" in line]
    assert (verified.returncode, said) == (0, [])


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_may_do_little(name: str) -> None:
    analyze = needs("systemd-analyze")
    command = [analyze, "security", "--offline=true", str(DEPLOY / f"systemd/{name}.service")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    exposure = re.search(rf"Overall exposure level for {name}.service: ([0-9.]+)", answer.stdout)
    assert exposure is not None, answer.stderr
    assert float(exposure[1]) <= MOST_EXPOSED


# -- containers --------------------------------------------------------------------------------------------------------


def test_the_image_copies_what_there_is() -> None:
    lines = (DEPLOY / "container/Containerfile").read_text().splitlines()
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    assert copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert "USER 10001:10001" in lines


def test_the_image_has_the_extras_as_they_are_pinned(tmp_path: Path) -> None:
    containerfile = (DEPLOY / "container/Containerfile").read_text()
    program = re.search(r"awk '([^']+)' requirements/test\.txt", containerfile)
    assert program is not None
    pinned = subprocess.run(
        [needs("awk"), program[1], str(ROOT / "requirements/test.txt")], capture_output=True, text=True, check=True
    ).stdout
    names = set(re.findall(r"^([a-z0-9-]+)==", pinned, re.MULTILINE))
    always = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE))
    wanted = "".join((ROOT / "requirements" / f"{extra}.in").read_text() for extra in EXTRAS)
    found = {canonicalize_name(one) for one in re.findall(r"^([a-z0-9-]+)", wanted, re.MULTILINE)}
    # And what these need: pip takes nothing that is not in the lists.
    assert _needed_by(found) - names - always == set()
    assert names.isdisjoint(always)
    assert pinned.count("--hash=sha256:") >= len(names)
    assert not pinned.rstrip().endswith("\\"), "whole entries"


def _needed_by(projects: set[str]) -> set[str]:
    """These projects, and all that they need without extras, as installed here."""
    found: set[str] = set()
    while projects - found:
        project = (projects - found).pop()
        found.add(project)
        for text in requires(project) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": "nkeys" if project == "nats-py" else ""}):
                projects = projects | {canonicalize_name(needed.name)}
    return found


def test_compose_names_settings_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose = yaml.safe_load((DEPLOY / "container/compose.yaml").read_text())
    service = compose["services"]["tocsin"]
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, value)
    settings = settings_of((DEPLOY / "tocsin.toml").read_text(), tmp_path)
    assert settings.secrets.key_file == Path("/run/secrets/master-key")
    assert settings.server.trusted_proxies == ()
    assert service["volumes"] == [f"store:{settings.store.path.parent}"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert (DEPLOY / "container" / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert float(service["stop_grace_period"].removesuffix("s")) > settings.server.drain_s + 4


def test_compose_runs_the_console_where_it_finds_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose = yaml.safe_load((DEPLOY / "container/compose.yaml").read_text())
    server, console = compose["services"]["tocsin"], compose["services"]["console"]
    for name, value in console["environment"].items():
        monkeypatch.setenv(name, value)
    settings = settings_of((DEPLOY / "tocsin.toml").read_text(), tmp_path)
    assert settings.console.api_url == f"http://tocsin:{settings.server.port}"
    assert console["ports"] == [f"127.0.0.1:{settings.console.port}:{settings.console.port}"]
    assert (settings.console.host, console["command"]) == ("0.0.0.0", ["tocsin", "console"])
    assert f":{settings.console.port}/health/live" in console["healthcheck"]["test"][-1]
    for name in ("image", "read_only", "cap_drop", "security_opt"):
        assert console[name] == server[name]
    assert not {"volumes", "secrets"} & console.keys()


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def test_no_manifest_is_forgotten_here() -> None:
    assert {ONE_NODE, CLUSTER, CONSOLE} == {
        str(one.relative_to(DEPLOY)) for one in (DEPLOY / "kubernetes").rglob("*.yaml")
    }


@pytest.mark.parametrize(
    "found",
    [*documents(ONE_NODE), *documents(CLUSTER), *documents(CONSOLE)],
    ids=lambda found: f"{found['kind']} {found['metadata']['name']}",
)
def test_kubernetes_takes_the_manifest(found: dict[str, Any]) -> None:
    kubernetes_validate.validate(found, KUBERNETES, strict=True)


def test_the_manifest_check_can_fail() -> None:
    wrong = document("StatefulSet")
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_the_pod_has_the_ports_paths_and_time_of_its_configuration(tmp_path: Path) -> None:
    settings = settings_of(document("ConfigMap")["data"]["tocsin.toml"], tmp_path)
    pod = document("StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings.server.private_host is not None
    assert ports == {"http": settings.server.port, "private": int(str(settings.server.private_host).rpartition(":")[2])}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings.secrets.key_file is not None
    assert {str(settings.store.path.parent), str(settings.secrets.key_file.parent)} < mounts
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        *(volume["name"] for volume in pod["volumes"]),
        "store",
    }
    assert pod["terminationGracePeriodSeconds"] > settings.server.drain_s + 4
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_what_selects_the_pod_finds_it() -> None:
    labels = document("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert document("Service")["spec"]["selector"] == labels
    for kind, path in (
        ("StatefulSet", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        assert document(kind)["spec"][path]["matchLabels"] == labels


@pytest.mark.parametrize("role", ["api", "delivery"])
def test_the_pods_of_a_cluster_have_the_ports_paths_and_time_of_their_configuration(tmp_path: Path, role: str) -> None:
    settings = settings_of(document("ConfigMap", CLUSTER)["data"]["tocsin.toml"], tmp_path)
    assert settings.store.is_postgres
    deployment = named("Deployment", f"tocsin-{role}")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["tocsin", "serve", "--role", NodeRole(role).value]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.server.port, "private": int(str(settings.server.private_host).rpartition(":")[2])}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings.secrets.key_file is not None
    assert settings.store.password_file is not None
    assert {str(settings.secrets.key_file.parent), str(settings.store.password_file.parent)} < mounts
    authority = re.search(r"sslrootcert=([^&]+)", str(settings.store.url))
    assert authority is not None
    assert str(Path(authority[1]).parent) in mounts
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    waits_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] > waits_s + settings.server.drain_s + 4
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    environment = {one["name"] for one in container["env"]}
    assert "TOCSIN_AUDIT__CHAIN" in environment
    assert deployment["spec"]["replicas"] > 1
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_pod_of_a_cluster_is_restarted_only_where_it_does_not_live_and_asked_only_where_it_is_ready() -> None:
    for role in ("api", "delivery"):
        (container,) = named("Deployment", f"tocsin-{role}")["spec"]["template"]["spec"]["containers"]
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/health/live", "port": "http"}
    (api,) = named("Deployment", "tocsin-api")["spec"]["template"]["spec"]["containers"]
    assert api["readinessProbe"]["httpGet"]["path"] == READY
    assert api["lifecycle"]["preStop"]["sleep"]["seconds"] > (
        api["readinessProbe"]["periodSeconds"] * api["readinessProbe"]["failureThreshold"]
    )


def test_what_selects_the_pods_of_a_cluster_finds_them() -> None:
    assert document("NetworkPolicy", CLUSTER)["spec"]["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/name": "tocsin"
    }
    for role in ("api", "delivery"):
        deployment, budget = (named(kind, f"tocsin-{role}") for kind in ("Deployment", "PodDisruptionBudget"))
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels["app.kubernetes.io/component"] == role
        assert deployment["spec"]["selector"]["matchLabels"] == labels
        assert budget["spec"]["selector"]["matchLabels"] == labels
        assert budget["spec"]["maxUnavailable"] < deployment["spec"]["replicas"]
        (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"] == labels
    api = named("Deployment", "tocsin-api")["spec"]["template"]["metadata"]["labels"]
    assert document("Service", CLUSTER)["spec"]["selector"] == api


def test_the_pod_of_the_console_has_the_ports_and_paths_of_its_configuration(tmp_path: Path) -> None:
    settings = settings_of(document("ConfigMap", CONSOLE)["data"]["tocsin.toml"], tmp_path)
    deployment = document("Deployment", CONSOLE)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["tocsin", "console"]
    assert [port["containerPort"] for port in container["ports"]] == [settings.console.port]
    for file in (ONE_NODE, CLUSTER):
        service = document("Service", file)
        assert settings.console.api_url == f"http://{service['metadata']['name']}"
        assert service["spec"]["ports"][0]["port"] == 80
    assert settings.console.public_url is not None
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    # Who is signed in is in the memory of one process.
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    server = document("StatefulSet")["spec"]["template"]["spec"]
    assert container["securityContext"] == server["containers"][0]["securityContext"]
    assert pod["securityContext"].items() <= server["securityContext"].items()


def test_what_selects_the_pod_of_the_console_finds_it_and_no_server() -> None:
    labels = document("Deployment", CONSOLE)["spec"]["template"]["metadata"]["labels"]
    assert document("Service", CONSOLE)["spec"]["selector"] == labels
    assert document("Deployment", CONSOLE)["spec"]["selector"]["matchLabels"] == labels
    assert document("NetworkPolicy", CONSOLE)["spec"]["podSelector"]["matchLabels"] == labels
    assert document("Service")["spec"]["selector"].items().isdisjoint(labels.items())


# -- proxies -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def console(tocsin_server: LocalTocsin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: F811
    """The address of a console as it is where it is a service, but for addresses."""
    needs("nginx")
    directory = tmp_path_factory.mktemp("console") / "run"
    directory.mkdir()
    config, ready = directory / "console.toml", directory / "ready"
    config.write_text((DEPLOY / "tocsin-console.toml").read_text())
    addresses = ("--api", tocsin_server.url, "--port", "0")
    with _running(ready, "console", "--config", str(config), "--ready-file", str(ready), *addresses):
        yield ready.read_text().strip()


@pytest.fixture(scope="module")
def behind_nginx(
    tocsin_server: LocalTocsin,  # noqa: F811
    console: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    """A client of nginx with the configuration as it is, but for addresses and files; a real tocsin is behind it, and a
    real console."""
    nginx, tmp_path = needs("nginx"), tmp_path_factory.mktemp("nginx")
    files = write_credentials(tmp_path / "tls")
    text = (DEPLOY / "nginx/tocsin.conf").read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for was, now in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("127.0.0.1:8080", tocsin_server.url.removeprefix("http://")),
        ("127.0.0.1:8090", console.removeprefix("http://")),
        ("/etc/nginx/tocsin.pem", str(files.server)),
        ("/etc/nginx/tocsin.key", str(files.server)),
    ):
        assert was in text
        text = text.replace(was, now)
    (tmp_path / "site.conf").write_text(text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
    whole = f"daemon off;\npid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{paths}"
    (tmp_path / "nginx.conf").write_text(f"{whole}include {tmp_path}/site.conf;\n}}\n")
    process = subprocess.Popen([nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
    trusted = ssl.create_default_context(cafile=str(files.ca))
    try:
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trusted, timeout=20) as client:
            deadline = time.monotonic() + 20
            while not _listens(port):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_nginx_passes_on_what_apps_and_backends_send(
    tocsin: LocalTocsin,  # noqa: F811
    behind_nginx: httpx.Client,
) -> None:
    anna = tocsin.add_user()
    iphone = anna.add_iphone()
    tokens = behind_nginx.get("/api/push", headers={"authorization": f"Bearer {anna.sid}"})
    assert list(tokens.json()["apns"]["device_tokens"]) == [iphone.token]
    event = FaxNew(owner=anna.id, fax=anna.id, phone="", page_count=2).body()
    accepted = behind_nginx.post("/api/events", json=event, headers={"authorization": f"Bearer {tocsin.key}"})
    assert accepted.status_code == 202
    iphone.wait_for("fax_new")
    assert behind_nginx.get("/health/ready").json() == {"ready": True}


def test_nginx_leads_browsers_to_the_console_by_its_own_host_name(
    tocsin: LocalTocsin,  # noqa: F811
    behind_nginx: httpx.Client,
    tmp_path: Path,
) -> None:
    public_url = settings_of((DEPLOY / "tocsin-console.toml").read_text(), tmp_path).console.public_url
    assert public_url is not None
    browser = {"host": public_url.removeprefix("https://"), "origin": public_url, "sec-fetch-site": "same-origin"}
    page = behind_nginx.get("/sign-in", headers=browser)
    csrf = re.findall(r'name="csrf" value="([0-9a-f]{64})"', page.text)[0]
    key = _run(tocsin._config, "key", "create", "admin")
    visitor = "; ".join(f"{name}={value}" for name, value in page.cookies.items())
    form = {"csrf": csrf, "key": key.split()[-1]}
    signed_in = behind_nginx.post("/sign-in", headers=browser | {"cookie": visitor}, data=form)
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/")
    (name,) = [one for one in signed_in.cookies if one == "__Host-tocsin_console"]
    session = browser | {"cookie": f"{name}={signed_in.cookies[name]}"}
    assert "Overview" in behind_nginx.get("/", headers=session).text
    # What changes is passed on as it comes.
    with behind_nginx.stream("GET", "/live", headers=session) as live:
        assert live.headers["content-type"].startswith("text/event-stream")
        assert next(live.iter_text())
    elsewhere = browser | {"cookie": visitor, "origin": "https://elsewhere.example.com"}
    assert behind_nginx.post("/sign-in", headers=elsewhere, data=form).status_code == 403


def test_the_proxies_lead_to_where_the_console_listens(tmp_path: Path) -> None:
    settings = settings_of((DEPLOY / "tocsin-console.toml").read_text(), tmp_path).console
    assert settings.public_url is not None
    for file in ("nginx/tocsin.conf", "caddy/Caddyfile"):
        text = (DEPLOY / file).read_text()
        assert f"127.0.0.1:{settings.port}" in text
        assert settings.public_url.removeprefix("https://") in text


def test_the_proxies_lead_to_where_tocsin_listens(tmp_path: Path) -> None:
    settings = settings_of((DEPLOY / "tocsin.toml").read_text(), tmp_path)
    for file in ("nginx/tocsin.conf", "caddy/Caddyfile"):
        assert f"127.0.0.1:{settings.server.port}" in (DEPLOY / file).read_text()


# -- the README --------------------------------------------------------------------------------------------------------


def test_the_readme_names_files_that_there_are() -> None:
    text = (DEPLOY / "README.md").read_text()
    linked = re.findall(r"\]\(([^)#]+)\)", text)
    assert linked
    assert [link for link in linked if not (DEPLOY / link).exists()] == []
    commands = [
        line[2:] for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
    ]
    words = [word.rstrip(")") for line in commands for word in shlex.split(line, comments=True)]
    named = [word for word in words if word.startswith("deploy/")]
    assert named
    made = {"deploy/container/master.key"}
    assert [path for path in named if path not in made and not (ROOT / path).exists()] == []


def test_the_proxies_let_through_what_the_api_takes() -> None:
    """nginx's `m` is 1024 times 1024 bytes; Caddy's `MB` would be a million."""
    assert Settings().ingest.max_bytes == 8 * 1024 * 1024
    assert re.search(r"client_max_body_size 8m;", (DEPLOY / "nginx/tocsin.conf").read_text())
    assert re.search(r"max_size 8MiB$", (DEPLOY / "caddy/Caddyfile").read_text(), re.MULTILINE)
