"""WebDataset tar files: every image member is a row. One pass over the headers says where each image lies.

Locally that pass seeks from header to header; over a network the archive is streamed once. Afterwards any shard can
be read, resumed or repeated without the ones before it.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, Optional

import pyarrow as pa

from metric_learn_client.image_names import is_image_name
from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.input_rows import Input, Row, chunked
from metric_learn_client.jobs.inputs.magic import LOOK_BYTES, other_kind
from metric_learn_client.jobs.inputs.members import Member, members
from metric_learn_client.jobs.inputs.skipped import HIDDEN, Skipped, hidden
from metric_learn_client.jobs.inputs.sources import edges, find_sources
from metric_learn_client.jobs.options import InputSpec
from metric_learn_client.jobs.storage import open_file
from metric_learn_client.printable import escaped

_MAX_TEXT_BYTES = 1 << 20  # of one kept text member


class ArchiveInput(Input):
    """`image_path` is archive/member, `__key__` WebDataset's key; `spec.columns` names text members to keep
    ("txt", "cls", "json"), null where a sample has none.

    Links are rows with the picture that they lead to; a member that has no bytes of its own, or leads to none, is a
    row that fails.
    """

    kind = "tar"

    def __init__(self, names: list[str], spec: InputSpec) -> None:
        super().__init__()
        self._found = Skipped()
        self.sources = [source.name for source in find_sources(names, ".tar", spec.glob, self._found)]
        self._texts = spec.columns or ()

    @property
    def columns(self) -> pa.Schema:
        return pa.schema([pa.field("__key__", pa.string()), *(pa.field(name, pa.string()) for name in self._texts)])

    def batches(self) -> Iterator[pa.RecordBatch]:
        self.skipped = self._found.copy()
        yield from chunked(self._rows(), self.columns)

    def signature(self) -> Optional[list[Any]]:
        return [edges(name) for name in self.sources]

    def _rows(self) -> Iterator[Row]:
        for source, name in enumerate(self.sources):
            key: Optional[str] = None
            sample: list[Member] = []
            try:
                with open_file(name) as file:
                    for member in members(file):
                        if _key(member.name) != key:
                            yield from self._sample(sample, file, source, name)
                            key, sample = _key(member.name), []
                        sample.append(member)
                    yield from self._sample(sample, file, source, name)
            except (tarfile.TarError, OSError, EOFError) as error:
                raise InputError(f"{name}: not a whole, uncompressed tar file: {_reason(name, error)}") from error

    def _sample(self, sample: list[Member], file: BinaryIO, source: int, name: str) -> Iterator[Row]:
        images = []
        for member in sample:
            raw = os.fsencode(member.name)
            kind = hidden(raw, HIDDEN)
            if kind is None and is_image_name(raw):
                images.append(member)
            elif _extension(member.name) not in self._texts:
                self.skipped.add(os.fsencode(name) + b"/" + raw, kind)
        if not images:
            return
        texts = {_extension(member.name): member for member in sample if _extension(member.name) in self._texts}
        kept = tuple(_text(file, texts[each], name) if each in texts else None for each in self._texts)
        key = escaped(_key(sample[0].name))
        for member in images:
            problem = None if member.problem is None else member.problem.encode()
            path = f"{escaped(name)}/{escaped(member.name)}"
            yield (path, key, *kept, problem, source, member.offset, member.size)


def _text(file: BinaryIO, member: Member, name: str) -> Optional[str]:
    if member.size > _MAX_TEXT_BYTES:
        raise InputError(f"{name}/{member.name}: {member.size} bytes of text; the limit is {_MAX_TEXT_BYTES}")
    if member.problem is not None:
        return None
    file.seek(member.offset)
    return file.read(member.size).decode("utf-8", "replace")


def _reason(name: str, error: Exception) -> str:
    with open_file(name) as file:
        kind = other_kind(file.read(LOOK_BYTES))
    return str(error) if kind is None else f"it is {kind}"


def _key(member: str) -> str:
    folder, slash, base = member.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


def _extension(member: str) -> str:
    return member.rpartition("/")[2].partition(".")[2].lower()
