"""Which model a job's embeddings come from, asked of the service once, and what its workers need to know of it."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace

from metric_learn_client._client.core.identity import ModelInfo
from metric_learn_client.errors import EndpointError, RejectedError
from metric_learn_client.jobs.errors import RefusedError
from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.options import JobOptions, RunOptions
from metric_learn_client.jobs.output.output import Output
from metric_learn_client.jobs.plan.plan import Plan
from metric_learn_client.jobs.work.sender import Patience
from metric_learn_client.jobs.work.worker import Connect, WorkerSpec


def job_model(connect: Connect, max_outage_s: float, stop: threading.Event, observer: Observer) -> ModelInfo:
    """What the service serves; waits for one that is not there yet.

    Raises OutageError after max_outage_s, RejectedError, RefusedError where the service has no fingerprint.
    """
    patience = Patience(max_outage_s, stop, observer.notice)
    with closing(connect()) as client:
        while True:
            try:
                info = client.model()
                break
            except RejectedError:
                raise
            except EndpointError as error:
                patience.wait(error)
    if not info.fingerprint:
        raise RefusedError(
            "the service does not say which model it serves (no fingerprint), so that its embeddings could be "
            "mixed with another's; start it with servable.serving_server"
        )
    return info


def worker_spec(
    output: Output,
    options: JobOptions,
    run: RunOptions,
    connect: Connect,
    model: ModelInfo,
    version: int,
    plan: Plan,
) -> WorkerSpec:
    """What every worker gets. version: of the model, as the job names it."""
    return WorkerSpec(
        output=output,
        options=options,
        run=replace(run, max_image_bytes=min(run.max_image_bytes, model.limits.max_image_bytes)),
        connect=connect,
        fingerprint=model.fingerprint,
        version=str(version),
        max_image_px=model.limits.max_image_px,
        extents=len(plan.extents),
        generation=plan.generation,
    )


def check_sandbox(options: JobOptions, run: RunOptions) -> None:
    """Raises ValueError for a sandbox in which nothing would be decoded."""
    if run.sandbox and options.preprocess != "local":
        raise ValueError("--sandbox says where pictures are decoded here: it needs --preprocess local")


def check_preprocessing(options: JobOptions, model: ModelInfo) -> None:
    """Raises RefusedError where pictures are to be prepared here and that would not be as the service does it."""
    if options.preprocess != "local":
        return
    try:
        from metric_learn_client.preprocess import PREPROCESSING_ID
    except ImportError as error:
        raise RefusedError(
            "--preprocess local needs OpenCV and simplejpeg: pip install 'metric-learn-client[preprocess]'"
        ) from error
    if model.preprocessing != PREPROCESSING_ID:
        raise RefusedError(
            f"--preprocess local: this client prepares pictures by {PREPROCESSING_ID}, the service by "
            f"{model.preprocessing or 'a way it does not name'}; use --preprocess server, or versions that fit"
        )
