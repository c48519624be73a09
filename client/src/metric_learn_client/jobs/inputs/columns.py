"""The columns of a table: which is the picture, which its path, which are kept, and as what. Arrow only: no disk."""

from __future__ import annotations

from typing import NamedTuple, Optional

import pyarrow as pa

from metric_learn_client.image_names import path_column
from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.options import InputSpec

# A column of a table, and a field of it where it holds structs.
Place = tuple[str, Optional[str]]


class Columns(NamedTuple):
    """Which column is what. image: None where paths are the images; path: None where it is made up from file and row;
    kept: the user's, as the table has them."""

    image: Optional[Place]
    path: Optional[Place]
    kept: list[str]

    @property
    def needed(self) -> list[str]:
        """Every column of the table that is read."""
        return [*(place[0] for place in (self.image, self.path) if place is not None), *self.kept]


def dotted(place: Place) -> str:
    """As Arrow names it: "image.bytes"."""
    return ".".join(part for part in place if part is not None)


def choose(schema: pa.Schema, spec: InputSpec, name: str) -> Columns:
    """Raises InputError where it is not clear which column is what."""
    twice = sorted({column for column in schema.names if schema.names.count(column) > 1})
    for option, column in (("--bytes-column", spec.bytes_column), ("--path-column", spec.path_column)):
        if column is not None and column not in schema.names:
            raise InputError(f"{name}: {option} {column}: the columns are {', '.join(schema.names)}")
    images = [spec.bytes_column] if spec.bytes_column else [f.name for f in schema if holds_images(f.type)]
    if spec.bytes_column is None and spec.path_column is not None and len(images) != 1:
        images = []
    if len(set(images)) > 1:
        raise InputError(f"{name}: which column has the images, {' or '.join(images)}? say --bytes-column")
    path = spec.path_column or path_column([column for column in schema.names if column not in images])
    if path is not None and path not in twice and not _is_text(schema.field(path).type):
        if spec.path_column is not None or not images:
            raise InputError(f"{name}: column {path!r} is {schema.field(path).type}, not text")
        path = None
    taken = {path, *images}
    kept = [column for column in schema.names if column not in taken]
    if spec.columns is not None:
        missing = [column for column in spec.columns if column not in kept]
        if missing:
            raise InputError(f"{name}: --columns {missing[0]}: can be {', '.join(kept) or 'none'}")
        kept = list(spec.columns)
    for column in twice:
        if column in taken or column in kept:
            raise InputError(f"{name}: two columns are called {column!r}: rename one, or keep others with --columns")
    if not images and path is None:
        raise InputError(f"{name}: no column of paths or images among {', '.join(schema.names)}: say --path-column")
    place = None if path is None else (path, None)
    if not images:
        return Columns(None, place, kept)
    image = images[0]
    kind = schema.field(image).type
    if not holds_images(kind) and not pa.types.is_fixed_size_binary(kind):
        raise InputError(f"{name}: column {image!r} is {kind}, not encoded images")
    if not pa.types.is_struct(kind):
        return Columns((image, None), place, kept)
    if place is None and any(kind.field(i).name == "path" for i in range(kind.num_fields)):
        return Columns((image, "bytes"), (image, "path"), kept)
    return Columns((image, "bytes"), place, kept)


def holds_images(kind: pa.DataType) -> bool:
    """Bytes, or a struct with `bytes` in it, as Hugging Face has them."""
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and holds_images(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_dictionary(kind):
        return holds_images(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is(kind, "is_binary_view"))


def plain(kind: pa.DataType) -> pa.DataType:
    """What a column is kept as: categories, views, large and extension types are only ways to store the same values,
    and differ from file to file of one table."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if pa.types.is_large_string(kind) or _is(kind, "is_string_view"):
        return pa.string()
    if pa.types.is_large_binary(kind) or _is(kind, "is_binary_view"):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or _is(kind, "is_list_view", "is_large_list_view"):
        return pa.list_(pa.field("item", plain(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(pa.field("item", plain(kind.value_type)), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(kind.field(i).name, plain(kind.field(i).type)) for i in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type))
    return kind


def as_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values as `kind`, which is plain(column.type). Raises pa.ArrowException."""
    if column.type == kind:
        return column
    if isinstance(column, pa.ExtensionArray):
        return as_type(column.storage, kind)
    if isinstance(column, pa.DictionaryArray):
        return as_type(column.dictionary_decode(), kind)
    try:
        return column.cast(kind)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return pa.array(column.to_pylist(), kind)  # nested categories and views, which Arrow does not cast


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(plain(kind)))


def _is(kind: pa.DataType, *names: str) -> bool:
    """For types that the oldest supported pyarrow does not know."""
    return any(getattr(pa.types, name)(kind) for name in names if hasattr(pa.types, name))
