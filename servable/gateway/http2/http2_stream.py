"""A stream of a connection of HTTP/2, on either side: one call of gRPC, what it sends and what it is told."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Optional, Union

PREFIX = struct.Struct(">BI")  # before each message of gRPC: is it compressed, its length
Buffer = Union[bytes, memoryview]


class Http2Stream(ABC):
    """What a connection sends of it, and tells it.

    window: bytes that the peer takes now. head_block: goes before all else; b"" once it has gone. end_block: ends the
    stream; b"": it ends with its message; None: another message follows. end_sent: nothing more is to be sent.
    """

    def __init__(self, stream: int, window: int, head_block: bytes) -> None:
        self.stream = stream
        self.window = window
        self.head_block = head_block
        self.end_block: Optional[bytes] = None
        self.end_sent = False
        self.out: deque[memoryview] = deque()  # of a message, what waits for the window
        self.left = 0  # bytes of it
        self.stuck_since = 0.0  # nothing of it has been taken
        self.half_closed = False  # the peer's half: nothing more comes

    def put(self, message: Iterable[Buffer]) -> None:
        """A message to send, in pieces that stay as they are until it is sent."""
        pieces = [memoryview(piece) for piece in message if piece]
        size = sum(map(len, pieces))
        self.out.append(memoryview(PREFIX.pack(0, size)))
        self.out += pieces
        self.left = PREFIX.size + size

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes of what waits."""
        while size:
            piece = self.out.popleft()
            if len(piece) > size:
                self.out.appendleft(piece[size:])
                piece = piece[:size]
            size -= len(piece)
            yield piece

    def drop(self) -> None:
        """What has not been sent is not wanted any more."""
        self.out.clear()
        self.left = 0

    @abstractmethod
    def sent(self) -> None:
        """All that was to be sent has been, some time after it was pushed."""

    @abstractmethod
    def arrived(self, piece: memoryview) -> bool:
        """Bytes of the body; False: more than may come."""

    @abstractmethod
    def padded(self, size: int) -> bool:
        """Bytes of padding came. False: more than may come."""

    @abstractmethod
    def no_more(self) -> None:
        """The peer's half is closed."""
