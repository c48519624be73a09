"""What a file is by its first bytes, where its name or an option says something else. Pure.

Sources: RFC 1952 (gzip), RFC 8878 (zstd), the formats' own pages (bzip2, xz, zip, 7z, Parquet, Arrow).
"""

from __future__ import annotations

from typing import Optional

LOOK_BYTES = 16
_UNPACK = "unpack it, archives to .tar"
_KINDS = (
    (b"\x1f\x8b", f"compressed by gzip: {_UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"compressed by zstd: {_UNPACK}"),
    (b"\xfd7zXZ\0", f"compressed by xz: {_UNPACK}"),
    *((b"BZh%d1AY&SY" % size, f"compressed by bzip2: {_UNPACK}") for size in range(1, 10)),
    (b"PK\x03\x04", f"a zip archive: {_UNPACK}"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7z archive: {_UNPACK}"),
    (b"PAR1\x15", "a parquet table: name it .parquet, or give --input-format parquet"),
    (b"ARROW1\0\0", "an Arrow or Feather file: write it as parquet"),
)


def other_kind(start: bytes) -> Optional[str]:
    """What a file that begins so is, and what to do about it, if it is one of the kinds that are mistaken for lists,
    tables and archives."""
    return next((kind for sign, kind in _KINDS if start.startswith(sign)), None)
