"""`metric-learn embed`: image files in the order given."""

from __future__ import annotations

import json
from typing import Any, Optional

import click
import numpy as np

from metric_learn_client.cli.connection import endpoint_options, open_client
from metric_learn_client.errors import ImageFailure
from metric_learn_client.exit_codes import ExitCode


@click.command(name="embed", help="Embed image FILES in the order given.")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--output", type=click.Path(), help="x.npy: float32 [n, 2048]; a failed image's row is NaN")
@endpoint_options
def command(files: tuple[str, ...], output: Optional[str], **connection: Any) -> ExitCode:
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
    with open_client(**connection) as client:
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
        return ExitCode.SOME_FAILED
    return ExitCode.DONE
