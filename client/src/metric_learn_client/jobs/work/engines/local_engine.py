"""One worker in this process."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import Any

from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.work.pipeline import ShardTask
from metric_learn_client.jobs.work.worker import WorkerSpec, work


def run(
    spec: WorkerSpec, tasks: Sequence[ShardTask], stop: threading.Event, observer: Observer
) -> Generator[dict[str, Any], None, None]:
    if tasks:
        yield from work(spec, tasks, stop, observer.advanced, observer.notice)
