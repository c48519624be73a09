"""The Kubernetes manifests: Kubernetes' own schemas, and that they fit each other and the server."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable

import kubernetes_validate
import pytest
import yaml

from servable.config import REPOSITORY
from servable.config.sections import Config
from servable.doctor.consistency import inconsistencies

KUBERNETES = REPOSITORY / "configs" / "deploy" / "kubernetes"
VERSIONS = ("1.30", kubernetes_validate.latest_version())  # the oldest promised and the newest known
OVERLAYS = sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
BARE = sorted(path for path in KUBERNETES.glob("base/*.yaml") if path.name != "kustomization.yaml")
BARE += sorted(KUBERNETES.glob("*.yaml"))
PAGES = {"/livez", "/readyz", "/metrics"}

Objects = dict[str, list[dict[str, Any]]]


def validate(document: dict[str, Any]) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)  # strict: no unknown key


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def objects(overlay: str) -> Objects:
    return build(overlay)


@functools.cache
def build(overlay: str) -> Objects:
    """The overlay's objects by kind, as `kubectl apply -k` would send them."""
    folder = str(KUBERNETES / "overlays" / overlay)
    if shutil.which("kustomize"):
        command = ["kustomize", "build", folder]
    elif shutil.which("kubectl"):
        command = ["kubectl", "kustomize", folder]
    else:
        pytest.skip("neither kustomize nor kubectl is installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: Objects = {}
    for document in yaml.safe_load_all(done.stdout):
        found.setdefault(document["kind"], []).append(document)
    return found


def pod(objects: Objects) -> dict[str, Any]:
    (deployment,) = objects["Deployment"]
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def environment(objects: Objects, cpu_limit: str) -> dict[str, str]:
    (container,) = pod(objects)["containers"]
    return {entry["name"]: entry.get("value", cpu_limit) for entry in container["env"]}


@pytest.mark.parametrize("path", BARE, ids=lambda path: path.name)
def test_a_manifest_is_valid_by_itself(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    assert documents
    for document in documents:
        validate(document)


def test_an_unknown_key_is_found() -> None:
    document = yaml.safe_load((KUBERNETES / "base" / "poddisruptionbudget.yaml").read_text())
    document["spec"]["maxUnavailabel"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(document)


def test_every_object_of_an_overlay_is_valid(objects: Objects) -> None:
    assert {"Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget", "ConfigMap"} <= set(objects)
    for documents in objects.values():
        for document in documents:
            validate(document)


def test_every_selector_means_the_pods(objects: Objects) -> None:
    (deployment,) = objects["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (policy,), (budget,) = objects["NetworkPolicy"], objects["PodDisruptionBudget"]
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [service["spec"]["selector"] for service in objects["Service"]]
    selectors += [policy["spec"]["podSelector"]["matchLabels"], budget["spec"]["selector"]["matchLabels"]]
    selectors += [spread["labelSelector"]["matchLabels"] for spread in pod(objects)["topologySpreadConstraints"]]
    for selector in selectors:
        assert selector and selector.items() <= labels.items()


def test_probes_and_ports_are_the_servers(objects: Objects, overlay: str, configuration: Callable[..., Config]) -> None:
    config = configuration(KUBERNETES / "overlays" / overlay.replace("-mesh", "") / "server.yaml")
    (container,) = pod(objects)["containers"]
    ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    assert ports == {
        "grpc": config.server.address.rpartition(":")[2],
        "api": config.server.api_address.rpartition(":")[2],
        "http": config.server.http_address.rpartition(":")[2],
    }
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"
        assert container[probe]["httpGet"]["path"] in PAGES
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"  # a backend that restarts is no reason to kill
    for service in objects["Service"]:
        assert [port["targetPort"] for port in service["spec"]["ports"]] == ["grpc", "api"]
    opened = {str(port["port"]) for rule in objects["NetworkPolicy"][0]["spec"]["ingress"] for port in rule["ports"]}
    assert opened == set(ports.values())


def test_a_pod_has_longer_to_end_than_the_server_takes(objects: Objects, stop_s: float) -> None:
    (container,) = pod(objects)["containers"]
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert pod(objects)["terminationGracePeriodSeconds"] >= float(seconds) + stop_s + 10


def test_a_pod_has_longer_to_start_than_the_backend_may_take(
    objects: Objects, overlay: str, configuration: Callable[..., Config]
) -> None:
    config = configuration(KUBERNETES / "overlays" / overlay.replace("-mesh", "") / "server.yaml")
    probe = pod(objects)["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= config.backend.start_timeout_s + 30


def test_the_pod_keeps_to_the_restricted_standard(objects: Objects, deploy: Path) -> None:
    spec = pod(objects)
    (container,) = spec["containers"]
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False and security["capabilities"] == {"drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"] is True
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    user = f"USER {spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}\n"
    for dockerfile in (deploy / "docker").glob("*.Dockerfile"):
        assert user in dockerfile.read_text()


def test_secrets_are_not_readable_by_everybody(objects: Objects) -> None:
    for volume in pod(objects)["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] & 0o007 == 0


def test_every_mount_has_its_volume_and_every_path_of_the_configuration_its_mount(
    objects: Objects, overlay: str, configuration: Callable[..., Config]
) -> None:
    (container,) = pod(objects)["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod(objects)["volumes"]}
    file = KUBERNETES / "overlays" / overlay.replace("-mesh", "") / "server.yaml"
    config = configuration(file, environment(objects, "1"))
    assert str(config.model.directory) == mounts["models"]
    assert str(config.server.run_dir.parent) == mounts["run"]  # the volume belongs to root, its folder to the server
    for path, name in ((config.security.tls_certificate, "tls"), (config.security.tokens_file, "auth")):
        assert (str(path.parent) if path else None) == mounts.get(name)


def test_shared_memory_is_larger_than_a_containers_usual_64_mb(objects: Objects) -> None:
    (shm,) = [volume for volume in pod(objects)["volumes"] if volume["name"] == "shm"]
    assert shm["emptyDir"]["medium"] == "Memory"
    assert int(shm["emptyDir"]["sizeLimit"].removesuffix("Mi")) > 64


def test_threads_follow_the_cpu_limit(objects: Objects, overlay: str, configuration: Callable[..., Config]) -> None:
    file = KUBERNETES / "overlays" / overlay.replace("-mesh", "") / "server.yaml"
    backend = configuration(file, environment(objects, "3")).backend
    assert (backend.threads, backend.preprocess_threads) == (3, 3)
    (container,) = pod(objects)["containers"]
    for entry in container["env"]:
        if "valueFrom" in entry:
            assert entry["valueFrom"]["resourceFieldRef"] == {"resource": "limits.cpu", "divisor": "1"}


def test_behind_a_mesh_the_server_accepts_plain_text_and_says_so(configuration: Callable[..., Config]) -> None:
    variables = environment(build("cpu-mesh"), "1")
    config = configuration(KUBERNETES / "overlays" / "cpu" / "server.yaml", variables)
    assert config.security.allow_insecure
    assert config.security.tls_certificate is None and config.security.tokens_file is None
    assert [str(problem) for problem in inconsistencies(config)] == []


@pytest.mark.parametrize("chip", ["Ascend310", "Ascend310P", "Ascend910"])
def test_an_ascend_overlay_asks_for_a_device_of_its_chips_family(chip: str) -> None:
    (container,) = pod(build(chip.lower()))["containers"]
    for kind in ("requests", "limits"):
        asked = [name for name in container["resources"][kind] if name.startswith("huawei.com/")]
        assert asked == [f"huawei.com/{chip}"] and container["resources"][kind][asked[0]] == "1"
