"""The servable metric_learn: models, stages and methods wired together, and nothing else."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# MindSpore Serving reads the signatures of methods and stages itself.

from mindspore_serving.server import register

from . import stages

context = register.Context(thread_num=stages.WORKER["threads"])
if stages.WORKER["device"] == "cpu":
    context.append_device_info(register.CPUDeviceInfo(precision_mode="origin"))
else:
    context.append_device_info(register.AscendDeviceInfo())

# MindSpore Serving copies a Model's input, runs it and hands its output on, one after the other in a thread of its own.
# Where a batch size has several Models, one is copied to while another runs. They are told apart by their file's name.
for size in stages.SIZES:
    stages.MODELS[size] = [
        register.declare_model(
            "./" * copy + stages.WORKER["models"][str(size)],
            "MindIR",
            context=context,
            config_file=stages.WORKER.get("lite_config"),
        )
        for copy in range(stages.COPIES.get(str(size), 1))
    ]

PACKED = 64  # batches that the first stage takes at once: all that wait, so that all are decoded


def embed_batch(batch):
    ticket = register.add_stage(stages.preprocess, batch, outputs_count=1, batch_size=PACKED)
    features = register.add_stage(stages.embed, ticket, outputs_count=1, batch_size=1)
    return register.add_stage(stages.l2_normalize, features, outputs_count=1, batch_size=1)


# Both take batches of either kind: MindSpore Serving takes turns between them (servable.gateway.queue.backend_request).
# With a third one they would not be fair: its turn goes wrong behind a method that is not the last by name.
@register.register_method(output_names=["embedding"])
def embed(image):
    embedding = embed_batch(image)
    return embedding


@register.register_method(output_names=["embedding"])
def embed_pixels(pixels):
    embedding = embed_batch(pixels)
    return embedding
