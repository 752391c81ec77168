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
from pathlib import Path
from typing import Any, Final

import httpx
import kubernetes_validate
import pytest
import yaml

from tocsin.api.health import READY
from tocsin.domain.nodes import NodeRole
from tocsin.emulator.credentials import write_credentials
from tocsin.settings import Settings, load
from tocsin.store.master_keys import SYSTEMD_CREDENTIAL
from tocsin_client import FaxNew
from tocsin_client.pytest_plugin import tocsin, tocsin_server  # noqa: F401 (fixtures)
from tocsin_client.testing import LocalTocsin

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = "1.31"
MOST_EXPOSED: Final = 2.0
"""`systemd-analyze security`, from 0 (safe) to 10."""


ONE_NODE: Final = "kubernetes/tocsin.yaml"
CLUSTER: Final = "kubernetes/cluster/tocsin.yaml"


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


def unit() -> dict[str, str]:
    lines = (DEPLOY / "systemd/tocsin.service").read_text().splitlines()
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


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze")
    text = (DEPLOY / "systemd/tocsin.service").read_text()
    # Only the program is not there: everything else is verified as it is.
    (tmp_path / "tocsin.service").write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    verified = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "tocsin.service")], capture_output=True, text=True, timeout=60
    )
    said = [line for line in verified.stderr.splitlines() if "tocsin.service" in line]
    assert (verified.returncode, said) == (0, [])


def test_the_unit_may_do_little() -> None:
    analyze = needs("systemd-analyze")
    command = [analyze, "security", "--offline=true", str(DEPLOY / "systemd/tocsin.service")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    exposure = re.search(r"Overall exposure level for tocsin.service: ([0-9.]+)", answer.stdout)
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
    wanted = "".join((ROOT / "requirements" / f"{extra}.in").read_text() for extra in ("postgres", "nats"))
    assert set(re.findall(r"^([a-z0-9-]+)", wanted, re.MULTILINE)) <= names
    assert pinned.count("--hash=sha256:") >= len(names)
    assert not pinned.rstrip().endswith("\\"), "whole entries"


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


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def test_no_manifest_is_forgotten_here() -> None:
    assert {ONE_NODE, CLUSTER} == {str(one.relative_to(DEPLOY)) for one in (DEPLOY / "kubernetes").rglob("*.yaml")}


@pytest.mark.parametrize(
    "found",
    [*documents(ONE_NODE), *documents(CLUSTER)],
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


# -- proxies -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def behind_nginx(tocsin: LocalTocsin, tmp_path: Path) -> Iterator[httpx.Client]:  # noqa: F811
    """A client of nginx with the configuration as it is, but for addresses and files; a real tocsin is behind it."""
    nginx = needs("nginx")
    files = write_credentials(tmp_path / "tls")
    text = (DEPLOY / "nginx/tocsin.conf").read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for was, now in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("127.0.0.1:8080", tocsin.url.removeprefix("http://")),
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
