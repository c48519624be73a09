"""The gate itself: a golden set through an endpoint, compared, and diagnosed where it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from metric_learn_client.errors import EndpointError, RejectedError
from metric_learn_client.verification.diagnosis import diagnose
from metric_learn_client.verification.golden import GoldenSet, pixels_of
from metric_learn_client.verification.parity import PIXEL_TOLERANCES, TOLERANCES, Precision, compare
from metric_learn_client.verification.verdict import Side, Verdict

Rows = npt.NDArray[np.float32]


def run_gate(
    client: Any,
    endpoint: str,
    golden: GoldenSet,
    reference: Side,
    *,
    precision: Precision = "float32",
    tolerance: Optional[float] = None,
    other_sets: Mapping[str, GoldenSet] = {},
    explain: bool = True,
) -> Verdict:
    """client: EmbeddingClient. Raises EndpointError where the service cannot be asked at all.

    precision: what the device computes in; it sets the tolerance, and float16 adds the check of neighbours.
    """
    limit = TOLERANCES[precision] if tolerance is None else tolerance
    result = client.embed(list(golden.images), on_error="return")
    errors = {each.index: f"{each.code}: {each.message}" for each in result.errors}
    parity = compare(
        golden.names,
        result.embeddings,
        golden.embeddings,
        tolerance=limit,
        check_neighbours=precision == "float16",
        errors=errors,
    )
    if golden.pixels is None:
        golden = replace(golden, pixels=pixels_of(golden.images))
    of_pixels = None if golden.pixels is None else _embed_pixels(client, golden.pixels)
    preprocessing = None
    if of_pixels is not None:
        preprocessing = compare(
            golden.names, result.embeddings, of_pixels, tolerance=PIXEL_TOLERANCES[precision], errors=errors
        )
    side = served_side(client, endpoint, result.fingerprint, result.version)
    verdict = Verdict(side, reference, precision, parity, preprocessing)
    if verdict.passed or not explain:
        return verdict
    findings = diagnose(
        golden,
        result.embeddings,
        None if of_pixels is None else lambda pixels: _answer(client, pixels),
        tolerance=limit,
        pixel_tolerance=PIXEL_TOLERANCES[precision],
        served_fingerprint=side.fingerprint,
        other_sets=other_sets,
    )
    return replace(verdict, findings=findings)


def served_side(client: Any, endpoint: str, fingerprint: Optional[str], version: Optional[int]) -> Side:
    """What the endpoint says of itself; a bare MindSpore Serving says nothing."""
    try:
        info = client.model()
    except EndpointError:
        return Side(endpoint, fingerprint, None, version)
    return Side(endpoint, fingerprint or info.fingerprint, info.weights, info.version if version is None else version)


def _embed_pixels(client: Any, pixels: npt.NDArray[np.uint8]) -> Optional[Rows]:
    """None where the endpoint has no such method."""
    try:
        return _answer(client, pixels)
    except RejectedError:
        return None


def _answer(client: Any, pixels: npt.NDArray[np.uint8]) -> Rows:
    rows: Rows = client.embed_pixels(pixels, on_error="return").embeddings
    return rows
