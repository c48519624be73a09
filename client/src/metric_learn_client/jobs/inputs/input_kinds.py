"""Which kind of input a name stands for: a folder, a list, a table or an archive."""

from __future__ import annotations

import os

from metric_learn_client.image_names import IMAGE_SUFFIXES
from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.archives import ArchiveInput
from metric_learn_client.jobs.inputs.folders import FolderInput
from metric_learn_client.jobs.inputs.input_rows import Input
from metric_learn_client.jobs.inputs.lists import ListInput
from metric_learn_client.jobs.inputs.magic import LOOK_BYTES, other_kind
from metric_learn_client.jobs.inputs.tables import TableInput
from metric_learn_client.jobs.options import InputSpec, spelled
from metric_learn_client.jobs.patterns import expand_braces, has_wildcard
from metric_learn_client.jobs.storage import forget_listings, is_url, open_file

_SHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_LISTS = (".txt", ".lst", ".list", ".csv", ".tsv")


def open_input(spec: InputSpec) -> Input:
    """The input that `spec` describes, as it is now. Reads no row yet. Raises InputError."""
    spellings: dict[str, str] = {}  # the same name twice is one input
    for pattern in spec.inputs:
        for each in expand_braces(pattern):
            spellings.setdefault(spelled(each), each)
    names = list(spellings.values())
    forget_listings(names)
    kinds = {_kind(name, spec.input_format): name for name in names}
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise InputError(f"{first} is read as {one} and {second} as {other}: one job reads one kind of input")
    kind = next(iter(kinds))
    if kind == "files":
        return FolderInput(names, spec.glob)
    if kind == "parquet":
        return TableInput(names, spec)
    if kind == "tar":
        return ArchiveInput(names, spec)
    return ListInput(names, spec, kind)


def _kind(name: str, input_format: str) -> str:
    if input_format != "auto":
        return input_format
    if name == "-":
        return "lines"
    lower = name.rstrip("/").lower()
    if lower.endswith((".parquet", ".parq")):
        return "parquet"
    if lower.endswith(".tar"):
        return "tar"
    if lower.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")):
        raise InputError(f"{name}: images cannot be read from the middle of a compressed archive; unpack it to .tar")
    if lower.endswith(_SHEETS) and not os.path.isdir(name):
        raise InputError(f"{name}: a spreadsheet; save it as CSV, which Excel calls 'CSV UTF-8', and give that")
    if lower.endswith(_LISTS) and (is_url(name) or not os.path.isdir(name)):
        return "list"
    if lower.endswith(IMAGE_SUFFIXES) or has_wildcard(name) or is_url(name) or os.path.isdir(name):
        return "files"
    if not os.path.lexists(name):
        raise InputError(f"{name}: no such file or folder")
    if os.path.isfile(name):
        with open_file(name) as file:
            kind = other_kind(file.read(LOOK_BYTES))
        if kind is not None:
            raise InputError(f"{name}: it is {kind}")
    raise InputError(
        f"{name}: not a folder, and its name says neither image, list, .parquet nor .tar; if it is one of them, say "
        "which with --input-format; paths that are in another kind of file can be written as .csv"
    )
