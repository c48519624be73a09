"""Pictures as text: data URIs (RFC 2397) and base64 as people send them. Pure; nothing is ever fetched.

What the media type says does not matter: the bytes decide.
"""

from __future__ import annotations

from typing import Union

import numpy as np
import pybase64

from metric_learn_client.wire import ImageErrorCode
from servable.gateway.errors import CallError, invalid

Text = Union[str, memoryview]  # memoryview: ASCII, as json_text leaves long strings
_MOST_HEAD = 256  # characters before the comma of a data URI
_FORM = "write data:image/jpeg;base64,..."
_FETCHED = ("http:", "https:", "ftp:", "file:", "s3:", "gs:", "blob:", "//")
# How base64 of the kinds that are read begins, for a hint.
_BEGINNINGS = {"/9j/": "image/jpeg", "iVBORw0KGgo": "image/png", "UklGR": "image/webp", "Qk": "image/bmp"}
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_SPACE = b" \t\r\n\f\v"
PIECE = 1024 * 1024  # some 2 ms
_HEX = np.full(256, -1, np.int16)  # a character -> its value as a hexadecimal digit
_HEX[list(b"0123456789abcdef")] = _HEX[list(b"0123456789ABCDEF")] = range(16)


class BrokenBase64(ValueError):
    """The text is no base64: the fault of this picture alone. Its words are "E_DECODE: ..."."""


def read_data_uri(text: Text, place: str) -> bytes:
    """The bytes of `data:[type][;parameters];base64,...`; upper case, white space and missing padding do not matter.

    Raises CallError (INVALID_ARGUMENT, with `place`) for anything else, BrokenBase64.
    """
    begin = _beginning(text)
    uri = begin.lstrip()
    if uri[:5].lower() != "data:":
        raise _no_data_uri(uri, place)
    comma = begin.find(",")
    if comma < 0:
        raise invalid(place, f"the data URI has no comma within {_MOST_HEAD} characters; {_FORM}")
    if begin[:comma].replace(":", ";").split(";")[-1].strip().lower() != "base64":
        raise invalid(place, f"the data URI is not base64; {_FORM}")
    return read_base64(text[comma + 1 :])


def read_base64(text: Text) -> bytes:
    """Both alphabets, with or without padding, white space and percent-encoding. Raises BrokenBase64."""
    try:
        return bytes(pybase64.b64decode(text, validate=True))
    except ValueError:  # binascii.Error is one
        pass
    data = _plain(text)
    try:
        return bytes(pybase64.b64decode(data + b"=" * (-len(data) % 4), validate=True))
    except ValueError:
        raise BrokenBase64(f"{ImageErrorCode.DECODE.value}: the base64 text is broken or cut off") from None


def _plain(text: Text) -> bytes:
    """In the usual alphabet, nothing between and behind it; piece by piece, so that other threads have their turn."""
    view = memoryview(text.encode("utf-8", "replace") if isinstance(text, str) else text)
    pieces = [bytes(view[at : at + PIECE]) for at in range(0, len(view), PIECE)]
    if any(b"%" in piece for piece in pieces):
        pieces = _unquoted(pieces)
    return b"".join(piece.translate(_URL_SAFE, _SPACE) for piece in pieces).rstrip(b"=")


def _unquoted(pieces: list[bytes]) -> list[bytes]:
    """Without percent-encoding. Not `urllib.parse.unquote_to_bytes`, which makes an object of each percent sign."""
    found, left = [], b""
    for piece in pieces:
        piece = left + piece
        cut = piece.rfind(b"%", max(0, len(piece) - 2))  # its two digits are in the next piece
        left = piece[cut:] if cut >= 0 else b""
        text = np.frombuffer(piece[:cut] if cut >= 0 else piece, np.uint8)
        signs = np.flatnonzero(text[:-2] == ord("%"))
        high, low = _HEX[text[signs + 1]], _HEX[text[signs + 2]]
        right = (high >= 0) & (low >= 0)
        signs = signs[right]
        plain, kept = text.copy(), np.ones(len(text), np.bool_)
        plain[signs] = 16 * high[right] + low[right]
        kept[signs + 1] = kept[signs + 2] = False
        found.append(plain[kept].tobytes())
    return [*found, left]


def _beginning(text: Text) -> str:
    begin = text[:_MOST_HEAD]
    return begin if isinstance(begin, str) else bytes(begin).decode("latin-1")


def _no_data_uri(text: str, place: str) -> CallError:
    if text.lower().startswith(_FETCHED):
        what = "a URL is never fetched, for it could reach what the caller cannot; send the picture itself: " + _FORM
        return invalid(place, what)
    for beginning, media_type in _BEGINNINGS.items():
        if text.startswith(beginning):
            return invalid(place, f"base64 without its head; write data:{media_type};base64,... before it")
    return invalid(place, f"this model embeds pictures, not text; {_FORM}")
