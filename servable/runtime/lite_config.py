"""MindSpore Lite's configuration for a device: of a server's start, and of a conversion before it. Pure text."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

# CANN's names, which backend.precision_mode takes -> those of MindSpore Lite 2.0.0, which translates them back. It
# refuses CANN's own names, and so does MindSpore Serving Lite's: only a configuration file gets through both.
LITE_PRECISION = {
    "force_fp16": "enforce_fp16",
    "allow_fp32_to_fp16": "preferred_fp32",
    "must_keep_origin_dtype": "enforce_origin",
    "allow_mix_precision": "preferred_optimal",
}


def ascend_context(precision_mode: str, aipp_config: Optional[Path] = None) -> str:
    """The file's text. precision_mode: CANN's name. aipp_config: what the chip does with pixels before the network."""
    lines = ["[ascend_context]", f"precision_mode={LITE_PRECISION[precision_mode]}"]
    if aipp_config is not None:
        lines.append(f"insert_op_config_file_path={aipp_config}")
    return "\n".join(lines) + "\n"
