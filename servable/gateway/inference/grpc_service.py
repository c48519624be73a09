"""inference.GRPCInferenceService on the public port, beside MSService: the same call, and the questions about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Optional, TypeVar

import grpc
from google.protobuf.message import DecodeError

from metric_learn_client.wire.messages import (
    ModelMetadataRequest,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerLiveResponse,
    ServerReadyResponse,
)
from servable.config.sections import LimitsSection
from servable.gateway.backends import Backends, Served
from servable.gateway.call.calls import Calls
from servable.gateway.call.model_service import resolve
from servable.gateway.call.predict import GrpcCalls
from servable.gateway.call.questions import Questions
from servable.gateway.errors import invalid
from servable.gateway.inference import grpc_messages
from servable.gateway.inference.tensors import InferRequest, check_model

SERVICE = "inference.GRPCInferenceService"
_Message = TypeVar("_Message")


class InferenceService:
    """ready: whether a version is, None for the default one. authorize: raises CallError where a call has no token.

    Readiness is told to everybody, as by gRPC's own health service and the pages for probes.
    """

    def __init__(
        self,
        calls: Calls,
        questions: Questions,
        backends: Backends,
        limits: LimitsSection,
        ready: Callable[[Optional[Served]], bool],
        authorize: Callable[[Any], None],
    ) -> None:
        self._calls = calls
        self._questions = questions
        self._backends = backends
        self._limits = limits
        self._ready = ready
        self._authorize = authorize

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler]:
        infer: GrpcCalls[InferRequest] = GrpcCalls(
            self._calls,
            "oip-grpc",
            f"{SERVICE}/ModelInfer",
            "model_version",
            lambda body: grpc_messages.read_request(body, self._limits),
            grpc_messages.encode_response,
        )
        answers = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
        }
        return {
            f"/{SERVICE}/ModelInfer": grpc.stream_unary_rpc_method_handler(infer.handle),
            **{f"/{SERVICE}/{name}": self._questions.answers(answer) for name, answer in answers.items()},
        }

    async def _server_live(self, _body: bytes, _context: Any) -> bytes:
        return ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, _body: bytes, _context: Any) -> bytes:
        return ServerReadyResponse(ready=self._ready(None)).SerializeToString()

    async def _model_ready(self, body: bytes, _context: Any) -> bytes:
        request = _parse(ModelReadyRequest.FromString, body)
        served = resolve(self._backends, check_model(request.name, request.version), "version")
        return ModelReadyResponse(ready=self._ready(served)).SerializeToString()

    async def _server_metadata(self, _body: bytes, context: Any) -> bytes:
        self._authorize(context)
        return grpc_messages.describe_server()

    async def _model_metadata(self, body: bytes, context: Any) -> bytes:
        self._authorize(context)
        request = _parse(ModelMetadataRequest.FromString, body)
        resolve(self._backends, check_model(request.name, request.version), "version")
        return grpc_messages.describe_model([served.version for served in self._backends.all()])


def _parse(read: Callable[[bytes], _Message], body: bytes) -> _Message:
    try:
        return read(body)
    except DecodeError:
        raise invalid("request", "the body is not the message that this call takes") from None
