"""Shards appear whole or not at all, and are replaced whole.

1. The shard's files are written to `.partial/<shard>-<unique>/` and synced, its stats last.
2. That folder is renamed to `.commit/<shard>/`: the moment from which the shard is there.
3. Its files are renamed to their places, the stats last, and the folder is removed.

A run that dies before 2 has done nothing; one that dies after it is finished by the next (`recover`), which only
repeats 3. A reader that knows nothing of this sees complete files only, because all of it is renaming.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from metric_learn_client.jobs.output.durable import output_errors, sync_folder
from metric_learn_client.jobs.output.layout import DATA_FOLDERS, Layout, name_of, names_of

_unique = itertools.count()


def prepare(layout: Layout) -> None:
    """Makes the folders that `begin` and `finish` need."""
    with output_errors(layout.root):
        layout.partial.mkdir(parents=True, exist_ok=True)
        layout.commit.mkdir(exist_ok=True)


def begin(layout: Layout, shard: int) -> Path:
    """An empty folder for the shard's files, under their own names."""
    folder = layout.partial / f"{shard:05d}-{os.getpid()}-{next(_unique)}"
    with output_errors(folder):
        folder.mkdir()
    return folder


def discard(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def finish(layout: Layout, shard: int, folder: Path) -> None:
    """Steps 2 and 3 for a folder whose files are all written and synced."""
    sync_folder(folder)
    committed = layout.commit / f"{shard:05d}"
    if committed.is_dir():
        _put_in_place(layout, committed)
    with output_errors(committed):
        os.rename(folder, committed)
    sync_folder(layout.commit)
    _put_in_place(layout, committed)


def recover(layout: Layout, shards: Optional[Iterable[int]] = None) -> None:
    """Finishes what was committed and removes what was not; `shards`: only these, because others' are being written."""
    mine = None if shards is None else set(shards)
    for folder in _folders(layout.commit):
        if mine is None or int(folder.name) in mine:
            _put_in_place(layout, folder)
    for folder in _folders(layout.partial):
        if mine is None or int(folder.name.split("-")[0]) in mine:
            discard(folder)


def _put_in_place(layout: Layout, committed: Path) -> None:
    """Step 3, from wherever it was left."""
    names = sorted(os.listdir(committed), key=lambda name: (name.endswith(".json"), name))
    for name in names:
        place = layout.root / name_of(name)
        with output_errors(place.parent):
            place.parent.mkdir(exist_ok=True)
            if name.endswith(".json"):  # the mark comes after what it stands for, also on the disk
                _remove_others(layout, committed / name)
                for other in (*DATA_FOLDERS, ".seen"):
                    if (layout.root / other).is_dir():
                        sync_folder(layout.root / other)
            os.replace(committed / name, place)
    sync_folder(layout.root / "stats")
    with output_errors(committed):
        committed.rmdir()


def _remove_others(layout: Layout, stats: Path) -> None:
    """The files that the shard had before and has not any more: embeddings, where now all of its rows failed."""
    kept = json.loads(stats.read_text())["files"]
    for name in names_of(int(stats.stem)):
        if name.startswith(DATA_FOLDERS) and not name.startswith("stats/") and name not in kept:
            (layout.root / name).unlink(missing_ok=True)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
