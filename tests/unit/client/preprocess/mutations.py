"""Damaged pictures without end: seeded mutations of one small sound picture of each kind (tests/golden/hostile/sound).

Half of the mutations know the format: they cut, repeat, swap, drop, resize and rename chunks, segments and headers and
put checksums right again, so that damage gets past the first check. The same seed gives the same bytes everywhere.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

SOUND = Path(__file__).parents[3] / "golden" / "hostile" / "sound"

Parts = list[bytes]  # a file's head and its segments or chunks, in order; joined they are the file
_NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)


def mutations(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` times (what was done to which picture, the damaged file)."""
    chance = random.Random(seed)
    pictures = {path.name: path.read_bytes() for path in sorted(SOUND.iterdir())}
    names = list(pictures)
    for number in range(count):
        name = chance.choice(names)
        data = pictures[name]
        done = []
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            mutation = chance.choice(_MUTATIONS)
            data = mutation(chance, data, pictures[chance.choice(names)])
            done.append(mutation.__name__.strip("_"))
        yield f"{seed}/{number} {name}: {', '.join(done)}", data


def parts(data: bytes) -> Parts:
    """The head and the chunks or segments of a JPEG, PNG or WebP as far as they can be read; else 16-byte pieces."""
    if data[:2] == b"\xff\xd8":
        return _walk(data, 2, lambda at: 2 + int.from_bytes(data[at + 2 : at + 4], "big"), b"\xff\xda")
    if data[:4] == b"\x89PNG":
        return _walk(data, 8, lambda at: 12 + int.from_bytes(data[at : at + 4], "big"))
    if data[:4] == b"RIFF":
        return _walk(data, 12, lambda at: 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1 & ~1))
    return [data[at : at + 16] for at in range(0, len(data), 16)]


def _walk(data, at, length, last=None) -> Parts:  # type: ignore[no-untyped-def]
    found = [data[:at]]
    while at < len(data) and len(found) < 100:
        end = len(data) if last and data[at : at + 2] == last else min(len(data), at + max(1, length(at)))
        found.append(data[at:end])
        at = end
    return found if at >= len(data) else [*found, data[at:]]


def _joined(kind: bytes, pieces: Parts) -> bytes:
    """The file, with the checksums of PNG chunks and the size of a RIFF put right."""
    if kind[:4] == b"\x89PNG":
        pieces = [pieces[0], *(_checked(piece) for piece in pieces[1:])] if pieces else pieces
    data = b"".join(pieces)
    return data[:4] + struct.pack("<I", max(0, len(data) - 8)) + data[8:] if kind[:4] == b"RIFF" else data


def _checked(chunk: bytes) -> bytes:
    return chunk if len(chunk) < 12 else chunk[:-4] + struct.pack(">I", zlib.crc32(chunk[4:-4]))


def _flip_bits(chance: random.Random, data: bytes, _: bytes) -> bytes:
    changed = bytearray(data)
    for _bit in range(chance.choice((1, 1, 2, 8, 40))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _flip_bits_in_the_head(chance: random.Random, data: bytes, _: bytes) -> bytes:
    changed = bytearray(data)
    for _bit in range(chance.choice((1, 1, 2, 4))):
        if changed:
            changed[chance.randrange(min(64, len(changed)))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(chance: random.Random, data: bytes, _: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _drop_bytes(chance: random.Random, data: bytes, _: bytes) -> bytes:
    start, end = sorted(chance.randrange(len(data) + 1) for _end in range(2))
    return data[:start] + data[end:]


def _drop_few_bytes(chance: random.Random, data: bytes, _: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + data[start + chance.choice((1, 1, 2, 3, 10)) :]


def _repeat_bytes(chance: random.Random, data: bytes, _: bytes) -> bytes:
    start, end = sorted(chance.randrange(len(data) + 1) for _end in range(2))
    return data[:end] + data[start:end] * chance.choice((1, 1, 2, 9)) + data[end:]


def _fill_bytes(chance: random.Random, data: bytes, _: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    end = min(len(data), start + chance.choice((1, 4, 20, 200)))
    return data[:start] + bytes([chance.choice((0, 255, 0xD9, chance.randrange(256)))]) * (end - start) + data[end:]


def _write_number(chance: random.Random, data: bytes, _: bytes) -> bytes:
    form = chance.choice((">H", "<H", ">I", "<I", "B"))
    size = struct.calcsize(form)
    at = chance.randrange(len(data) + 1)
    if chance.random() < 0.5:
        at = min(at, chance.randrange(64))
    number = chance.choice(_NUMBERS) & (256**size - 1)
    return data[:at] + struct.pack(form, number) + data[at + size :]


def _splice(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _write_marker(chance: random.Random, data: bytes, _: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + bytes([0xFF, chance.randrange(0xC0, 0x100)]) + data[at + chance.choice((0, 2)) :]


def _swap_parts(chance: random.Random, data: bytes, _: bytes) -> bytes:
    pieces = parts(data)
    if len(pieces) > 2:
        one, two = (chance.randrange(1, len(pieces)) for _part in range(2))
        pieces[one], pieces[two] = pieces[two], pieces[one]
    return _joined(data, pieces)


def _repeat_part(chance: random.Random, data: bytes, _: bytes) -> bytes:
    pieces = parts(data)
    at = chance.randrange(len(pieces)) if pieces else 0
    return _joined(data, pieces[:at] + pieces[at : at + 1] * chance.choice((2, 2, 3, 50)) + pieces[at + 1 :])


def _drop_part(chance: random.Random, data: bytes, _: bytes) -> bytes:
    pieces = parts(data)
    if len(pieces) > 1:
        del pieces[chance.randrange(1, len(pieces))]
    return _joined(data, pieces)


def _take_a_part(chance: random.Random, data: bytes, other: bytes) -> bytes:
    pieces, others = parts(data), parts(other)
    if pieces and others:
        pieces.insert(chance.randrange(1, len(pieces) + 1), chance.choice(others))
    return _joined(data, pieces)


def _damage_a_part(chance: random.Random, data: bytes, _: bytes) -> bytes:
    """Behind its length and name, and with the checksum put right: the decoder itself meets the damage."""
    pieces = parts(data)
    if pieces:
        at = chance.randrange(len(pieces))
        keep = 8 if at and data[:2] != b"\xff\xd8" else 4
        pieces[at] = pieces[at][:keep] + _flip_bits(chance, pieces[at][keep:], b"")
    return _joined(data, pieces)


def _shorten_a_part(chance: random.Random, data: bytes, _: bytes) -> bytes:
    """Its length is put right: what is missing is missing inside."""
    pieces = parts(data)
    if len(pieces) < 2:
        return data
    at = chance.randrange(1, len(pieces))
    piece = pieces[at]
    if data[:4] == b"\x89PNG" and len(piece) > 12:
        body = piece[8:-4][: chance.randrange(len(piece) - 12)]
        pieces[at] = struct.pack(">I", len(body)) + piece[4:8] + body + bytes(4)
    elif data[:4] == b"RIFF" and len(piece) > 8:
        body = piece[8 : 8 + chance.randrange(len(piece) - 8)]
        pieces[at] = piece[:4] + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    elif data[:2] == b"\xff\xd8" and len(piece) > 4 and piece[1] != 0xDA:
        body = piece[4 : 4 + chance.randrange(len(piece) - 4)]
        pieces[at] = piece[:2] + struct.pack(">H", len(body) + 2) + body
    return _joined(data, pieces)


def _damage_the_rows(chance: random.Random, data: bytes, _: bytes) -> bytes:
    """Inside the compressed stream of a PNG: filter bytes, pixels and the number of rows."""
    pieces = parts(data)
    for at, piece in enumerate(pieces):
        if data[:4] != b"\x89PNG" or piece[4:8] not in (b"IDAT", b"fdAT") or chance.random() < 0.3:
            continue
        lead = piece[8:12] if piece[4:8] == b"fdAT" else b""
        try:
            rows = zlib.decompress(piece[8 + len(lead) : -4])
        except zlib.error:
            continue
        change = chance.choice((_flip_bits, _cut, _fill_bytes, _drop_few_bytes, _repeat_bytes))
        body = lead + zlib.compress(change(chance, rows, b"")[:1_000_000])
        pieces[at] = struct.pack(">I", len(body)) + piece[4:8] + body + bytes(4)
    return _joined(data, pieces)


_MUTATIONS = (
    _flip_bits,
    _flip_bits_in_the_head,
    _cut,
    _drop_bytes,
    _drop_few_bytes,
    _repeat_bytes,
    _fill_bytes,
    _write_number,
    _splice,
    _write_marker,
    _swap_parts,
    _repeat_part,
    _drop_part,
    _take_a_part,
    _damage_a_part,
    _shorten_a_part,
    _damage_the_rows,
)
