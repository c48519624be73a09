"""`metric-learn verify`: the parity gate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import click
import numpy as np

from metric_learn_client.cli.shared.connection import endpoint_options, open_client
from metric_learn_client.cli.shared.field_options import NumberRange
from metric_learn_client.cli.shared.output_file import OutputFile, write_text
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.errors import MetricLearnError
from metric_learn_client.verification.check import run_gate, served_side
from metric_learn_client.verification.golden import GoldenError, GoldenSet, read_golden
from metric_learn_client.verification.parity import TOLERANCES
from metric_learn_client.verification.verdict import Side, as_dict, as_text


@click.command(name="verify", help="Prove that an endpoint gives the reference embeddings of golden pictures.")
@click.option(
    "--golden", "golden_path", type=click.Path(path_type=Path), required=True, help="a golden set's directory"
)
@click.option("--against", metavar="ENDPOINT", help="compare with this endpoint in place of the stored references")
@click.option(
    "--precision",
    type=click.Choice(list(TOLERANCES)),
    default="float32",
    show_default=True,
    help="what the device computes in; float16 also compares the ten nearest neighbours",
)
@click.option(
    "--tolerance",
    type=NumberRange(0, min_open=True),
    help="worst relative distance of a row  [default: 1e-4 for float32, 2e-2 for float16]",
)
@click.option(
    "--other-version",
    "others",
    multiple=True,
    type=click.Path(path_type=Path),
    help="a golden set of another version, with the same pictures, that a wrong answer may turn out to be",
)
@click.option("--no-diagnosis", is_flag=True, help="do not try the known mistakes where the gate fails")
@click.option("--json", "as_json", is_flag=True, help="the verdict on stdout as JSON")
@click.option("--output", type=OutputFile(), help="x.json: the verdict, all rows")
@endpoint_options
def command(
    golden_path: Path,
    against: Optional[str],
    precision: Any,
    tolerance: Optional[float],
    others: tuple[Path, ...],
    no_diagnosis: bool,
    as_json: bool,
    output: Optional[Path],
    **connection: Any,
) -> ExitCode:
    try:
        golden = read_golden(golden_path)
        other_sets = {str(path): read_golden(path) for path in others}
    except GoldenError as error:
        raise click.UsageError(str(error)) from error
    reference = Side(str(golden_path), golden.fingerprint, golden.facts.get("weights"), golden.facts.get("version"))
    if against is not None:
        golden, reference = _ask(golden, against, connection)
    with open_client(**connection) as client:
        verdict = run_gate(
            client,
            connection["endpoint"],
            golden,
            reference,
            precision=precision,
            tolerance=tolerance,
            other_sets=other_sets,
            explain=not no_diagnosis,
        )
    document = json.dumps(as_dict(verdict), indent=2)
    click.echo(document if as_json else as_text(verdict))
    if output is not None:
        write_text(output, document + "\n")
    return ExitCode.DONE if verdict.passed else ExitCode.GATE_FAILED


def _ask(golden: GoldenSet, endpoint: str, connection: dict[str, Any]) -> tuple[GoldenSet, Side]:
    """The other endpoint's answers as references."""
    with open_client(**{**connection, "endpoint": endpoint}) as client:
        result = client.embed(list(golden.images), on_error="return")
        side = served_side(client, endpoint, result.fingerprint, result.version)
    if result.errors:
        first = result.errors[0]
        raise MetricLearnError(
            f"nothing to compare with: {endpoint} cannot embed {golden.names[first.index]}: "
            f"{first.code}: {first.message}"
        )
    facts = {"fingerprint": side.fingerprint}
    return replace(golden, embeddings=np.asarray(result.embeddings), wrong={}, facts=facts), side
