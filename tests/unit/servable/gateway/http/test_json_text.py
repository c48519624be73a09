"""JSON with long strings cut out is the same JSON, and nothing in it costs much."""

import contextlib
import json
import time

import hypothesis
import hypothesis.strategies as some
import pytest

from servable.gateway.errors import CallError
from servable.gateway.http import json_text
from servable.gateway.http.json_text import LONG, read_json

TEXTS = some.one_of(
    some.text(max_size=20),
    some.text(alphabet='ab"\\/\n\u00e9\U0001f600', min_size=2, max_size=20).map(
        lambda text: "x" * 40 * len(text) + text
    ),
    some.text(alphabet="\\", max_size=9).map(lambda text: "x" * LONG + text),
)
VALUES = some.recursive(
    some.one_of(
        some.none(), some.booleans(), some.integers(), some.floats(allow_nan=False, allow_infinity=False), TEXTS
    ),
    lambda inner: some.one_of(
        some.lists(inner, max_size=4), some.dictionaries(some.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def plain(value):
    """Long strings as text again."""
    if isinstance(value, memoryview):
        return bytes(value).decode()
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value


def begins_with_nul(value):
    if isinstance(value, dict):
        return any(begins_with_nul(each) for pair in value.items() for each in pair)
    if isinstance(value, list):
        return any(map(begins_with_nul, value))
    return isinstance(value, str) and value.startswith("\0")


@hypothesis.given(VALUES, some.booleans())
@hypothesis.settings(max_examples=100, deadline=None)
def test_what_json_writes_is_read_back(value, as_ascii):
    hypothesis.assume(not begins_with_nul(value))
    assert plain(read_json(json.dumps(value, ensure_ascii=as_ascii).encode())) == value


def test_a_long_string_without_escapes_stays_where_it_is():
    body = b'{"a": ["' + b"x" * 1000 + b'"]}'
    found = read_json(body)["a"][0]
    assert isinstance(found, memoryview) and found.obj is body and len(found) == 1000


@pytest.mark.parametrize("line", [r"\u002b\/\n", r"\u002B\u002F\r\n", r"\u003d\u003D\t", r"\\n", r"\"\u00e9"])
def test_a_long_string_with_escapes_is_what_a_parser_makes_of_it(line):
    text = '"' + ("x" * 100 + line) * 100 + '"'
    found = read_json(f"[{text}]".encode())[0]
    assert (bytes(found).decode() if isinstance(found, memoryview) else found) == json.loads(text)


@pytest.mark.parametrize("piece", [7, 8, 9, 10, 11, 12, 13, 64, 65, 66, 67, 68, 69, 1000])
def test_an_escape_is_replaced_wherever_a_piece_ends(monkeypatch, piece):
    monkeypatch.setattr(json_text, "PIECE", piece)
    for line in (r"\u002b", r"\/", r"\n\/", r"\u003D\u002F", r"\\/", r"\\"):
        text = '"' + "".join("x" * (60 + number % 7) + line for number in range(60)) + '"'
        found = read_json(f"[{text}]".encode())[0]
        assert (bytes(found).decode() if isinstance(found, memoryview) else found) == json.loads(text)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1,]", "not JSON"),
        (b"[1] 2", "not JSON"),
        (b"\xef\xbb\xbf[]", "not JSON"),
        (b'["\xff"]', "not UTF-8"),
        ("[]".encode("utf-16"), "not UTF-8"),
        (b"NaN", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b'{"a": 1, "a": 1}', "the key 'a' is there twice"),
        (b'{"a": {"b": 1, "\\u0062": 1}}', "the key 'b' is there twice"),
        (b'["\\u00000"]', "U+0000"),
        (b'{"' + b"k" * 1000 + b'": 1}', "a key of more than"),
        (b"[" * 16_000, "too deeply"),
        (b'{"a":' * 16_000, "too deeply"),
        (b'["a', "no end"),
        (b'["' + b"x" * 1000, "no end"),
        (b'["a\\"', "no end"),
        (b'["a\nb"]', "not JSON"),
        (b"[" + b"1," * 300_000 + b"1]", "524288 bytes beside"),
        (b"[" + b"{}," * 33_000 + b"{}]", "more than 16384 commas and brackets"),
        (b"[" + b"[]," * 33_000 + b"1]", "more than 16384 commas and brackets"),
        (b"[" + b"1," * 66_000 + b"1]", "more than 16384 commas and brackets"),
        (b"[" + b'"",' * 33_000 + b'""]', "32768 strings"),
        (b'["' + b"x" * 500 + b'\\q"]', "not JSON"),
        (b'["' + b"x\\n" * 500 + b'"]', "more than one escape in 16"),
        (b'["' + b"x" * 70_000 + b'\\\\"]', "escapes that base64 has no use for"),
        (b"[" + b"9" * 10_000 + b"]", "a number is too long"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_what_is_not_taken_is_the_callers_fault_and_says_why(body, words):
    with pytest.raises(CallError, match=words.replace("+", r"\+")) as caught:
        read_json(body)
    assert caught.value.field == "body"


def test_the_most_values_that_are_read_take_little_time():
    """It is what the event loop is held for."""
    body = b'["' + b"x" * 1000 + b'"' + b",{}" * 8_100 + b"]"
    took = []
    for _ in range(3):
        began = time.process_time()
        read_json(body)
        took.append(time.process_time() - began)
    assert min(took) < 0.04


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"1.5," * 10_000_000 + b"1]",
        b'["' + b'\\"' * 20_000 + b"\\\\" * 15_000_000 + b'"]',
        b'"' * 30_000_000,
        b"[" * 30_000_000,
        b'{"a":"' + b"x" * 30_000_000 + b'"}',
    ],
    ids=["numbers", "escapes", "quotes", "brackets", "one string"],
)
def test_thirty_megabytes_take_no_time_to_refuse_or_read(body):
    """It is what the event loop is held for."""
    began = time.process_time()
    with contextlib.suppress(CallError):
        read_json(body)
    assert time.process_time() - began < 1.0
