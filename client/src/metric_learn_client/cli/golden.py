"""`metric-learn golden`: make golden sets of one's own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from metric_learn_client.cli.shared.connection import endpoint_options, open_client
from metric_learn_client.cli.shared.output_file import OutputFolder
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.printable import printable
from metric_learn_client.verification.check import served_side
from metric_learn_client.verification.golden import GoldenError, GoldenSet, pixels_of, safe_names, write_golden
from metric_learn_client.verification.parity import TOLERANCES


@click.group(name="golden", help="Golden pictures with their reference embeddings.")
def command() -> None:
    pass


@command.command(
    name="record",
    help="Record what a trusted endpoint answers for PICTURES. From a checkpoint: python -m export golden.",
)
@click.argument("pictures", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=OutputFolder(), help="a new directory")
@click.option(
    "--precision",
    type=click.Choice(list(TOLERANCES)),
    default="float32",
    show_default=True,
    help="what the trusted device computes in; noted in the set",
)
@endpoint_options
def record(pictures: tuple[Path, ...], output: Path, precision: str, **connection: Any) -> ExitCode:
    files = [file for path in pictures for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files = [file for file in files if file.is_file()]
    if not files:
        raise click.UsageError(f"{printable(str(pictures[0]))} holds no file")
    images = [file.read_bytes() for file in files]
    with open_client(**connection) as client:
        result = client.embed(images, on_error="return")
        side = served_side(client, connection["endpoint"], result.fingerprint, result.version)
    for failure in result.errors:
        click.echo(f"{printable(str(files[failure.index]))}: {failure.code}: {failure.message}", err=True)
    if result.errors:
        click.echo(f"{len(result.errors)} of {len(files)} pictures failed; nothing was recorded", err=True)
        return ExitCode.SOME_FAILED
    facts = {
        "recorded_from": f"endpoint {connection['endpoint']}",
        "fingerprint": side.fingerprint,
        "weights": side.weights,
        "version": side.version,
        "precision": precision,
    }
    golden = GoldenSet(
        tuple(safe_names(files)), tuple(images), np.asarray(result.embeddings), pixels_of(images), {}, facts
    )
    try:
        write_golden(output, golden)
    except GoldenError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"recorded {len(files)} pictures from {side} in {output}")
    return ExitCode.DONE
