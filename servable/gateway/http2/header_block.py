"""Header blocks (HPACK, RFC 7541) of gRPC calls: read by the `hpack` library, with bounds; written without a table.

How a call is written in headers: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. Pure.
"""

from __future__ import annotations

import base64
import binascii
import re
import string
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, Generic, Optional, TypeVar, Union
from urllib.parse import quote, unquote

import grpc
import hpack

from servable.gateway.errors import CallError
from servable.gateway.http2.frames import ConnectionFault, Reason
from servable.gateway.limits.connections import FIELD_BYTES, MOST_HEAD_BYTES

# Beyond, a block is not read to its end, so that nobody can know what a later one means.
MOST_READ_BYTES = 2 * MOST_HEAD_BYTES
# Blocks that are remembered: those of a client's calls are often the same. Only small ones, as they are and as they are
# read, since 1,024 connections can have as many each.
MOST_CACHED, MOST_CACHED_BYTES = 16, 2048
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"[0-9]{1,8}[HMSmun]")
_NAME = re.compile(rb":?[a-z0-9_.!#$%&'*+^`|~-]+")
_NO_VALUE = re.compile(rb"[\x00\r\n]")  # what ends a field in other protocols; RFC 9113, section 8.2.1
_GRPC = re.compile(rb"application/grpc($|[+;])")  # not grpc-web, which has other bodies
# Of HTTP/1.1's connections; RFC 9113, section 8.2.2
_OF_A_CONNECTION = (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
_NOT_METADATA = (b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding")
_AS_IT_IS = "".join(set(string.printable) - set("%\t\n\r\x0b\x0c"))  # in grpc-message
Pairs = tuple[tuple[str, Union[str, bytes]], ...]
Head = TypeVar("Head")


@dataclass(frozen=True)
class RequestHead:
    """What a header block asks for. fault: why it is no request at all; refusal: why it is none that is served here.

    metadata: of `-bin` the bytes. timeout_s: None without one.
    """

    path: str = ""
    metadata: Pairs = ()
    timeout_s: Optional[float] = None
    fault: str = ""
    refusal: Optional[CallError] = None
    http_status: int = 200


class BlockReader(Generic[Head]):
    """The blocks of one connection, in order. lost: one was too large to be read, so no later one can be.

    read_fields: what a block means; unread: what one means that was not read, and why.
    """

    def __init__(
        self, read_fields: Callable[[Iterable[tuple[bytes, bytes]]], Head], unread: Callable[[str], Head]
    ) -> None:
        self.lost = False
        self._read_fields = read_fields
        self._unread = unread
        self._decoder = hpack.Decoder(MOST_READ_BYTES)
        self._cached: dict[bytes, Head] = {}

    def read(self, block: bytes) -> tuple[Head, float]:
        """The head, and the processor time that it took, in us. Raises ConnectionFault."""
        found = self._cached.get(block)
        if found is not None:
            return found, 0.0
        began = time.thread_time()
        found = self._read(block)
        return found, 1e6 * (time.thread_time() - began)

    def skip(self, block: bytes) -> float:
        """Trailers, which say nothing in gRPC; returns and raises as `read` does."""
        if block in self._cached:
            return 0.0
        began = time.thread_time()
        self._fields(block)
        return 1e6 * (time.thread_time() - began)

    def _read(self, block: bytes) -> Head:
        fields, same_table = self._fields(block)
        if self.lost:
            return self._unread(f"more than {MOST_READ_BYTES} bytes")
        found = self._read_fields(fields)
        if same_table and len(self._cached) < MOST_CACHED and len(block) + _size(fields) <= MOST_CACHED_BYTES:
            self._cached[block] = found
        return found

    def _fields(self, block: bytes) -> tuple[Sequence[tuple[bytes, bytes]], bool]:
        """And whether HPACK's table is as it was. Raises ConnectionFault."""
        self.lost = self.lost or len(block) > MOST_READ_BYTES
        if self.lost:
            return (), False
        table = self._decoder.header_table
        newest, entries, size = next(iter(table.dynamic_entries), None), len(table.dynamic_entries), table.maxsize
        try:
            fields = list(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            self.lost = True
            return (), False
        except hpack.HPACKError as error:
            raise ConnectionFault(Reason.COMPRESSION_ERROR, f"a header block that cannot be read: {error}") from None
        after = next(iter(table.dynamic_entries), None)
        same = after is newest and len(table.dynamic_entries) == entries and table.maxsize == size
        if not same:
            self._cached.clear()  # an index means another field now
        return fields, same


class HeaderReader(BlockReader[RequestHead]):
    """The blocks of a caller."""

    def __init__(self) -> None:
        super().__init__(request_head, too_large)


def _size(fields: Iterable[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in fields)


def request_head(fields: Iterable[tuple[bytes, bytes]]) -> RequestHead:
    """Of the fields of a request."""
    pseudo: dict[bytes, bytes] = {}
    regular: list[tuple[bytes, bytes]] = []
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + FIELD_BYTES
        if not _NAME.fullmatch(name) or _NO_VALUE.search(value):
            return RequestHead(fault="a header whose name or value is none")
        if not name.startswith(b":"):
            regular.append((name, value))
        elif regular or name in pseudo:
            return RequestHead(fault="a pseudo-header twice, or behind others")
        else:
            pseudo[name] = value
    fault = _fault(pseudo, regular)
    return RequestHead(fault=fault) if fault else _read(pseudo, regular, size)


def _fault(pseudo: dict[bytes, bytes], regular: Sequence[tuple[bytes, bytes]]) -> str:
    if not {b":method", b":scheme", b":path"} <= set(pseudo) <= {b":method", b":scheme", b":path", b":authority"}:
        return "a request without :method, :scheme and :path, or with other pseudo-headers"
    if not pseudo[b":path"]:
        return "an empty :path"
    for name, value in regular:
        if name in _OF_A_CONNECTION or (name == b"te" and value != b"trailers"):
            return f"the header {name.decode()} of HTTP/1.1"
    return ""


def _read(pseudo: dict[bytes, bytes], regular: Sequence[tuple[bytes, bytes]], size: int) -> RequestHead:
    path = pseudo[b":path"].decode("utf-8", "replace")
    headers = dict(regular)
    if pseudo[b":method"] != b"POST":
        return RequestHead(path, refusal=_invalid("gRPC is POST alone"), http_status=405)
    if not _GRPC.match(headers.get(b"content-type", b"")):
        return RequestHead(path, refusal=_invalid("the content-type must be application/grpc"), http_status=415)
    try:
        metadata = tuple(
            (name.decode("ascii"), each)
            for name, value in regular
            if name not in _NOT_METADATA
            for each in (_binary(value) if name.endswith(b"-bin") else (value.decode("utf-8", "replace"),))
        )
    except ValueError:
        return RequestHead(path, refusal=_invalid("metadata that ends in -bin must be base64"))
    if size > MOST_HEAD_BYTES:
        return too_large(f"{size} bytes")
    if headers.get(b"grpc-encoding", b"identity") != b"identity":
        words = "messages are not unpacked here: send them without compression"
        return RequestHead(path, metadata, refusal=CallError(grpc.StatusCode.UNIMPLEMENTED, words))
    said = headers.get(b"grpc-timeout")
    timeout = None if said is None else said.decode("ascii", "replace")
    if timeout is not None and not _TIMEOUT.fullmatch(timeout):
        return RequestHead(path, metadata, refusal=_invalid(f"grpc-timeout {timeout[:20]!r} is no time"))
    return RequestHead(path, metadata, int(timeout[:-1]) * _SECONDS[timeout[-1]] if timeout else None)


def too_large(what: str) -> RequestHead:
    """A call with too much metadata."""
    words = f"{what} of metadata, each field with {FIELD_BYTES} bytes more; the limit is {MOST_HEAD_BYTES}"
    return RequestHead(refusal=CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, words))


def _invalid(words: str) -> CallError:
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, words)


def _binary(value: bytes) -> list[bytes]:
    """Raises ValueError. With padding or without; several may be joined by commas."""
    parts = value.replace(b" ", b"").split(b",")
    try:
        return [base64.b64decode(part + b"=" * (-len(part) % 4), validate=True) for part in parts]
    except binascii.Error as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True)
class ReplyHead:
    """What a header block answers. status: of the call, in the block at its end; None in the one before a message.

    fault: why it is no answer of gRPC.
    """

    status: Optional[grpc.StatusCode] = None
    message: str = ""
    fault: str = ""


_STATUSES = {str(status.value[0]).encode(): status for status in grpc.StatusCode}


def reply_head(fields: Iterable[tuple[bytes, bytes]]) -> ReplyHead:
    """Of the fields of a reply, from a peer that is trusted."""
    headers = dict(fields)
    if headers.get(b":status", b"200") != b"200":
        return ReplyHead(fault=f"HTTP status {headers[b':status'][:20]!r}")
    if headers.get(b"grpc-encoding", b"identity") != b"identity":
        return ReplyHead(fault="a compressed reply, which was not asked for")
    said = headers.get(b"grpc-status")
    if said is None:
        return ReplyHead()
    message = unquote(headers.get(b"grpc-message", b"").decode("utf-8", "replace"))
    return ReplyHead(_STATUSES.get(said, grpc.StatusCode.UNKNOWN), message)


def request_block(path: str, timeout_s: float) -> bytes:
    """The block that asks for a call over a unix socket."""
    pseudo = b"\x83\x86\x04" + _text(path.encode()) + b"\x01" + _text(b"localhost")  # POST, http, :path, :authority
    timeout = f"{min(99_999_999, max(1, round(1000 * timeout_s)))}m"
    regular = (("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", timeout))
    return pseudo + b"".join(_field(name, value) for name, value in regular)


# HPACK's table is made empty. Who lowers its size waits for that word (RFC 7541, section 4.2), and then for no other.
TABLE_OF_NOTHING = b"\x20"


def response_head(status: int = 200) -> bytes:
    """The block before the first message, or of a refusal in HTTP's own words."""
    pseudo = b"\x88" if status == 200 else b"\x08" + _text(str(status).encode())  # 8: the name :status
    return pseudo + b"\x0f\x10" + _text(b"application/grpc")  # 31: the name content-type


def status_block(code: int, message: str, metadata: Iterable[tuple[str, Union[str, bytes]]]) -> bytes:
    """The block at the end of a call."""
    parts = [_field("grpc-status", str(code))]
    if message:
        parts.append(_field("grpc-message", quote(message, safe=_AS_IT_IS)))
    parts += [_field(name, value) for name, value in metadata]
    return b"".join(parts)


@lru_cache(maxsize=256)  # of four in an answer, three are those of the answer before
def _field(name: str, value: Union[str, bytes]) -> bytes:
    """Literal, without indexing."""
    if isinstance(value, bytes):
        value = base64.b64encode(value).rstrip(b"=").decode()
    return b"\x00" + _text(name.encode()) + _text(value.encode("ascii", "replace"))


def _text(text: bytes) -> bytes:
    """Without Huffman's code."""
    length = len(text)
    if length < 127:
        return bytes((length,)) + text
    head, length = b"\x7f", length - 127
    while length >= 128:
        head, length = head + bytes((length & 127 | 128,)), length >> 7
    return head + bytes((length,)) + text
