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
        stages.WORKER["models"][str(size)], "MindIR", context=context, config_file=stages.WORKER.get("lite_config")
    )

BATCH = max(stages.SIZES)


@register.register_method(output_names=["embedding"])
def embed(image):
    pixels = register.add_stage(stages.preprocess, image, outputs_count=1, batch_size=BATCH * stages.AHEAD)
    features = register.add_stage(stages.embed, pixels, outputs_count=1, batch_size=BATCH)
    embedding = register.add_stage(stages.l2_normalize, features, outputs_count=1, batch_size=BATCH)
    return embedding


@register.register_method(output_names=["embedding"])
def embed_pixels(pixels):
    checked = register.add_stage(stages.check_pixels, pixels, outputs_count=1, batch_size=BATCH)
    features = register.add_stage(stages.embed, checked, outputs_count=1, batch_size=BATCH)
    embedding = register.add_stage(stages.l2_normalize, features, outputs_count=1, batch_size=BATCH)
    return embedding
