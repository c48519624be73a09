"""WebDataset tar files: every image member is a row. One pass over the headers says where each image lies.

Locally that pass seeks from header to header; over a network the archive is streamed once. Afterwards any shard can
be read, resumed or repeated without the ones before it.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, Optional

import pyarrow as pa

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.folders import IMAGE_SUFFIXES
from metric_learn_client.jobs.inputs.rows import Input, Row, as_text, chunked, planned_schema
from metric_learn_client.jobs.inputs.tables import edges, files
from metric_learn_client.jobs.options import InputSpec
from metric_learn_client.jobs.storage import open_file

_MAX_TEXT_BYTES = 1 << 20  # of one kept text member


class ArchiveInput(Input):
    """`image_path` is archive/member, `__key__` WebDataset's key; `spec.columns` names text members to keep
    ("txt", "cls", "json"), null where a sample has none."""

    kind = "tar"

    def __init__(self, names: list[str], spec: InputSpec) -> None:
        self.sources = list(files(names, ".tar", spec.glob))
        self._texts = spec.columns or ()

    @property
    def columns(self) -> pa.Schema:
        return pa.schema([pa.field("__key__", pa.string()), *(pa.field(name, pa.string()) for name in self._texts)])

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from chunked(self._rows(), planned_schema(self.columns))

    def signature(self) -> Optional[list[Any]]:
        return [edges(name) for name in self.sources]

    def _rows(self) -> Iterator[Row]:
        for source, name in enumerate(self.sources):
            key: Optional[str] = None
            sample: list[tarfile.TarInfo] = []
            try:
                with open_file(name) as file, tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                    for member in tar:
                        tar.members = []  # type: ignore[attr-defined]  # it would keep every header of the archive
                        if not member.isreg():
                            continue
                        if _key(member.name) != key:
                            yield from self._sample(sample, tar, source, name)
                            key, sample = _key(member.name), []
                        sample.append(member)
                    yield from self._sample(sample, tar, source, name)
                    _check_end(file, tar)
            except (tarfile.TarError, OSError, EOFError) as error:
                raise InputError(f"{name}: not a whole, uncompressed tar file: {error}") from error

    def _sample(self, members: list[tarfile.TarInfo], tar: tarfile.TarFile, source: int, name: str) -> Iterator[Row]:
        images = [member for member in members if member.name.lower().endswith(IMAGE_SUFFIXES)]
        if not images:
            return
        texts = {_extension(member.name): member for member in members if _extension(member.name) in self._texts}
        kept = tuple(_text(tar, texts[each], name) if each in texts else None for each in self._texts)
        key = _as_text(_key(members[0].name))
        for member in images:
            path = f"{name}/{_as_text(member.name)}"
            yield (path, key, *kept, None, source, member.offset_data, member.size)


def _check_end(file: BinaryIO, tar: tarfile.TarFile) -> None:
    """tarfile takes an archive that is cut off inside a header for one that ends there; its marker tells."""
    file.seek(tar.offset)  # type: ignore[attr-defined]
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it has no end-of-archive marker: it is cut off")


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> str:
    if member.size > _MAX_TEXT_BYTES:
        raise InputError(f"{name}/{member.name}: {member.size} bytes of text; the limit is {_MAX_TEXT_BYTES}")
    file = tar.extractfile(member)
    return file.read().decode("utf-8", "replace") if file is not None else ""


def _key(member: str) -> str:
    folder, slash, base = member.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


def _extension(member: str) -> str:
    return member.rpartition("/")[2].partition(".")[2].lower()


def _as_text(name: str) -> str:
    return as_text(name.encode("utf-8", "surrogateescape"))[0]
