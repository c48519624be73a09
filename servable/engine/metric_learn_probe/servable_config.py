"""Servable of `export verify`: every MindIR of a version, with nothing before or behind the model."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
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


def features_of_every_size(instances):
    """uint8 [224, 224, 3] each -> float32 [sizes, 2048] each: full batches of each size, of pictures as they come."""
    pictures = [[pixels] for (pixels,) in instances]
    yield from np.stack([list(rows_of(model, size, pictures)) for size, model in MODELS], axis=1)


def rows_of(model, size, pictures):
    for start in range(0, len(pictures), size):
        batch = pictures[start : start + size]
        filled = batch + batch[-1:] * (size - len(batch))
        yield from (row for (row,) in model.call(filled)[: len(batch)])


@register.register_method(output_names=["features"])
def probe(pixels):
    features = register.add_stage(
        features_of_every_size, pixels, outputs_count=1, batch_size=max(WORKER["batch_sizes"])
    )
    return features
