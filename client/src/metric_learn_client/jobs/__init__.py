"""Batch jobs: very large image sets into files, resumable after anything, on one host or on Ray. Extra: [jobs].

options   what a job is asked to do            plan      rows on disk, cut into shards
inputs/   folders, lists, tables, archives     reader    row -> encoded image
sender    image -> embedding, through outages  pipeline  reading, sending and writing at once
worker    one pipeline over some shards        engines/  this process, several, Ray
shard_files, commit   the files, whole or not at all
prepare, record, locks   the same job goes on; another is refused
verify, summary   what is there, proved and added up
"""

from __future__ import annotations

from metric_learn_client.jobs.api import embed_dataset
from metric_learn_client.jobs.errors import InputError, JobError, OutageError, OutputError, RefusedError
from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.summary import JobSummary
from metric_learn_client.jobs.verify import Verification, verify

__all__ = [
    "InputError",
    "JobError",
    "JobSummary",
    "Observer",
    "OutageError",
    "OutputError",
    "RefusedError",
    "Verification",
    "embed_dataset",
    "verify",
]
