"""Batch jobs: very large image sets into files, resumable after anything, on one host or on Ray. Extra: [jobs].

options   what a job is asked to do            plan      rows on disk, cut into shards
inputs/   folders, lists, tables, archives     reader    row -> encoded image
known, unique_paths, listing   which rows are new, what they are called, whether any changed
sender    image -> embedding, through outages  pipeline  reading, sending and writing at once
worker    one pipeline over some shards        engines/  this process, several, Ray
shard_files, commit   the files, whole or not at all
prepare, record, locks   the same job goes on; another is refused
verification, summary   what is there, proved and added up
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metric_learn_client.jobs.api import embed_dataset
    from metric_learn_client.jobs.errors import InputError, JobError, OutageError, OutputError, RefusedError
    from metric_learn_client.jobs.observer import Observer
    from metric_learn_client.jobs.ray_data import RayEmbedder
    from metric_learn_client.jobs.summary import JobSummary
    from metric_learn_client.jobs.verification import Verification, verify

# Imported when first asked for: the command line reads jobs.options and must not wait for Arrow.
_HOMES = {
    "InputError": "errors",
    "JobError": "errors",
    "JobSummary": "summary",
    "Observer": "observer",
    "OutageError": "errors",
    "OutputError": "errors",
    "RayEmbedder": "ray_data",
    "RefusedError": "errors",
    "Verification": "verification",
    "embed_dataset": "api",
    "verify": "verification",
}

__all__ = [
    "InputError",
    "JobError",
    "JobSummary",
    "Observer",
    "OutageError",
    "OutputError",
    "RayEmbedder",
    "RefusedError",
    "Verification",
    "embed_dataset",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
