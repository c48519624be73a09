"""Servable of `export verify`: every MindIR of a version, with nothing before or behind the model."""

# mypy: disable-error-code="no-untyped-def"
# MindSpore Serving reads the signatures of methods and stages itself.

import json
import os

import numpy as np
from mindspore_serving.server import register

from servable.engine.settings import WORKER_VARIABLE, ProbeSettings

WORKER: ProbeSettings = json.loads(os.environ[WORKER_VARIABLE])
CONTEXT = register.Context(thread_num=WORKER["threads"])
CONTEXT.append_device_info(register.CPUDeviceInfo(precision_mode="origin"))
MODELS = [
    (size, register.declare_model(f"metric_learn_b{size}.mindir", "MindIR", context=CONTEXT))
    for size in WORKER["batch_sizes"]
]


def features_of_every_size(pixels):
    """uint8 [224, 224, 3] -> float32 [sizes, 2048]: the last row of a full batch of each size."""
    return np.stack([model.call([[pixels]] * size)[-1][0] for size, model in MODELS])


@register.register_method(output_names=["features"])
def probe(pixels):
    features = register.add_stage(features_of_every_size, pixels, outputs_count=1)
    return features
