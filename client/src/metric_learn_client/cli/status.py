"""`metric-learn status`: is an endpoint ready, and what does it serve."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any, Optional

import click

from metric_learn_client._client.client import EmbeddingClient
from metric_learn_client._client.core.targets import parse_endpoints
from metric_learn_client.cli.shared.connection import endpoint_options, open_client
from metric_learn_client.cli.shared.field_options import NumberRange
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.errors import MetricLearnError, RejectedError
from metric_learn_client.options import MOST_S

MB = 1024 * 1024


@click.command(
    name="status",
    help="Say whether each endpoint is ready and what it serves. Exit code 0: all are ready; 4: one is not;"
    " 5: they serve different models.",
)
@endpoint_options
@click.option("--wait-s", type=NumberRange(0, MOST_S, min_open=True), help="wait so long for each to become ready")
@click.option("--json", "as_json", is_flag=True, help="one JSON object per endpoint and line")
def command(wait_s: Optional[float], as_json: bool, endpoint: str, **connection: Any) -> ExitCode:
    try:
        endpoints = parse_endpoints(endpoint)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    seen = []
    for each in endpoints:
        with open_client(each, **connection) as client:
            status = _ask(client, wait_s)
        seen.append(status)
        click.echo(json.dumps({"endpoint": each, **status}) if as_json else _text(each, status))
    fingerprints = {status["model"]["fingerprint"] for status in seen if status["model"]}
    if len(fingerprints) > 1:
        click.echo(f"the endpoints serve different models: fingerprints {', '.join(sorted(fingerprints))}", err=True)
        return ExitCode.GATE_FAILED
    return ExitCode.DONE if all(status["ready"] for status in seen) else ExitCode.NOT_REACHABLE


def _ask(client: EmbeddingClient, wait_s: Optional[float]) -> dict[str, Any]:
    """ready, round_trip_ms of a health check, model (None where it says nothing), reason (None where ready)."""
    status: dict[str, Any] = {"ready": False, "round_trip_ms": None, "model": None, "reason": None}
    try:
        client.wait_ready(wait_s or 1.0)
        started = time.monotonic()
        status["ready"] = client.is_ready()
        status["round_trip_ms"] = round(1000 * (time.monotonic() - started), 2)
        status["reason"] = None if status["ready"] else "it was ready a moment ago, and is not any more"
        status["model"] = asdict(client.model())
    except RejectedError as error:
        if error.code != "UNIMPLEMENTED":
            status.update(ready=False, reason=str(error))
    except MetricLearnError as error:
        status.update(ready=False, reason=str(error))
    return status


def _text(endpoint: str, status: dict[str, Any]) -> str:
    model = status["model"]
    if not status["ready"]:
        return f"not ready: {status['reason']}"
    if model is None:
        return f"ready: {endpoint} ({status['round_trip_ms']} ms away) does not say what it serves"
    limits = model["limits"]
    return (
        f"ready: {endpoint} serves {model['name']} version {model['version']} ({model['weights']} weights,"
        f" fingerprint {model['fingerprint'][:16]}), {status['round_trip_ms']} ms away\n"
        f"  embeddings float32 [{model['dim']}], preprocessing {model['preprocessing']}\n"
        f"  limits: {limits['max_instances']} images and {limits['max_request_bytes'] / MB:g} MiB a call,"
        f" {limits['max_image_bytes'] / MB:g} MiB and {limits['max_image_px'] / 1e6:g} megapixels an image"
    )
