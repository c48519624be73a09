"""tritonclient's four clients, each with its own defaults, behind one function."""

import asyncio
import ssl

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

CLIENTS = {
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
}
MODEL = "metric_learn"
DEADLINE_S = 120


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
