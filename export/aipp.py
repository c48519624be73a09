"""CANN's AIPP: the unit in front of an Ascend chip's network that can normalise pixels. Its configuration; pure text.

The chip then gets uint8 NHWC as ever, and does what export/network.py has in the graph: for each channel
(pixel - mean_chn - min_chn) * var_reci_chn, as NCHW. Source: CANN's ATC guide, "AIPP configuration"; the model zoo's
own one is research/cv/metric_learn, infer/convert/aipp.cfg. Not tried on a device, and so off unless asked for.
"""

from __future__ import annotations

from export.facts import ModelFacts

FILE_NAME = "aipp.cfg"


def aipp_config(facts: ModelFacts) -> str:
    """The file's text. Channels stay in the order of the bytes, BGR, as in training."""
    side = facts.input_side_px
    lines = [
        "aipp_mode: static",
        "input_format: RGB888_U8",  # three bytes a pixel; nothing is swapped or converted
        "csc_switch: false",
        "rbuv_swap_switch: false",
        f"src_image_size_w: {side}",
        f"src_image_size_h: {side}",
    ]
    for channel, (mean, std) in enumerate(zip(facts.mean, facts.std)):
        lines += [
            f"mean_chn_{channel}: 0",  # whole numbers only
            f"min_chn_{channel}: {mean * 255:.9g}",
            f"var_reci_chn_{channel}: {1 / (std * 255):.9g}",
        ]
    return "aipp_op {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"
