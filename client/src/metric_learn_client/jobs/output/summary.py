"""What an output directory holds, added up from the files themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from metric_learn_client.jobs.inputs.skipped import as_line
from metric_learn_client.jobs.output.output import Output
from metric_learn_client.jobs.output.shard_files import damage_named, read_stats, read_table
from metric_learn_client.jobs.plan.plan import Plan


@dataclass(frozen=True)
class JobSummary:
    """rows, shards: of the job, or of one part of a divided one; succeeded and failed: rows that are on the disk;
    codes: how many failures of each kind; skipped: files that were found and not taken, {kind: {"count": n, "example":
    path}}; sent, elapsed_s: of this run alone; sync: what it found, {"changed": n, "removed": n, "added": n,
    "unchanged": n}, None where it did not look."""

    output_dir: str
    rows: int
    shards: int
    done_shards: int
    succeeded: int
    failed: int
    codes: dict[str, int] = field(default_factory=dict)
    fingerprint: Optional[str] = None
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)
    sent: int = 0
    elapsed_s: float = 0.0
    sync: Optional[dict[str, int]] = None

    @property
    def complete(self) -> bool:
        return self.done_shards == self.shards

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "complete": self.complete, "elapsed_s": round(self.elapsed_s, 3)}

    def as_text(self) -> str:
        lines = [f"{self.output_dir}: {self.succeeded} embedded, {self.failed} failed, of {self.rows} rows"]
        if not self.complete:
            lines[0] += f"; {self.done_shards} of {self.shards} shards are there"
        lines += [f"  {count} {code}" for code, count in sorted(self.codes.items(), key=lambda each: -each[1])]
        if self.skipped:
            lines.append(as_line(self.skipped))
        if self.sync is not None:
            lines.append("sync: " + ", ".join(f"{count} {what}" for what, count in self.sync.items()))
        if self.sent:
            rate = self.sent / self.elapsed_s if self.elapsed_s else 0.0
            lines.append(f"this run: {self.sent} rows in {self.elapsed_s:.1f} s, {rate:.1f} rows/s")
        return "\n".join(lines)


def summarise(output: Output, plan: Plan, shards: list[int], committed: list[int]) -> JobSummary:
    """shards: those to count, done or not; committed: those that are there."""
    there = set(committed)
    done = [shard for shard in shards if shard in there]
    succeeded = failed = current = 0
    codes: Counter[str] = Counter()
    fingerprint: Optional[str] = None
    for shard in done:
        stats = read_stats(output, shard)
        succeeded += stats["succeeded"]
        failed += stats["failed"]
        current += stats.get("generation", 0) == plan.generation_of(shard)
        fingerprint = stats["fingerprint"]
        if stats["failed"]:
            codes.update(failure_column(output, stats, "code"))
    return JobSummary(
        output_dir=output.name,
        rows=sum(map(plan.count, shards)),
        shards=len(shards),
        done_shards=current,
        succeeded=succeeded,
        failed=failed,
        codes=dict(codes),
        fingerprint=fingerprint,
        skipped=plan.skipped,
    )


def failure_column(output: Output, stats: dict[str, Any], column: str) -> list[Any]:
    """One column of a shard's failures. Raises OutputError."""
    name = list(stats["files"])[-1]
    with damage_named(output, name, stats["shard"]):
        values: list[Any] = read_table(output, name, stats["shard"], [column]).column(column).to_pylist()
    return values
