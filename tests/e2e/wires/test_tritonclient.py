"""tritonclient against the real server: its four clients, each with its own defaults."""

import asyncio
import ssl
import threading

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

CLIENTS = {
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
}
MODEL = "metric_learn"
DEADLINE_S = 120
OVERLOADED = {"grpc": "StatusCode.RESOURCE_EXHAUSTED", "http": "429"}
UNAUTHENTICATED = {"grpc": "StatusCode.UNAUTHENTICATED", "http": "401"}
INVALID = {"grpc": "StatusCode.INVALID_ARGUMENT", "http": "400"}
NOT_FOUND = {"grpc": "StatusCode.NOT_FOUND", "http": "404"}


@pytest.fixture(params=CLIENTS)
def kind(request):
    return request.param


def wire_of(kind):
    return kind.partition(".")[0]


def call(kind, server, function, *, ca=None):
    """What `function(client)` gives, with one client of that kind. ca: the authority of a server with TLS."""
    module, wire = CLIENTS[kind], wire_of(kind)
    options = {}
    if ca is not None and wire == "grpc":
        options = {"ssl": True, "root_certificates": str(ca)}
    elif ca is not None and kind == "http":
        options = {"ssl": True, "ssl_options": {"ca_certs": str(ca)}}
    elif ca is not None:
        options = {"ssl": True, "ssl_context": ssl.create_default_context(cafile=str(ca))}
    endpoint = server.endpoint if wire == "grpc" else server.api_endpoint
    if not kind.endswith(".aio"):
        with module.InferenceServerClient(endpoint, **options) as client:
            return function(client)

    async def run():
        async with module.InferenceServerClient(endpoint, **options) as client:
            return await function(client)

    return asyncio.run(run())


def image_input(kind, pictures, **options):
    array = np.array(pictures, dtype=object)
    return CLIENTS[kind].InferInput("image", list(array.shape), "BYTES"), array, options


def infer(kind, server, tensor, *, ca=None, **options):
    """The client's result. tensor: what `image_input` gives, or an array of pixels."""
    if isinstance(tensor, np.ndarray):
        tensor = CLIENTS[kind].InferInput("pixels", list(tensor.shape), "UINT8"), tensor, {}
    given, array, data_options = tensor
    given.set_data_from_numpy(array, **data_options)
    if wire_of(kind) == "grpc":
        options["client_timeout"] = DEADLINE_S
    else:
        options["headers"] = {**options.get("headers", {}), "x-request-timeout-s": str(DEADLINE_S)}
    return call(kind, server, lambda client: client.infer(MODEL, [given], **options), ca=ca)


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


def test_one_bad_picture_fails_the_call_and_is_named(kind, server, pictures):
    mixed = [pictures[0], b"no picture", pictures[1]]
    with pytest.raises(InferenceServerException) as caught:
        infer(kind, server, image_input(kind, mixed))
    assert caught.value.status() == INVALID[wire_of(kind)]
    assert caught.value.message().startswith("image[1]: E_UNSUPPORTED: ")


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


def test_tls_with_the_right_token_answers_and_a_wrong_token_is_refused(kind, secured, pictures, grpc_rows):
    def infer_with(token):
        headers = {"authorization": f"Bearer {token}"}
        return infer(kind, secured.server, image_input(kind, pictures[:1]), ca=secured.ca, headers=headers)

    assert (infer_with(secured.token).as_numpy("embedding") == grpc_rows[:1]).all()
    with pytest.raises(InferenceServerException) as caught:
        infer_with("another-token-of-16-or-more")
    assert caught.value.status() == UNAUTHENTICATED[wire_of(kind)]


def test_overload_is_an_error_of_its_own(kind, secured, pictures):
    """There is room for one of these calls; of four that are sent together some are refused, and none is lost."""
    outcomes, together = [], threading.Barrier(4)

    def send():
        tensor = image_input(kind, pictures)
        together.wait(30)
        try:
            headers = {"authorization": f"Bearer {secured.token}"}
            outcomes.append(infer(kind, secured.server, tensor, ca=secured.ca, headers=headers).as_numpy("embedding"))
        except InferenceServerException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    refused = [each for each in outcomes if isinstance(each, InferenceServerException)]
    assert len(outcomes) == 4 and refused and len(refused) < 4
    assert {each.status() for each in refused} == {OVERLOADED[wire_of(kind)]}
    assert "try again later" in refused[0].message()
