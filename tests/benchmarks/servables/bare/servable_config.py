"""The network alone: pixels that stay in memory, run after run, timed around Model.call inside the worker."""

import json
import os
import time

import numpy as np
from mindspore_serving.server import register

WORKER = json.loads(os.environ["METRIC_LEARN_WORKER"])
CONTEXT = register.Context(thread_num=WORKER["threads"])
CONTEXT.append_device_info(register.CPUDeviceInfo(precision_mode="origin"))
MODELS = {
    size: register.declare_model(f"metric_learn_b{size}.mindir", "MindIR", context=CONTEXT)
    for size in WORKER["batch_sizes"]
}
PIXELS = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)


def repeat(order):
    """int32 [batch size, runs] -> float64 [runs, 2]: wall and CPU seconds of each."""
    size, runs = (int(number) for number in order)
    batch = [[PIXELS]] * size
    seconds = np.empty((runs, 2))
    for run in seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        MODELS[size].call(batch)
        run[:] = time.perf_counter() - wall, time.process_time() - cpu
    return seconds


@register.register_method(output_names=["seconds"])
def bare(order):
    seconds = register.add_stage(repeat, order, outputs_count=1)
    return seconds
