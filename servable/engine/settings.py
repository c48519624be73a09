"""What the server hands to MindSpore Serving, as JSON: to the master in a file, to each worker in a variable.

Both interpreters import this; standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, TypedDict

WORKER_VARIABLE = "METRIC_LEARN_WORKER"


@dataclass(frozen=True)
class MasterSettings:
    """servable_directory/servable_name/version_number hold the files; address is "host:port" or "unix:path"."""

    servable_directory: str
    servable_name: str
    version_number: int
    address: str
    device_type: Optional[str]  # "cpu", "ascend"; None lets the runtime choose, without three probing processes
    device_ids: tuple[int, ...]
    workers: int


class WatchSettings(TypedDict):
    """What a device's worker proves itself with. directory: where its state goes (device_watch)."""

    directory: str
    golden_image: str
    golden_embedding: str
    limit: float  # a proof's greatest distance from the golden embedding
    check_s: float  # between full proofs
    row_check_s: float  # between golden rows of one Model


class _EveryWorker(TypedDict):
    device: str  # "cpu", "ascend"
    threads: int  # of the network
    batch_sizes: list[int]  # of the MindIRs that are loaded
    models: dict[str, str]  # batch size, as JSON writes it -> file that is loaded
    preprocess_threads: int
    run_overhead_images: float
    limits: dict[str, int]  # of metric_learn_client.preprocess.DecodeLimits
    run_dir: str  # outlives every child: the counters of batch_stats never go back


class WorkerSettings(_EveryWorker, total=False):
    """Of the servable metric_learn. All of these beside a device alone.

    lite_config: MindSpore Lite's file. copies: batch size, as JSON writes it -> how many Models of it are loaded.
    """

    copies: dict[str, int]
    lite_config: str
    watch: WatchSettings
