"""What does a failed gate look like? Tries the known mistakes on the endpoint itself and names the one that fits.

The endpoint's own `embed_pixels` tells where to look. Right there and wrong for files: the mistake is in the
preprocessing, and sending pixels made with each known mistake must bring back exactly what `embed` answered. Wrong
there too: it is the network, the weights, or what is done with its output, and references decide. No sockets here:
the endpoint is a function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Callable, Optional

import numpy as np
import numpy.typing as npt

from metric_learn_client.contract.distance import relative_distance
from metric_learn_client.verification.golden import GoldenSet
from metric_learn_client.verification.parity import unit_rows

if TYPE_CHECKING:
    from metric_learn_client.verification.mistakes import Mistake

Rows = npt.NDArray[np.float32]
EmbedPixels = Callable[[npt.NDArray[np.uint8]], Rows]

_NORM_TOLERANCE = 1e-3
_SCREENED = 4  # pictures that every mistake is tried on; only one that fits them all is tried on the rest
_PARTIAL = 0.5  # a mistake that fits this share of the pictures is mentioned though it does not explain all
_NETWORK_MISTAKES = {
    "missing_normalisation": "the normalisation is missing: the network got pixels / 255 without mean and deviation",
    "raw_pixels": "the normalisation is missing: the network got pixels 0..255 as they are",
    "deviation_missing": "the normalisation is half there: the mean is subtracted, the deviation not divided out",
}


@dataclass(frozen=True)
class Finding:
    """mistake: its name, None where nothing known fits; explained: pictures it fits; worst: over those."""

    mistake: Optional[str]
    sentence: str
    where: str  # "preprocessing", "network", "output" or "unknown"
    explained: int
    pictures: int
    worst: float

    @property
    def certain(self) -> bool:
        return self.mistake is not None and self.explained == self.pictures


def diagnose(
    golden: GoldenSet,
    answered: Rows,
    embed_pixels: Optional[EmbedPixels],
    *,
    tolerance: float,
    pixel_tolerance: float,
    served_fingerprint: Optional[str] = None,
    other_sets: Mapping[str, GoldenSet] = {},
) -> list[Finding]:
    """Findings, the most telling first; never empty.

    answered float32 [n, 2048]: what `embed` gave for golden.images, NaN where it failed. embed_pixels: uint8
    [n, 224, 224, 3] -> float32 [n, 2048], None where the endpoint has no such method. tolerance: against references;
    pixel_tolerance: between two answers of the endpoint. other_sets: golden sets of other versions with the same
    pictures, by name.
    """
    good = np.isfinite(answered).all(axis=1)
    if not good.any():
        return [Finding(None, "the endpoint embedded none of the pictures; see each one's error", "unknown", 0, 0, 0.0)]
    case = _Case(golden, unit_rows(answered[good]), np.flatnonzero(good), tolerance, pixel_tolerance)
    findings = []
    norms = np.linalg.norm(answered[case.index].astype(np.float64), axis=1)
    if np.abs(norms - 1).max() > _NORM_TOLERANCE:
        sentence = (
            f"the output is not normalised: norms are {norms.min():.4g} to {norms.max():.4g}, they must be 1; "
            "the stage l2_normalize is missing"
        )
        unscaled = case.fit_reference("not-normalised", sentence, "output", golden.embeddings)
        findings.append(unscaled)
        if unscaled.certain:
            return findings
    pixels_right: Optional[bool] = None
    if embed_pixels is not None and golden.pixels is not None:
        of_pixels = embed_pixels(golden.pixels[case.index])
        distance = relative_distance(unit_rows(of_pixels), unit_rows(golden.embeddings[case.index]))
        pixels_right = bool((distance <= tolerance).mean() > _PARTIAL)
    if pixels_right is not True:
        findings.extend(_network(case, served_fingerprint, other_sets))
        if any(finding.certain for finding in findings):
            return sorted(findings, key=lambda finding: -finding.explained)
    if pixels_right is not False and embed_pixels is not None:
        findings.extend(_preprocessing(case, embed_pixels))
    if not findings:
        where = {True: "preprocessing", False: "network", None: "unknown"}[pixels_right]
        findings.append(Finding(None, _NOTHING[where], where, 0, len(case.index), float("inf")))
    return findings


_NOTHING = {
    "preprocessing": "ready-made pixels embed right and files do not, but no known mistake in preprocessing fits",
    "network": "ready-made pixels embed wrong, too: the network or its weights are not those of the references",
    "unknown": "no known mistake fits",
}


@dataclass(frozen=True)
class _Case:
    """Pictures that were embedded. index: theirs in the golden set; answered: compared by direction, because a wrong
    length is a finding of its own."""

    golden: GoldenSet
    answered: npt.NDArray[np.float64]
    index: npt.NDArray[np.int64]
    tolerance: float
    pixel_tolerance: float

    def most_telling(self, count: int) -> _Case:
        """The pictures that are furthest from their reference: where a mistake shows most."""
        distance = relative_distance(self.answered, unit_rows(self.golden.embeddings[self.index]))
        kept = np.sort(np.argsort(-distance, kind="stable")[:count])
        return replace(self, answered=self.answered[kept], index=self.index[kept])

    def fit_reference(self, mistake: str, sentence: str, where: str, rows: Rows) -> Finding:
        """How well recorded rows of all pictures explain the answers."""
        return self._fit(mistake, sentence, where, rows[self.index], self.tolerance)

    def fit_answer(self, mistake: str, sentence: str, rows: Rows) -> Finding:
        """How well the endpoint's answer to other pixels of this case's pictures explains the answers."""
        return self._fit(mistake, sentence, "preprocessing", rows, self.pixel_tolerance)

    def _fit(self, mistake: str, sentence: str, where: str, rows: Rows, tolerance: float) -> Finding:
        distance = relative_distance(self.answered, unit_rows(rows))
        fits = distance <= tolerance
        worst = float(distance[fits].max()) if fits.any() else float("inf")
        return Finding(mistake, sentence, where, int(fits.sum()), len(fits), worst)


def _network(case: _Case, served_fingerprint: Optional[str], other_sets: Mapping[str, GoldenSet]) -> list[Finding]:
    found = []
    for name, rows in case.golden.wrong.items():
        sentence = _NETWORK_MISTAKES.get(name, f"the network's answer is the recorded one under {name}")
        found.append(case.fit_reference(name.replace("_", "-"), sentence, "network", rows))
    for name, other in other_sets.items():
        if other.images != case.golden.images:
            continue
        sentence = f"the weights are of another version: these are the embeddings of {name}"
        found.append(case.fit_reference("wrong-version", sentence, "network", other.embeddings))
    found = [finding for finding in found if finding.explained > _PARTIAL * finding.pictures]
    recorded = case.golden.fingerprint
    if not found and recorded and served_fingerprint and recorded != served_fingerprint:
        sentence = (
            f"another model is served: fingerprint {served_fingerprint[:16]}, the references are of {recorded[:16]}; "
            "these are another version's weights"
        )
        pictures = len(case.index)
        found.append(Finding("wrong-version", sentence, "network", pictures, pictures, float("nan")))
    return found


def _preprocessing(case: _Case, embed_pixels: EmbedPixels) -> list[Finding]:
    try:
        from metric_learn_client.verification.mistakes import mistakes
    except ModuleNotFoundError as error:
        needs = f"to try the known mistakes, {error.name} is needed: pip install 'metric-learn-client[preprocess]'"
        return [Finding(None, needs, "preprocessing", 0, len(case.index), float("inf"))]
    telling = case.most_telling(_SCREENED)
    half_right: list[tuple[int, Mistake]] = []
    for mistake in mistakes():
        screened = _try(telling, mistake, embed_pixels)
        if screened is None or not screened.explained:
            continue
        half_right.append((screened.explained, mistake))
        if screened.certain:
            finding = _try(case, mistake, embed_pixels)
            if finding is not None and finding.certain:
                return [finding]
    half_right.sort(key=lambda each: -each[0])
    tried = [_try(case, mistake, embed_pixels) for _, mistake in half_right[:3]]
    found = [each for each in tried if each is not None and each.explained > _PARTIAL * each.pictures]
    return sorted(found, key=lambda each: -each.explained)[:1]


def _try(case: _Case, mistake: Mistake, embed_pixels: EmbedPixels) -> Optional[Finding]:
    try:
        pixels = np.stack([mistake.pixels(case.golden.images[i]) for i in case.index])
    except ModuleNotFoundError:  # Pillow is not installed: its filters cannot be tried
        return None
    return case.fit_answer(mistake.name, mistake.sentence, embed_pixels(pixels))
