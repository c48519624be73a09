"""A JPEG encoder for tests: any sampling factors, scans together or apart, restart markers; nothing but DC values."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Optional

Factors = tuple[int, int]  # horizontal, vertical
_DC_CODES = bytes([0, 0, 7, *[0] * 13, *range(7)])  # seven codes of three bits: sizes 0 to 6
_AC_CODES = bytes([1, *[0] * 15, 0])  # one code of one bit: the end of the block


def small_jpeg(
    width: int,
    height: int,
    factors: Sequence[Factors],
    *,
    seed: int = 0,
    restart: int = 0,
    adobe: Optional[int] = None,
    jfif: bool = True,
    together: bool = True,
    leave_out: int = 0,
) -> bytes:
    """A valid baseline JPEG of random blocks. adobe: the transform of an Adobe marker. leave_out: scans at the end."""
    chance = random.Random(seed)
    head = b"\xff\xd8"
    if jfif:
        head += segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    if adobe is not None:
        head += segment(0xEE, b"Adobe\0d\0\0\0\0" + bytes([adobe]))
    frame = b"".join(bytes([index, across << 4 | down, 0]) for index, (across, down) in enumerate(factors))
    head += (
        segment(0xDB, b"\0" + bytes([16] * 64)) + segment(0xC4, b"\0" + _DC_CODES) + segment(0xC4, b"\x10" + _AC_CODES)
    )
    head += segment(0xC0, struct.pack(">BHHB", 8, height, width, len(factors)) + frame)
    if restart:
        head += segment(0xDD, struct.pack(">H", restart))
    groups = [list(range(len(factors)))] if together else [[index] for index in range(len(factors))]
    scans = [_scan(chance, width, height, factors, group, restart) for group in groups]
    return head + b"".join(scans[: len(scans) - leave_out]) + b"\xff\xd9"


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _scan(
    chance: random.Random, width: int, height: int, factors: Sequence[Factors], group: list[int], restart: int
) -> bytes:
    most_across, most_down = max(across for across, _ in factors), max(down for _, down in factors)
    if len(group) > 1:
        across, down = -(-width // (8 * most_across)), -(-height // (8 * most_down))
        blocks = [index for index in group for _ in range(factors[index][0] * factors[index][1])]
    else:
        own_across, own_down = factors[group[0]]
        across, down = -(-width * own_across // most_across) // -8, -(-height * own_down // most_down) // -8
        across, down = abs(across), abs(down)
        blocks = group
    data, bits, before = b"", "", dict.fromkeys(group, 0)
    for unit in range(across * down):
        if restart and unit and unit % restart == 0:
            data += _bytes(bits) + bytes([0xFF, 0xD0 + (unit // restart - 1) % 8])
            bits, before = "", dict.fromkeys(group, 0)
        for index in blocks:
            value = chance.randint(-30, 30)
            step = value - before[index]
            before[index] = value
            size = abs(step).bit_length()
            bits += f"{size:03b}" + (f"{step if step > 0 else step + (1 << size) - 1:0{size}b}" if size else "") + "0"
    names = b"".join(bytes([index, 0]) for index in group)
    return segment(0xDA, bytes([len(group)]) + names + b"\0\x3f\0") + data + _bytes(bits)


def _bytes(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return int("1" + bits, 2).to_bytes(len(bits) // 8 + 1, "big")[1:].replace(b"\xff", b"\xff\0")
