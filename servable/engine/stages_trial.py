"""What a worker does with an image, in a process that may end: `python -m servable.engine.stages_trial PARENT_PID`.

An image was in a worker when it ended. Here it goes through the same stages, with nothing in the network's place, so
whatever it does to them ends this process alone. Images come on stdin (HEAD, bytes), one at a time; DONE on stdout says
that one came through, with an embedding or an error of its own, and the first DONE that images may come.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from typing import Any

import numpy as np

from servable.engine.master import end_with_parent
from servable.engine.packed_batch import images_head

HEAD = struct.Struct("<?I")  # whether it is pixels, bytes
DONE = b"."


class _NoNetwork:
    def call(self, instances: list[list[Any]]) -> list[tuple[Any]]:
        return [(np.ones(2048, np.float32),)] * len(instances)


def _try_all(stages: Any, answers: int) -> None:
    stages.MODELS.update({size: [_NoNetwork()] for size in stages.SIZES})
    os.write(answers, DONE)
    while head := sys.stdin.buffer.read(HEAD.size):
        is_pixels, size = HEAD.unpack(head)
        image = sys.stdin.buffer.read(size)
        try:
            values: list[Any] = [np.frombuffer(images_head([image], pixels=is_pixels) + image, np.uint8)]
            for stage in (stages.preprocess, stages.embed, stages.l2_normalize):
                values = list(stage(tuple((value,) for value in values)))
        except Exception:  # its error, as in a worker: it ends nothing
            pass
        os.write(answers, DONE)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]), signal.SIGKILL)
    answers = os.dup(1)
    os.dup2(2, 1)  # what the stages print is no answer
    from servable.metric_learn import stages

    _try_all(stages, answers)
