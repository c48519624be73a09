"""tritonclient against the real server, beyond what every client does (test_clients.py)."""

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from .triton_client import CLIENTS, MODEL, call, image_input, infer, wire_of

NOT_FOUND = {"grpc": "StatusCode.NOT_FOUND", "http": "404"}


@pytest.fixture(params=CLIENTS)
def kind(request):
    return request.param


def test_golden_pictures_give_the_rows_of_predict_bit_for_bit(kind, server, pictures, grpc_rows):
    result = infer(kind, server, image_input(kind, pictures), request_id="mine")
    rows = result.as_numpy("embedding")
    assert rows.dtype == np.float32 and (rows.view(np.uint32) == grpc_rows.view(np.uint32)).all()
    response = result.get_response()
    name, version, id = (
        (response["model_name"], response["model_version"], response["id"])
        if wire_of(kind) == "http"
        else (response.model_name, response.model_version, response.id)
    )
    assert (name, version, id) == (MODEL, "1", "mine")


def test_pixels_give_the_rows_of_predict(kind, server):
    pixels = np.random.default_rng(3).integers(0, 256, (2, 224, 224, 3), np.uint8)
    rows = infer(kind, server, pixels).as_numpy("embedding")
    assert rows.shape == (2, 2048) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    alone = infer(kind, server, pixels[1:]).as_numpy("embedding")
    assert (alone[0] == rows[1]).all()


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kind", ["http", "http.aio"], indirect=True)
def test_rows_in_json_and_in_binary_form_are_the_same_bits(kind, server, pictures, grpc_rows, binary):
    wanted = [CLIENTS[kind].InferRequestedOutput("embedding", binary_data=binary)]
    result = infer(kind, server, image_input(kind, pictures[:3]), outputs=wanted)
    assert ("data" in result.get_output("embedding")) is not binary
    rows = result.as_numpy("embedding").astype(np.float32)
    assert (rows.view(np.uint32) == grpc_rows[:3].view(np.uint32)).all()


def test_a_named_version_answers_and_an_unknown_one_is_not_found(kind, server, pictures, grpc_rows):
    rows = infer(kind, server, image_input(kind, pictures[:1]), model_version="1").as_numpy("embedding")
    assert (rows == grpc_rows[:1]).all()
    with pytest.raises(InferenceServerException) as caught:
        infer(kind, server, image_input(kind, pictures[:1]), model_version="7")
    assert caught.value.status() == NOT_FOUND[wire_of(kind)] and "served: 1" in caught.value.message()


def test_one_bad_picture_is_a_row_of_nan_where_asked(kind, server, pictures, grpc_rows):
    mixed = [pictures[0], b"no picture", pictures[1]]
    result = infer(kind, server, image_input(kind, mixed), parameters={"on_error": "null"})
    rows = result.as_numpy("embedding")
    assert (rows[[0, 2]] == grpc_rows[:2]).all() and np.isnan(rows[1]).all()
    output = result.get_output("embedding")
    text = output["parameters"]["1"] if wire_of(kind) == "http" else output.parameters["1"].string_param
    assert text.startswith("E_UNSUPPORTED: ")


def test_server_and_model_are_live_ready_and_described(kind, server):
    assert call(kind, server, lambda client: client.is_server_live())
    assert call(kind, server, lambda client: client.is_server_ready())
    assert call(kind, server, lambda client: client.is_model_ready(MODEL))
    assert call(kind, server, lambda client: client.is_model_ready(MODEL, "1"))
    described = call(kind, server, lambda client: client.get_model_metadata(MODEL))
    if wire_of(kind) == "http":
        assert described["versions"] == ["1"] and [each["name"] for each in described["outputs"]] == ["embedding"]
        assert "binary_tensor_data" in call(kind, server, lambda client: client.get_server_metadata())["extensions"]
    else:
        assert list(described.versions) == ["1"] and [each.name for each in described.outputs] == ["embedding"]
