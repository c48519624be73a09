"""KServe's manifests: their containers by Kubernetes' schemas, and what the server makes of their environment.

The kserve package's own model classes look at them in tests/e2e/wires, where that package is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import kubernetes_validate
import pytest
import yaml

from servable.config.sections import Config
from servable.doctor.consistency import inconsistencies
from servable.gateway.http.routes import Question
from servable.gateway.inference.rest_routes import inference_routes

HTTP_PORT, GRPC_PORT = 8080, 9000  # what KServe's own runtimes listen on


@pytest.fixture(scope="module")
def runtime(deploy: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((deploy / "kserve" / "runtime.yaml").read_text())
    return document


@pytest.fixture
def container(runtime: dict[str, Any]) -> dict[str, Any]:
    (found,) = runtime["spec"]["containers"]
    return dict(found)


@pytest.fixture
def config(container: dict[str, Any], deploy: Path, configuration: Callable[..., Config]) -> Config:
    environment = {entry["name"]: entry.get("value", "1") for entry in container["env"]}
    return configuration(deploy / "server-cpu.yaml", environment)  # what the image holds


def test_its_pod_is_valid(runtime: dict[str, Any]) -> None:
    pod = {key: runtime["spec"][key] for key in ("containers", "volumes")}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_server_listens_where_kserve_looks_for_it(config: Config, container: dict[str, Any]) -> None:
    assert config.server.api_address == f"0.0.0.0:{HTTP_PORT}"
    assert config.server.address == f"0.0.0.0:{GRPC_PORT}"
    assert [port["containerPort"] for port in container["ports"]] == [HTTP_PORT]
    assert (config.backend.threads, config.backend.preprocess_threads) == (1, 1)  # the CPU limit
    assert str(config.model.directory) == "/mnt/models"
    assert [str(problem) for problem in inconsistencies(config)] == []


def test_probes_ask_for_pages_that_need_no_token(container: dict[str, Any], config: Config) -> None:
    routes = inference_routes(None, config.limits, lambda _: True)  # type: ignore[arg-type]
    public = {route.path for route in routes if isinstance(route, Question) and route.public}
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in public
        assert container[probe]["httpGet"]["port"] == HTTP_PORT


def test_every_mount_has_its_volume(runtime: dict[str, Any], container: dict[str, Any], config: Config) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in runtime["spec"]["volumes"]}
    assert str(config.server.run_dir.parent) == mounts["run"]
    user = f"USER {container['securityContext']['runAsUser']}:{container['securityContext']['runAsGroup']}\n"
    assert user in (Path(__file__).parents[4] / "configs/deploy/docker/cpu.Dockerfile").read_text()


def test_its_examples_name_the_runtime_and_a_format_that_it_takes(runtime: dict[str, Any], deploy: Path) -> None:
    formats = [(each["name"], each["version"]) for each in runtime["spec"]["supportedModelFormats"]]
    for service in yaml.safe_load_all((deploy / "kserve" / "inferenceservice.yaml").read_text()):
        model = service["spec"]["predictor"]["model"]
        assert model["runtime"] == runtime["metadata"]["name"]
        assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
        assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
        for port in model.get("ports", ()):
            assert (port["name"], port["containerPort"]) == ("h2c", GRPC_PORT)
