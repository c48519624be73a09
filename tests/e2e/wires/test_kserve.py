"""The kserve package against the real server, beyond what every client does; the manifests against its classes."""

import numpy as np
import pytest
import yaml

from ..conftest import REPOSITORY
from .child import Child

MANIFESTS = REPOSITORY / "configs" / "deploy" / "kserve"


@pytest.fixture(scope="module")
def child():
    """child(module, name, *arguments): the future of that function's result, by a process that may import kserve."""
    made = Child(1)
    yield made
    made.close()


@pytest.fixture(params=["grpc", "http"])
def wire(request):
    return request.param


def endpoint_of(server, wire):
    return server.endpoint if wire == "grpc" else server.api_endpoint


def infer(child, wire, server, pictures, **options):
    return child("kserve_client", "infer", wire, endpoint_of(server, wire), pictures, **options).result(120)


@pytest.mark.parametrize("binary_output", [True, False])
def test_golden_pictures_give_the_rows_of_predict_bit_for_bit(child, wire, server, pictures, grpc_rows, binary_output):
    result = infer(child, wire, server, pictures, binary_output=binary_output)
    assert (result["rows"].view(np.uint32) == grpc_rows.view(np.uint32)).all()
    assert (result["id"], result["name"]) == ("mine", "metric_learn")


def test_pixels_are_taken(child, wire, server):
    pixels = np.random.default_rng(3).integers(0, 256, (2, 224, 224, 3), np.uint8)
    rows = infer(child, wire, server, None, pixels=pixels)["rows"]
    assert rows.shape == (2, 2048) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_one_bad_picture_is_a_row_of_nan_where_asked(child, wire, server, pictures, grpc_rows):
    mixed = [pictures[0], b"no picture", pictures[1]]
    result = infer(child, wire, server, mixed, parameters={"on_error": "null"})
    assert (result["rows"][[0, 2]] == grpc_rows[:2]).all() and np.isnan(result["rows"][1]).all()
    assert result["parameters"]["1"].startswith("E_UNSUPPORTED: ")


def test_server_and_model_are_live_and_ready(child, wire, server):
    assert child("kserve_client", "ask", wire, endpoint_of(server, wire)).result(60) == [True, True, True]


@pytest.mark.parametrize("name", sorted(path.name for path in MANIFESTS.glob("*.yaml")))
def test_a_manifest_is_what_kserves_classes_take(child, name):
    for manifest in yaml.safe_load_all((MANIFESTS / name).read_text()):
        assert child("kserve_models", "problems_of", manifest).result(60) == []


def test_a_mistake_in_a_manifest_is_found(child):
    runtime = yaml.safe_load((MANIFESTS / "runtime.yaml").read_text())
    runtime["spec"]["protocolVersion"] = runtime["spec"].pop("protocolVersions")
    runtime["spec"]["volumes"][0]["emptyDir"]["size"] = "1Gi"
    runtime["spec"]["supportedModelFormats"] = {}
    del runtime["spec"]["containers"]
    found = child("kserve_models", "problems_of", runtime).result(60)
    for words in (
        "spec.protocolVersion: unknown",
        "emptyDir.size: unknown",
        "supportedModelFormats: is not list",
        "`containers`",
    ):
        assert any(words in problem for problem in found), (words, found)
