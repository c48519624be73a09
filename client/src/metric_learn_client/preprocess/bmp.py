"""BMP (Windows GDI headers): the header, and whether the rows that it promises are there."""

from __future__ import annotations

from metric_learn_client.preprocess.header import Buffer, ImageHeader, check_size
from metric_learn_client.preprocess.limits import DecodeLimits, damaged, unsupported

_FILE_HEADER_BYTES = 14
_OS2_HEADER_BYTES = 12
_RGB, _RLE8, _RLE4, _BITFIELDS, _JPEG, _PNG, _ALPHA_BITFIELDS = range(7)  # compression
_MASKS_16 = ((0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F))
_MASKS_32 = ((0xFF0000, 0xFF00, 0xFF),)


def read_header(data: Buffer, limits: DecodeLimits) -> ImageHeader:
    """Size; raises ImageError where OpenCV would read other colours or rows than the file has, or none."""
    if len(data) < _FILE_HEADER_BYTES + _OS2_HEADER_BYTES:
        raise damaged("the BMP header is cut off")
    start, size = _number(data, 10), _number(data, 14)
    if size == _OS2_HEADER_BYTES:
        width, height, bits = _number(data, 18, 2), _number(data, 20, 2), _number(data, 24, 2)
        compression, entries, entry_bytes = _RGB, 0, 3
    elif size >= 40 and len(data) >= _FILE_HEADER_BYTES + size:
        width, height, bits = _signed(data, 18), abs(_signed(data, 22)), _number(data, 28, 2)  # negative: top-down
        compression, entries, entry_bytes = _number(data, 30), _number(data, 46), 4
    elif size in (16, 64) or size >= 40:
        raise damaged("the BMP header is cut off") if size >= 40 else unsupported("an OS/2 2.x BMP")
    else:
        raise damaged("the BMP header has a wrong length")
    check_size("BMP", width, height, limits)
    _check_kind(data, bits, compression)
    palette = entry_bytes * (entries or 1 << bits) if bits <= 8 else 0
    if entries > 256 and bits <= 8:
        raise damaged("the BMP palette is too long")
    if start < _FILE_HEADER_BYTES + size + palette:
        raise damaged("the BMP pixels start inside its header")
    row_bytes = (width * bits + 31) // 32 * 4
    packed = compression in (_RLE8, _RLE4)
    if start >= len(data) or (not packed and start + row_bytes * height > len(data)):
        raise damaged("the BMP is cut off")
    return ImageHeader("bmp", width, height)


def _check_kind(data: Buffer, bits: int, compression: int) -> None:
    if compression in (_JPEG, _PNG):
        raise unsupported("a BMP that holds a JPEG or PNG")
    if compression == _ALPHA_BITFIELDS:
        raise unsupported("a BMP with alpha bit fields")
    if compression > _ALPHA_BITFIELDS or bits not in (1, 4, 8, 16, 24, 32):
        raise damaged("the BMP header says what BMP does not have")
    if (compression == _RLE8 and bits != 8) or (compression == _RLE4 and bits != 4):
        raise damaged("the BMP header says what BMP does not have")
    if compression == _BITFIELDS:
        masks = tuple(_number(data, at) for at in (54, 58, 62))
        if bits not in (16, 32):
            raise damaged("the BMP header says what BMP does not have")
        if masks not in (_MASKS_16 if bits == 16 else _MASKS_32):
            raise unsupported("a BMP with unusual bit fields")


def _number(data: Buffer, position: int, size: int = 4) -> int:
    return int.from_bytes(data[position : position + size], "little")


def _signed(data: Buffer, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "little", signed=True)
