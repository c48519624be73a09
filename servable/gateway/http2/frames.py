"""Frames of HTTP/2 (RFC 9113, section 6): their numbers, and the bytes of those that are sent. Pure."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Optional

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
# Settings
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)
FIRST_WINDOW = 65_535  # of a connection and of each stream, until something else is said
LEAST_FRAME, MOST_FRAME = 2**14, 2**24 - 1
MOST_WINDOW = MOST_STREAM = 2**31 - 1

_FIXED_BYTES = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
HEAD = struct.Struct(">HBBBI")  # the length is 24 bits: its upper part first
_WINDOW_UPDATE = struct.Struct(">HBBBII")


class Reason(IntEnum):
    """Why a stream or a connection ends (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):
    """What the caller sent cannot be read on from: the connection ends with `reason`."""

    def __init__(self, reason: Reason, words: str) -> None:
        super().__init__(words)
        self.reason = reason
        self.words = words


def head(kind: int, flags: int, stream: int, length: int) -> bytes:
    """What stands before `length` bytes of payload."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def settings(values: dict[int, int]) -> bytes:
    payload = b"".join(struct.pack(">HI", *pair) for pair in values.items())
    return head(SETTINGS, 0, 0, len(payload)) + payload


SETTINGS_TAKEN = head(SETTINGS, ACK, 0, 0)


def ping(payload: bytes, *, answer: bool) -> bytes:
    """payload: 8 bytes."""
    return head(PING, ACK if answer else 0, 0, 8) + payload


def reset(stream: int, reason: Reason) -> bytes:
    return head(RST_STREAM, 0, stream, 4) + struct.pack(">I", reason)


def go_away(last_stream: int, reason: Reason, words: str = "") -> bytes:
    """last_stream: calls after it were not begun."""
    payload = struct.pack(">II", last_stream, reason) + words.encode()
    return head(GOAWAY, 0, 0, len(payload)) + payload


def window_update(stream: int, more: int) -> bytes:
    """stream 0: the connection's."""
    return _WINDOW_UPDATE.pack(0, 4, WINDOW_UPDATE, 0, stream, more)


def read_settings(payload: bytes) -> dict[int, int]:
    """The last value of each. Raises ConnectionFault where one is none that there may be."""
    if len(payload) % 6:
        raise ConnectionFault(Reason.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    values = dict(struct.iter_unpack(">HI", payload))
    if values.get(ENABLE_PUSH, 0) > 1:
        raise ConnectionFault(Reason.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH of {values[ENABLE_PUSH]}")
    if values.get(INITIAL_WINDOW_SIZE, 0) > MOST_WINDOW:
        raise ConnectionFault(
            Reason.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE of {values[INITIAL_WINDOW_SIZE]}"
        )
    if not LEAST_FRAME <= values.get(MAX_FRAME_SIZE, LEAST_FRAME) <= MOST_FRAME:
        raise ConnectionFault(Reason.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE of {values[MAX_FRAME_SIZE]}")
    return values


def padding_of(payload: memoryview, length: int) -> int:
    """Bytes of padding in DATA or HEADERS of `length` bytes, with the one at its beginning that tells how many.

    payload: at least its first byte, where there is one. Raises ConnectionFault where the padding is longer.
    """
    if not length:
        raise ConnectionFault(Reason.FRAME_SIZE_ERROR, "a padded frame without a word of its padding")
    padding = 1 + payload[0]
    if padding > length:
        raise ConnectionFault(Reason.PROTOCOL_ERROR, f"{padding} bytes of padding in a frame of {length}")
    return padding


def error_of(kind: int, length: int, stream: int) -> Optional[ConnectionFault]:
    """What is wrong with a frame's head, before its payload is there."""
    on_connection = kind in (SETTINGS, PING, GOAWAY)
    if kind != WINDOW_UPDATE and kind <= CONTINUATION and on_connection != (stream == 0):
        return ConnectionFault(Reason.PROTOCOL_ERROR, f"a frame of kind {kind} on stream {stream}")
    if stream and not stream % 2 and kind <= CONTINUATION and kind != PRIORITY:
        return ConnectionFault(Reason.PROTOCOL_ERROR, f"stream {stream}: a server would open it, and none does here")
    if length != _FIXED_BYTES.get(kind, length) or (kind == GOAWAY and length < 8):
        return ConnectionFault(Reason.FRAME_SIZE_ERROR, f"a frame of kind {kind} with {length} bytes")
    return None
