"""Who does the shards: this process, several, or Ray. All run jobs.work.worker.work and so write the same files."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Generator, Sequence
from typing import Any, Callable

from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.work.pipeline import ShardTask
from metric_learn_client.jobs.work.worker import WorkerSpec

# Does the tasks and yields the stats of every shard as it is committed; ends its workers, however it ends.
Engine = Callable[[WorkerSpec, Sequence[ShardTask], threading.Event, Observer], Generator[dict[str, Any], None, None]]


def engine(name: str) -> Engine:
    """The engine of that name; its module is imported only now, because Ray takes seconds."""
    found: Engine = importlib.import_module(f"{__name__}.{name}_engine").run
    return found
