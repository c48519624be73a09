"""What the tests do with the kserve package, in a process of its own: it and tritonclient register the same messages,
which one process takes once. Arguments and results are plain values.
"""

import asyncio
import ssl

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODEL = "metric_learn"
DEADLINE = {"x-request-timeout-s": "60"}  # the package's own timeout, which it tells over gRPC alone


def infer(wire, endpoint, pictures, *, ca=None, token="", parameters=None, binary_output=True, pixels=None):
    """{"rows", "id", "version", "parameters"} of a call, or {"error", "message", "retry_after"} where it fails."""
    array = np.array(pictures, dtype=object) if pixels is None else pixels
    name, datatype = ("image", "BYTES") if pixels is None else ("pixels", "UINT8")
    given = InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    outputs = [RequestedOutput("embedding", {"binary_data": binary_output})] if wire == "http" else None
    request = InferRequest(MODEL, [given], "mine", parameters=parameters, request_outputs=outputs)
    return asyncio.run(_grpc(endpoint, request, ca, token) if wire == "grpc" else _rest(endpoint, request, ca, token))


def ask(wire, endpoint):
    """[server live, server ready, model ready]."""

    async def grpc_answers():
        async with InferenceGRPCClient(endpoint) as client:
            return [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready(MODEL)]

    async def rest_answers():
        base = f"http://{endpoint}"
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            live, ready = await client.is_server_live(base), await client.is_server_ready(base)
            return [live, ready, await client.is_model_ready(base, MODEL)]

    return asyncio.run(grpc_answers() if wire == "grpc" else rest_answers())


async def _grpc(endpoint, request, ca, token):
    options = {"use_ssl": True, "root_certificates": str(ca)} if ca else {}
    async with InferenceGRPCClient(endpoint, **options) as client:
        try:
            response = await client.infer(request, headers=_headers(token).items() or None)
        except grpc.RpcError as error:
            metadata = dict(error.trailing_metadata() or ())
            retry_after = metadata.get("x-metric-learn-retry-after-ms", "")
            return {"error": error.code().name, "message": error.details(), "retry_after": retry_after}
    parameters = {key: value.string_param for key, value in response.outputs[0].parameters.items()}
    return _result(response, parameters)


async def _rest(endpoint, request, ca, token):
    verify = ssl.create_default_context(cafile=str(ca)) if ca else True
    base = f"https://{endpoint}" if ca else f"http://{endpoint}"
    async with InferenceRESTClient(RESTConfig(protocol="v2", verify=verify)) as client:
        try:
            response = await client.infer(base, request, MODEL, headers={**_headers(token), **DEADLINE})
        except httpx.HTTPStatusError as error:
            answer = error.response
            retry_after = answer.headers.get("retry-after", "")
            return {"error": answer.status_code, "message": answer.json()["error"], "retry_after": retry_after}
    return _result(response, dict(response.outputs[0].parameters or {}))


def _headers(token):
    return {"authorization": f"Bearer {token}"} if token else {}


def _result(response, parameters):
    output = response.outputs[0]
    rows = output.as_numpy().astype(np.float32)
    return {"rows": rows, "id": response.id, "name": response.model_name, "parameters": parameters}
