"""MindSpore Serving as its own ResNet example uses it: a Python function per image, one MindIR, one behind it.

The example decodes and transforms per instance, then a model stage, then a Python stage. Batch size 16 as its largest.
"""

import json
import os

import cv2
import numpy as np
from mindspore_serving.server import register

WORKER = json.loads(os.environ["METRIC_LEARN_WORKER"])
CONTEXT = register.Context(thread_num=WORKER["threads"])
CONTEXT.append_device_info(register.CPUDeviceInfo(precision_mode="origin"))
MODEL = register.declare_model("metric_learn_b16.mindir", "MindIR", context=CONTEXT)


def to_pixels(image):
    pixels = cv2.imdecode(image, cv2.IMREAD_COLOR)
    height, width = pixels.shape[:2]
    factor = 224.0 / min(height, width)
    size = (round(width * factor), round(height * factor))
    short = cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4)
    return np.ascontiguousarray(cv2.resize(short, (224, 224), interpolation=cv2.INTER_LINEAR))


def to_unit_norm(features):
    return features / np.linalg.norm(features)


@register.register_method(output_names=["embedding"])
def embed(image):
    pixels = register.add_stage(to_pixels, image, outputs_count=1)
    features = register.add_stage(MODEL, pixels, outputs_count=1)
    embedding = register.add_stage(to_unit_norm, features, outputs_count=1)
    return embedding
