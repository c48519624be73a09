"""The report as one JSON document, for a person to read and to send back. Its first lines are the verdict."""

from __future__ import annotations

import asyncio
import datetime
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metric_learn_client.contract.exit_codes import ExitCode
from servable.config.problem import exit_code
from servable.config.sections import Config
from servable.doctor import examine
from servable.host_report import findings, trial

SCHEMA_VERSION = 1


def write_report(config: Config, say: Callable[[str], None]) -> tuple[str, int]:
    """The text, and the exit code: 0, 2 configuration, 4 not ready, 5 wrong embeddings.

    Starts MindSpore Serving for some seconds, beside a server that runs already: on a device, stop that one first.
    """
    say("checking this host")
    found = examine(config)
    document: dict[str, Any] = {
        "verdict": "",
        "schema_version": SCHEMA_VERSION,
        "made_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "software": findings.software(config),
        "hardware": findings.hardware(),
        "devices": findings.devices(config),
        "options": findings.options(config),
        "check": [str(problem) for problem in found.problems],
        "warnings": list(found.warnings),
    }
    code = exit_code(found.problems)
    if not found.problems:
        version = found.versions[found.default]
        document["model"] = findings.model(version)
        with tempfile.TemporaryDirectory(prefix="metric-learn-report-") as folder:
            document["trial"], code = asyncio.run(trial.run(config, version, Path(folder), say))
    document["verdict"] = _verdict(document, code)
    return json.dumps(document, indent=2) + "\n", code


def _verdict(document: dict[str, Any], code: int) -> str:
    if document["check"]:
        return f"cannot start: {document['check'][0]}"
    seen = document["trial"]
    if "failed" in seen:
        return f"did not come to serve: {seen['failed']}"
    parity = seen["parity"]
    worst, limit = parity["worst_relative_distance"], parity["limit"]
    speed = max(row["images_per_s"] for row in seen["speed"])
    right = f"embeddings within {worst:.2e} of the trained network's (limit {limit:g})"
    if code == ExitCode.GATE_FAILED:
        right = f"WRONG EMBEDDINGS: {worst:.2e} from the trained network's (limit {limit:g})"
    return f"{right}; ready after {seen['start'][-1]['after_s']} s; at most {speed:g} images/s"
