"""Predict calls to a MindSpore Serving on a socket: enough to wait for it and to probe it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Callable, Optional

import grpc
import numpy as np
import numpy.typing as npt

from metric_learn_client import wire

OPTIONS = [
    ("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", wire.MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),  # a successor on the same path must not inherit a broken connection
]
POLL_S = 0.05


def predict_pixels(
    target: str,
    pixels: Sequence[npt.NDArray[np.uint8]],
    *,
    servable: str,
    method: str,
    output: str,
    deadline_s: float,
) -> npt.NDArray[np.float32]:
    """uint8 [224, 224, 3] each -> float32 [N, 2048]. Raises grpc.RpcError, or RuntimeError with the reply's error."""
    request = wire.PredictRequest()
    request.servable_spec.name = servable
    request.servable_spec.method_name = method
    for image in pixels:
        tensor = request.instances.add().items[wire.ITEM_PIXELS]
        tensor.dtype = wire.DataType.MS_UINT8
        tensor.shape.dims.extend(image.shape)
        tensor.data = image.tobytes()
    with grpc.insecure_channel(target, options=OPTIONS) as channel:
        call = channel.unary_unary(wire.PREDICT_PATH)
        answer = call(request.SerializeToString(), timeout=deadline_s, wait_for_ready=True)
    reply = wire.PredictReply.FromString(answer)
    for error in reply.error_msg:
        if error.error_code:
            raise RuntimeError(error.error_msg.decode(errors="replace"))
    return np.stack([np.frombuffer(item.items[output].data, np.float32) for item in reply.instances])


def wait_until_serving(target: str, ended: Callable[[], Optional[int]], timeout_s: float) -> None:
    """Returns when the port accepts connections: MindSpore Serving opens it after every worker has registered.

    Raises RuntimeError where the process ends first, TimeoutError after `timeout_s`.
    """
    limit = time.monotonic() + timeout_s
    with grpc.insecure_channel(target, options=OPTIONS) as channel:
        ready = grpc.channel_ready_future(channel)
        while True:
            code = ended()
            if code is not None:
                raise RuntimeError(f"MindSpore Serving ended with exit code {code} before it was ready")
            try:
                ready.result(timeout=POLL_S)
                return
            except grpc.FutureTimeoutError:
                if time.monotonic() > limit:
                    ready.cancel()
                    raise TimeoutError(f"MindSpore Serving was not ready within {timeout_s:.0f} s") from None
