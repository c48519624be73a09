"""The verdict of a parity gate: as text for people, as a dictionary for machines. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Optional

from metric_learn_client.printable import printable
from metric_learn_client.verification.diagnosis import Finding
from metric_learn_client.verification.parity import Parity

_SHOWN_ROWS = 40


@dataclass(frozen=True)
class Side:
    """What was compared with what. name: an endpoint or a directory."""

    name: str
    fingerprint: Optional[str] = None
    weights: Optional[str] = None
    version: Optional[int] = None

    def __str__(self) -> str:
        parts = [f"version {self.version}"] if self.version is not None else []
        parts += [f"{self.weights} weights"] if self.weights else []
        parts += [f"fingerprint {self.fingerprint[:16]}"] if self.fingerprint else []
        return f"{printable(self.name)} ({', '.join(parts)})" if parts else printable(self.name)


@dataclass(frozen=True)
class Verdict:
    """references: files through the service against the references; preprocessing: files against ready-made pixels on
    the same endpoint, None where it was not possible."""

    served: Side
    reference: Side
    precision: str
    references: Parity
    preprocessing: Optional[Parity] = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.references.passed and (self.preprocessing is None or self.preprocessing.passed)


def as_text(verdict: Verdict) -> str:
    parity = verdict.references
    width = min(60, max(len(printable(row.name)) for row in parity.rows))
    lines = [f"served     {verdict.served}", f"reference  {verdict.reference}", ""]
    lines.append(f"{'picture':{width}}  relative distance (limit {parity.tolerance:.0e}, {verdict.precision})")
    worst_first = sorted(parity.rows, key=lambda row: -row.distance)
    rows = parity.rows if len(parity.rows) <= _SHOWN_ROWS else worst_first[:_SHOWN_ROWS]
    for row in rows:
        what = row.error or ("ok" if row.within else "FAIL")
        lines.append(f"{printable(row.name)[:60]:{width}}  {row.distance:8.1e}  {printable(what)}")
    if len(rows) < len(parity.rows):
        lines.append(f"... the worst {len(rows)} of {len(parity.rows)}; --output has all")
    lines.append(f"{'worst':{width}}  {parity.worst:8.1e}   median {parity.median:.1e}")
    if verdict.preprocessing is not None:
        check = verdict.preprocessing
        lines.append(
            f"preprocessing: files against ready-made pixels, worst {check.worst:.1e} (limit {check.tolerance:.0e})"
        )
    if parity.neighbours is not None:
        lines.append(f"nearest ten agree for {parity.neighbours:.1%} of the pictures (all must)")
    lines.append("")
    failed = sum(not row.within for row in parity.rows)
    if verdict.passed:
        lines.append(f"PASS: all {len(parity.rows)} pictures have their reference embedding")
    elif failed:
        lines.append(f"FAIL: {failed} of {len(parity.rows)} pictures do not have their reference embedding")
    else:
        lines.append("FAIL: the embeddings are near the references, but not for the right reason; see above")
    for finding in verdict.findings:
        kind = "diagnosis" if finding.mistake is None or finding.certain else "perhaps"
        lines.append(f"  {kind}: {finding.sentence}")
        if finding.mistake is not None and math.isfinite(finding.worst):
            fits = f"fits {finding.explained} of {finding.pictures} pictures"
            lines.append(f"    {finding.mistake} ({finding.where}) {fits}, worst {finding.worst:.1e}")
    return "\n".join(lines)


def as_dict(verdict: Verdict) -> dict[str, Any]:
    return {
        "passed": verdict.passed,
        "precision": verdict.precision,
        "served": vars(verdict.served),
        "reference": vars(verdict.reference),
        "references": _parity(verdict.references),
        "preprocessing": None if verdict.preprocessing is None else _parity(verdict.preprocessing),
        "diagnosis": [
            {**vars(each), "worst": _number(each.worst), "certain": each.certain} for each in verdict.findings
        ],
    }


def _parity(parity: Parity) -> dict[str, Any]:
    return {
        "passed": parity.passed,
        "tolerance": parity.tolerance,
        "worst": _number(parity.worst),
        "median": _number(parity.median),
        "neighbours_agree": parity.neighbours,
        "rows": [{**vars(row), "name": printable(row.name), "distance": _number(row.distance)} for row in parity.rows],
    }


def _number(value: float) -> Optional[float]:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
