"""The servable's methods as the wire sees them: one input tensor each, one embedding back."""

from __future__ import annotations

from dataclasses import dataclass

from metric_learn_client.wire import (
    ITEM_IMAGE,
    ITEM_PIXELS,
    METHOD_EMBED,
    METHOD_EMBED_PIXELS,
    PIXELS_SHAPE,
    DataType,
)

VERSION = "[1-9][0-9]{0,9}"  # as a path or a model's name has it: a regular expression


@dataclass(frozen=True)
class Method:
    """shapes: those accepted; the first is what MindSpore Serving gets. size_bytes: of one tensor, 0 = any."""

    name: str
    item: str
    dtype: DataType
    shapes: tuple[tuple[int, ...], ...]
    size_bytes: int


METHODS = {
    method.name: method
    for method in (
        Method(METHOD_EMBED, ITEM_IMAGE, DataType.MS_BYTES, ((1,), ()), 0),
        Method(
            METHOD_EMBED_PIXELS,
            ITEM_PIXELS,
            DataType.MS_UINT8,
            (PIXELS_SHAPE,),
            PIXELS_SHAPE[0] * PIXELS_SHAPE[1] * PIXELS_SHAPE[2],
        ),
    )
}
