"""What both peers share: the ONNX network in ONNX Runtime, and OpenCV preprocessing as a careful user writes it.

The same weights, pictures and steps as the product: float32, two threads, batches of up to 16.
"""

from __future__ import annotations

import os

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
THREADS = len(os.sched_getaffinity(0))
MAX_BATCH = 16


def load_network(path: str) -> onnxruntime.InferenceSession:
    """The exported graph with a free batch dimension: MindSpore writes a fixed one."""
    cv2.setNumThreads(1)
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def preprocess(image: bytes) -> npt.NDArray[np.float32]:
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    height, width = pixels.shape[:2]
    factor = 224.0 / min(height, width)
    size = (round(width * factor), round(height * factor))
    short = cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4)
    square = cv2.resize(short, (224, 224), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    return np.ascontiguousarray(((square / 255.0 - MEAN) / STD).transpose(2, 0, 1), np.float32)


def embed(network: onnxruntime.InferenceSession, images: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    (features,) = network.run(None, {network.get_inputs()[0].name: np.stack(images)})
    unit: npt.NDArray[np.float32] = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit
