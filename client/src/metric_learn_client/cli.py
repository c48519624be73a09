"""The command `metric-learn`. Data on stdout, log on stderr; exit codes 0, 1, 2, 3 (some failed), 4 (no server)."""

from __future__ import annotations

import json
import sys
from typing import Optional

import click
import numpy as np

from metric_learn_client.client import DEFAULT_DEADLINE_S, DEFAULT_ENDPOINT, EmbeddingClient
from metric_learn_client.errors import (
    DeadlineError,
    ImageFailure,
    MetricLearnError,
    OverloadedError,
    RejectedError,
    UnreachableError,
)


@click.group(help="Image embeddings from a metric-learn server.")
def cli() -> None:
    pass


@cli.command(help="Embed image FILES in the order given.")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--output", type=click.Path(), help="x.npy: float32 [n, 2048]; a failed image's row is NaN")
@click.option("--endpoint", default=DEFAULT_ENDPOINT, envvar="METRIC_LEARN_ENDPOINT", show_default=True)
@click.option("--deadline-s", type=click.FloatRange(0, min_open=True), default=DEFAULT_DEADLINE_S, show_default=True)
def embed(files: tuple[str, ...], output: Optional[str], endpoint: str, deadline_s: float) -> None:
    if output is not None and not output.endswith(".npy"):
        raise click.UsageError(f"--output {output}: must end in .npy")
    images: list[bytes] = []
    unreadable: list[ImageFailure] = []
    for index, name in enumerate(files):
        try:
            with open(name, "rb") as file:
                images.append(file.read())
        except OSError as error:
            unreadable.append(ImageFailure(index, "E_READ", error.strerror or "cannot be read"))
    with EmbeddingClient(endpoint, deadline_s=deadline_s) as client:
        result = client.embed(images, on_error="return")
    bad = {failure.index for failure in unreadable}
    readable = [index for index in range(len(files)) if index not in bad]
    embeddings = np.full((len(files), result.embeddings.shape[1]), np.nan, np.float32)
    embeddings[readable] = result.embeddings
    failures = unreadable + [ImageFailure(readable[e.index], e.code, e.message) for e in result.errors]
    if output is not None:
        np.save(output, embeddings)
    else:
        failed = {failure.index for failure in failures}
        for index, name in enumerate(files):
            if index not in failed:
                click.echo(json.dumps({"path": name, "embedding": [float(x) for x in embeddings[index]]}))
    for failure in sorted(failures, key=lambda each: each.index):
        click.echo(f"{files[failure.index]}: {failure.code}: {failure.message}", err=True)
    if failures:
        click.echo(f"{len(failures)} of {len(files)} images failed", err=True)
        sys.exit(3)


def main() -> None:
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except (MetricLearnError, OSError) as error:
        click.echo(f"metric-learn: {error}", err=True)
        if isinstance(error, (UnreachableError, DeadlineError, OverloadedError)):
            sys.exit(4)
        sys.exit(2 if isinstance(error, RejectedError) else 1)
