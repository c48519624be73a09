"""The names inside an output directory. Paths only: nothing here touches the disk.

OUT/job.json                              what the job is: input, options, model
OUT/img_emb/img_emb_00000.npy             format npy: float32 or float16 [n, 2048]
OUT/metadata/metadata_00000.parquet       format npy: row, image_path, the input's columns; same order
OUT/embeddings/embeddings_00000.parquet   format parquet: the same columns and `embedding`
OUT/failures/failures_00000.parquet       row, image_path, code, message
OUT/stats/00000.json                      written last: the shard is there
OUT/runs.jsonl                            one line a run: times and rates; not part of the data
OUT/.plan  .partial  .commit  .locks      the job's own
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DATA_FOLDERS = ("img_emb", "metadata", "embeddings", "failures", "stats")
OWN_FOLDERS = (".plan", ".partial", ".commit", ".locks")
FILES = ("runs.jsonl", "job.json")


def data_files(output_format: str, shard: int) -> tuple[str, ...]:
    """The files of a shard beside its stats, relative to the output directory, embeddings first."""
    number = f"{shard:05d}"
    rows: tuple[str, ...]
    if output_format == "npy":
        rows = (f"img_emb/img_emb_{number}.npy", f"metadata/metadata_{number}.parquet")
    else:
        rows = (f"embeddings/embeddings_{number}.parquet",)
    return (*rows, f"failures/failures_{number}.parquet")


def stats_file(shard: int) -> str:
    return f"stats/{shard:05d}.json"


@dataclass(frozen=True)
class Layout:
    """One output directory."""

    root: Path

    @property
    def job(self) -> Path:
        return self.root / "job.json"

    @property
    def runs(self) -> Path:
        return self.root / "runs.jsonl"

    @property
    def plan(self) -> Path:
        return self.root / ".plan"

    @property
    def partial(self) -> Path:
        return self.root / ".partial"

    @property
    def commit(self) -> Path:
        return self.root / ".commit"

    @property
    def locks(self) -> Path:
        return self.root / ".locks"

    def place(self, name: str, shard: int) -> Path:
        """Where a shard's file is at present: where it belongs, or committed and not yet put there."""
        waiting = self.commit / f"{shard:05d}" / Path(name).name
        return waiting if waiting.exists() else self.root / name

    def committed(self) -> list[int]:
        """The shards that are there, ascending."""
        folder = self.root / "stats"
        if not folder.is_dir():
            return []
        return sorted(int(file.stem) for file in folder.glob("*.json") if file.stem.isdigit())
