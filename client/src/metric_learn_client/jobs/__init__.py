"""Batch jobs: very large image sets into files, resumable after anything, on one host or on Ray. Extra: [jobs].

api       the Python door                      job       a job as a whole
options   what a job is asked to do            prepare   is this the job that the directory holds
dry_run   what it would do, and how long       observer  what a run tells while it works
inputs/   folders, lists, tables, archives     storage, remote   the bytes of an image, from disk or a URL
plan/     rows on disk, cut into shards        work/     row -> image -> embedding -> shard
output/   the files, in a folder or a store    errors    why a job does not start, or stops
ray_data  embeddings inside a Ray Data pipeline
scratch   folders of a run in the temporary directory
patterns  braces and globs in names
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metric_learn_client.jobs.api import embed_dataset
    from metric_learn_client.jobs.errors import (
        AccessError,
        InputError,
        JobError,
        OutageError,
        OutputError,
        RefusedError,
    )
    from metric_learn_client.jobs.observer import Observer
    from metric_learn_client.jobs.output.proof import Verification, verify
    from metric_learn_client.jobs.output.summary import JobSummary
    from metric_learn_client.jobs.ray_data import RayEmbedder

# Imported when first asked for: the command line reads jobs.options and must not wait for Arrow.
_HOMES = {
    "AccessError": "errors",
    "InputError": "errors",
    "JobError": "errors",
    "JobSummary": "output.summary",
    "Observer": "observer",
    "OutageError": "errors",
    "OutputError": "errors",
    "RayEmbedder": "ray_data",
    "RefusedError": "errors",
    "Verification": "output.proof",
    "embed_dataset": "api",
    "verify": "output.proof",
}

__all__ = [
    "AccessError",
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
