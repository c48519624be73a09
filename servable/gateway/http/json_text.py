"""The text of a JSON body -> Python values, strictly and within bounds. Pure.

Pictures travel in it as very long strings. Those are cut out before anything is parsed, where they stand, without a
copy; what remains is small, so the parser is a strict one and its work is bounded, whatever a stranger sends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Union

from servable.gateway.errors import invalid

LONG = 512  # characters of a string that is cut out
MOST_STRINGS = 32_768  # of a body
MOST_REST = 512 * 1024  # bytes of a body beside its long strings
# Commas and opening brackets of the rest, beside those of pictures. What is let through takes 10 ms at most.
MOST_VALUES = 16_384
VALUES_OF_A_PICTURE = 8  # the most, in any form: {"pixels": {"b64": ..., "type": ..., "shape": [224, 224, 3]}},
MOST_ESCAPED = 16  # one escape in so many characters of a long string; the most are those of "+" and "/", two in 64
MOST_PARSED = 64 * 1024  # characters of a long string whose escapes are not those of base64
PIECE = 256 * 1024  # characters that are replaced at one go, 0.5 ms in which no other thread runs
MOST_ESCAPE = 6  # characters of one
_QUOTE, _BACKSLASH = b'"', b"\\"
_ESCAPES = (
    (b"\\/", b"/"),
    (b"\\n", b"\n"),
    (b"\\r", b"\r"),
    (b"\\t", b"\t"),
    (b"\\u002b", b"+"),
    (b"\\u002B", b"+"),
    (b"\\u002f", b"/"),
    (b"\\u002F", b"/"),
    (b"\\u003d", b"="),
    (b"\\u003D", b"="),
)
Long = Union[str, memoryview]  # a long string: its bytes where they are, text where it held escapes


class NotJson(ValueError):
    """The text is not JSON that is taken here; the words say why."""


def most_values_of(pictures: int) -> int:
    """For so many of them in one call, and some too many, which are told so."""
    return MOST_VALUES + VALUES_OF_A_PICTURE * pictures


def read_json(body: bytes, *, most_rest: int = MOST_REST, most_values: int = MOST_VALUES) -> Any:
    """What the body holds. A string beyond LONG characters is `Long`, any other value what `json` makes of it.

    Raises CallError (INVALID_ARGUMENT): not JSON, not UTF-8, a key twice, NaN, too deep, too much beside the strings,
    too many values.
    """
    try:
        rest, cut = _cut_long_strings(body, most_rest)
        if sum(map(rest.count, (b",", b"[", b"{"))) > most_values:
            raise NotJson(f"more than {most_values} commas and brackets")
        value = json.loads(rest.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
        return _put_back(value, cut) if cut else value
    except UnicodeDecodeError as error:
        raise invalid("body", f"not UTF-8 ({error.reason}); JSON is written in UTF-8") from None
    except RecursionError:
        raise invalid("body", "the JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise invalid("body", f"not JSON: {error.msg}") from None
    except NotJson as error:
        raise invalid("body", str(error)) from None
    except ValueError:  # more digits than Python reads
        raise invalid("body", "not JSON that is taken here: a number is too long") from None


def _cut_long_strings(body: bytes, most_rest: int) -> tuple[bytes, list[Long]]:
    r"""(body with each long string replaced by "\u0000" and its number, those strings). Raises NotJson.

    No string of a caller's can be taken for one that was replaced: one that begins so is refused.
    """
    parts: list[bytes] = []
    cut: list[Long] = []
    view, size, at, strings = memoryview(body), 0, 0, 0
    start = body.find(_QUOTE)
    while start >= 0 and size + start - at <= most_rest:
        stop = _end_of_string(body, start)
        strings += 1
        if strings > MOST_STRINGS:
            raise NotJson(f"more than {MOST_STRINGS} strings")
        if stop - start > LONG:
            parts += (body[at:start], b'"\\u0000%d"' % len(cut))
            size += start - at
            escaped = body.find(_BACKSLASH, start, stop) >= 0
            cut.append(_unescaped(body[start : stop + 1]) if escaped else view[start + 1 : stop])
            at = stop + 1
        elif body.startswith(b"\\u0000", start + 1):
            raise NotJson("a string begins with the character U+0000")
        start = body.find(_QUOTE, stop + 1)
    if size + len(body) - at > most_rest:
        raise NotJson(f"more than {most_rest} bytes beside its long strings")
    parts.append(body[at:])
    return b"".join(parts), cut


def _unescaped(string: bytes) -> Long:
    """Of a long string with its quotes. Raises ValueError.

    The escapes that base64 is written with are replaced all at once. Where each backslash began one of them, none was
    itself escaped, so the result is what a parser finds, which takes twenty times as long.
    """
    if string.count(_BACKSLASH) * MOST_ESCAPED > len(string):
        raise NotJson(f"a string of more than {LONG} characters with more than one escape in {MOST_ESCAPED}")
    text = b"".join(map(_replaced, _pieces(string)))
    if _BACKSLASH not in text:
        return memoryview(text)
    if len(string) > MOST_PARSED:
        raise NotJson("a long string with escapes that base64 has no use for")
    return str(json.loads(string))


def _pieces(string: bytes) -> Iterator[bytes]:
    """What is between its quotes, in pieces that end before an escape or far from one."""
    at, end = 1, len(string) - 1
    while at < end:
        stop = min(at + PIECE, end)
        if stop < end:
            escape = string.rfind(_BACKSLASH, stop - MOST_ESCAPE, stop)
            stop = escape if escape > at else stop
        yield string[at:stop]
        at = stop


def _replaced(piece: bytes) -> bytes:
    for escape, character in _ESCAPES:
        if _BACKSLASH not in piece:
            break
        piece = piece.replace(escape, character)
    return piece


def _end_of_string(body: bytes, start: int) -> int:
    """Where the quote is that ends the string which begins at `start`. Raises NotJson."""
    begin, stop = start, body.find(_QUOTE, start + 1)
    while stop >= 0:
        if body[stop - 1] != _BACKSLASH[0]:
            return stop
        between = body[begin + 1 : stop]  # disjoint from the one before, so all of this is linear
        if (len(between) - len(between.rstrip(_BACKSLASH))) % 2 == 0:
            return stop
        begin, stop = stop, body.find(_QUOTE, stop + 1)
    raise NotJson("a string has no end")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values of one key, one program takes the first and another the last."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key.startswith("\0"):
            raise NotJson(f"a key of more than {LONG} characters")
        if key in found:
            raise NotJson(f"the key {key[:64]!r} is there twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise NotJson(f"{name} is no number of JSON")


def _put_back(value: Any, cut: list[Long]) -> Any:
    if isinstance(value, str):
        return cut[int(value[1:])] if value.startswith("\0") else value
    if isinstance(value, list):
        return [_put_back(each, cut) for each in value]
    if isinstance(value, dict):
        return {key: _put_back(each, cut) for key, each in value.items()}
    return value


def shown(value: object) -> str:
    """For a message: what was given, as JSON has it, however large it is."""
    if isinstance(value, memoryview):
        return f"a string of {len(value)} characters"
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return json.dumps(value)[:64]
