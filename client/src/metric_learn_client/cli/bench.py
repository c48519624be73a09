"""`metric-learn bench`: throughput and latency of an endpoint, level by level, and only where they are stable."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import click
import numpy as np

from metric_learn_client import wire
from metric_learn_client._client.client import EmbeddingClient
from metric_learn_client._client.lossless import encode_lossless
from metric_learn_client.bench.levels import PERCENTILES, Level, parse_range
from metric_learn_client.bench.runner import MAX_ARRIVALS_IN_FLIGHT, Load, Measurement, UnstableError, rotating
from metric_learn_client.cli.shared.connection import endpoint_options, open_client
from metric_learn_client.cli.shared.field_options import NumberRange
from metric_learn_client.cli.shared.output_file import OutputFile, write_text
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.errors import MetricLearnError, RejectedError
from metric_learn_client.inputs import UnreadableError, read_image
from metric_learn_client.options import MOST_S

_CSV = ("load", "images_per_s", "calls_per_s", "avg_ms", *(f"p{each}_ms" for each in PERCENTILES), "calls", "failed")


def _levels(_context: click.Context, _option: click.Parameter, value: Optional[str]) -> Optional[list[float]]:
    try:
        return None if value is None else parse_range(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(
    name="bench",
    help="Measure throughput and latency with image FILES (default: one generated picture). A level counts when three"
    " windows in a row agree; an unstable one is not reported, and ends the run with exit code 5.",
)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False))
@click.option("--concurrency-range", callback=_levels, help="closed loop: calls at once, start:end:step  [default: 1]")
@click.option("--request-rate-range", callback=_levels, help="open loop: calls per second, start:end:step")
@click.option(
    "--request-distribution",
    type=click.Choice(["poisson", "constant"]),
    default="poisson",
    show_default=True,
    help="of the open loop's arrivals",
)
@click.option("--batch-size", "-b", type=click.IntRange(1), default=1, show_default=True, help="images per call")
@click.option(
    "--measurement-interval-s", type=NumberRange(0.05, MOST_S), default=5.0, show_default=True, help="a window"
)
@click.option(
    "--stability-percentage",
    type=NumberRange(0, 100),
    default=10.0,
    show_default=True,
    help="how far windows may differ and still agree",
)
@click.option("--percentile", type=click.IntRange(1, 99), help="latency that must be stable  [default: the mean]")
@click.option("--max-windows", type=click.IntRange(3), default=10, show_default=True, help="patience per level")
@click.option("--latency-threshold-ms", type=float, help="stop at the first level whose latency is above this")
@click.option(
    "--warmup-request-count", type=click.IntRange(0), default=5, show_default=True, help="calls before the first window"
)
@click.option("--seed", type=int, default=0, show_default=True, help="of the arrivals")
@click.option("--csv", "csv_file", type=OutputFile(), help="write the levels as CSV too")
@click.option("--json", "as_json", is_flag=True, help="one JSON object per level and line instead of a table")
@endpoint_options
def command(
    files: Sequence[str],
    concurrency_range: Optional[list[float]],
    request_rate_range: Optional[list[float]],
    request_distribution: str,
    batch_size: int,
    measurement_interval_s: float,
    stability_percentage: float,
    percentile: Optional[int],
    max_windows: int,
    latency_threshold_ms: Optional[float],
    warmup_request_count: int,
    seed: int,
    csv_file: Optional[Path],
    as_json: bool,
    **connection: Any,
) -> ExitCode:
    if concurrency_range and request_rate_range:
        raise click.UsageError("--concurrency-range and --request-rate-range exclude each other")
    levels = request_rate_range or concurrency_range or [1.0]
    if not request_rate_range and any(level != int(level) or level > MAX_ARRIVALS_IN_FLIGHT for level in levels):
        raise click.UsageError(f"--concurrency-range: whole numbers up to {MAX_ARRIVALS_IN_FLIGHT}")
    how = Measurement(measurement_interval_s, stability_percentage, percentile, max_windows)
    at_once = MAX_ARRIVALS_IN_FLIGHT if request_rate_range else int(max(levels))
    measured: list[Level] = []
    code = ExitCode.DONE
    # No retries: they would hide what is to be measured.
    with open_client(**connection, retries=0, max_in_flight=at_once, batch_size=batch_size) as client:
        _check_batch_size(client, batch_size)
        call = _caller(client, _images(files), batch_size)
        for _ in range(warmup_request_count or 1):
            call()
        if not as_json:
            click.echo(_heading("calls/s" if request_rate_range else "calls"))
        for level in levels:
            load = Load(call)
            try:
                if request_rate_range:
                    load.open_loop(level, request_distribution, seed)
                else:
                    load.closed_loop(int(level))
                measured.append(load.measure(level, how))
            except UnstableError as error:
                click.echo(f"load {level:g}: {error}", err=True)
                code = ExitCode.GATE_FAILED
                break
            finally:
                load.close()
            click.echo(json.dumps(measured[-1].row()) if as_json else _line(measured[-1]))
            if measured[-1].failed:
                click.echo(f"load {level:g}: {measured[-1].failed} calls failed: {load.last_error}", err=True)
                code = ExitCode.SOME_FAILED
            if latency_threshold_ms is not None and measured[-1].watched_ms > latency_threshold_ms:
                click.echo(f"load {level:g}: above --latency-threshold-ms {latency_threshold_ms:g}; stopped", err=True)
                break
    if csv_file is not None:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, _CSV, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(level.row() for level in measured)
        write_text(csv_file, table.getvalue())
    return code


def _check_batch_size(client: EmbeddingClient, batch_size: int) -> None:
    """Raises click.UsageError for more images than the service takes: they would be several calls, measured as one."""
    try:
        most = client.model().limits.max_instances
    except RejectedError:  # a bare MindSpore Serving does not say
        most = wire.DEFAULT_MAX_INSTANCES
    if batch_size > most:
        raise click.UsageError(f"--batch-size {batch_size}: a call of this service has at most {most} images")


def _caller(client: EmbeddingClient, images: list[bytes], batch_size: int) -> Any:
    following = rotating(images, batch_size)

    def call() -> int:
        result = client.embed(following(), on_error="return")
        if result.errors:
            raise MetricLearnError(f"{result.errors[0].code}: {result.errors[0].message}")
        return len(result)

    return call


def _images(files: Sequence[str]) -> list[bytes]:
    if files:
        try:
            return [read_image(name, wire.DEFAULT_MAX_IMAGE_BYTES) for name in files]
        except UnreadableError as error:
            raise click.UsageError(error.message) from error
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    picture = np.repeat(np.repeat(coarse, 40, axis=0), 40, axis=1) // 2 + rng.integers(0, 16, (480, 640, 3), np.uint8)
    try:
        import cv2

        encoded = cv2.imencode(".jpg", picture)[1].tobytes()
    except ImportError:
        encoded = encode_lossless(picture.astype(np.uint8))
    click.echo(f"no image files given: sending a generated picture of 640 x 480, {len(encoded)} bytes", err=True)
    return [encoded]


def _heading(unit: str) -> str:
    latencies = " ".join(f"{f'p{each} ms':>9}" for each in PERCENTILES)
    return f"{unit:>8} {'images/s':>9} {'calls/s':>9} {'avg ms':>9} {latencies} {'measured':>9} {'failed':>7}"


def _line(level: Level) -> str:
    latencies = " ".join(f"{each:9.2f}" for each in level.percentiles_ms)
    return (
        f"{level.load:8g} {level.images_per_s:9.1f} {level.calls_per_s:9.1f} {level.avg_ms:9.2f} {latencies}"
        f" {level.calls:9d} {level.failed:7d}"
    )
