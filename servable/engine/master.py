"""Becomes the MindSpore Serving master: `python -m servable.engine.master SETTINGS.json PARENT_PID`.

Imports nothing but the standard library before MindSpore Serving itself, so that it starts at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from servable.engine.settings import MasterSettings

MAX_MESSAGE_MB = 512  # MindSpore Serving's own upper bound
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(settings: MasterSettings) -> None:
    """Becomes the MindSpore Serving master. Returns after the start; its threads keep the process alive."""
    from mindspore_serving import server

    config = server.ServableStartConfig(
        servable_directory=settings.servable_directory,
        servable_name=settings.servable_name,
        device_ids=list(settings.device_ids),
        version_number=settings.version_number,
        device_type=settings.device_type,
        num_parallel_workers=settings.workers,
    )
    server.start_servables(config, enable_lite=True)  # MindSpore Lite runs every target, a 910 too
    server.start_grpc_server(settings.address, max_msg_mb_size=MAX_MESSAGE_MB)


def end_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """The kernel sends the signal when the server dies, however it dies; workers watch the master themselves."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before
        sys.exit(1)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[2]))
    document = json.loads(Path(sys.argv[1]).read_text())
    document["device_ids"] = tuple(document["device_ids"])
    serve(MasterSettings(**document))
