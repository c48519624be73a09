"""The servable metric_learn: models, stages and methods wired together, and nothing else."""

# mypy: disable-error-code="no-untyped-def"
# MindSpore Serving reads the signatures of methods and stages itself.

from mindspore_serving.server import register

from . import stages

context = register.Context(thread_num=stages.WORKER["threads"])
if stages.WORKER["device"] == "cpu":
    context.append_device_info(register.CPUDeviceInfo(precision_mode="origin"))
else:
    context.append_device_info(register.AscendDeviceInfo())

for size in stages.SIZES:
    stages.MODELS[size] = register.declare_model(
        f"metric_learn_b{size}.mindir", "MindIR", context=context, config_file=stages.WORKER.get("lite_config")
    )

PACKED = 64  # batches that the first stage takes at once: all that wait, so that all are decoded


@register.register_method(output_names=["embedding"])
def embed(image):
    ticket = register.add_stage(stages.preprocess, image, outputs_count=1, batch_size=PACKED)
    features = register.add_stage(stages.embed, ticket, outputs_count=1, batch_size=1)
    embedding = register.add_stage(stages.l2_normalize, features, outputs_count=1, batch_size=1)
    return embedding


@register.register_method(output_names=["embedding"])
def embed_pixels(pixels):
    ticket = register.add_stage(stages.check_pixels, pixels, outputs_count=1, batch_size=PACKED)
    features = register.add_stage(stages.embed, ticket, outputs_count=1, batch_size=1)
    embedding = register.add_stage(stages.l2_normalize, features, outputs_count=1, batch_size=1)
    return embedding
