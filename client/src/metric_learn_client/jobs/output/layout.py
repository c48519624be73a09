"""The names inside an output directory, relative to it.

OUT/job.json                              what the job is: input, options, model
OUT/img_emb/img_emb_00000.npy             format npy: float32 or float16 [n, 2048]
OUT/metadata/metadata_00000.parquet       format npy: row, image_path, the input's columns; same order
OUT/embeddings/embeddings_00000.parquet   format parquet: the same columns and `embedding`
OUT/failures/failures_00000.parquet       row, image_path, code, message
OUT/stats/00000.json                      written last: the shard is there
OUT/runs.jsonl                            one line a run: times and rates; not part of the data
OUT/.seen/seen_00000.parquet              the files that the rows were read from: size, time, digest
OUT/.plan  .partial  .commit  .locks      the job's own
"""

from __future__ import annotations

import re

DATA_FOLDERS = ("img_emb", "metadata", "embeddings", "failures", "stats")
OWN_FOLDERS = (".plan", ".seen", ".partial", ".commit", ".locks")
FILES = ("runs.jsonl", "job.json")
_NUMBERED = re.compile(r".*(\d{5})\.[a-z]+")


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


def seen_file(shard: int) -> str:
    return f".seen/seen_{shard:05d}.parquet"


def names_of(shard: int) -> tuple[str, ...]:
    """Every file that a shard can have, its stats last."""
    data = dict.fromkeys([*data_files("npy", shard), *data_files("parquet", shard)])
    return (*data, seen_file(shard), stats_file(shard))


def is_shards(name: str) -> bool:
    """Whether a file of this name is one that a shard can have."""
    number = _NUMBERED.fullmatch(name)
    return number is not None and name in names_of(int(number[1]))


def name_of(base: str) -> str:
    """img_emb_00000.npy -> img_emb/img_emb_00000.npy, 00000.json -> stats/00000.json."""
    if base.endswith(".json"):
        return f"stats/{base}"
    folder = base.rsplit("_", 1)[0]
    return f"{'.seen' if folder == 'seen' else folder}/{base}"
