"""Header blocks of callers, and those of answers, with `hpack` on the other side."""

import base64
from urllib.parse import unquote

import grpc
import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servable.gateway.http2 import header_block
from servable.gateway.http2.frames import ConnectionFault, Reason
from servable.gateway.http2.header_block import (
    MOST_READ_BYTES,
    TABLE_OF_NOTHING,
    HeaderReader,
    request_head,
    response_head,
    status_block,
)
from servable.gateway.limits.connections import MOST_HEAD_BYTES

FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a/B"),
    (":authority", "here"),
    ("content-type", "application/grpc"),
]
NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True).filter(  # of metadata: "te" is HTTP/2's own
    lambda name: name != "te" and not name.startswith("grpc-")
)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=50)


def head_of(*more, without=()):
    pairs = [pair for pair in [*FIELDS, *more] if pair[0] not in without]
    return request_head([(name.encode(), value.encode()) for name, value in pairs])


def read(reader, block):
    """The head alone."""
    return reader.read(block)[0]


def decoded(*blocks):
    decoder = hpack.Decoder()
    return [[(str(name), str(value)) for name, value in decoder.decode(block)] for block in blocks]


# What callers send


def test_a_head_is_a_path_and_its_metadata_without_what_is_of_the_protocol():
    head = head_of(("te", "trailers"), ("grpc-timeout", "5S"), ("user-agent", "x"), ("a", "1"), ("a", "2"))
    assert (head.path, head.timeout_s, head.fault, head.refusal) == ("/a/B", 5.0, "", None)
    assert head.metadata == (("user-agent", "x"), ("a", "1"), ("a", "2"))


@pytest.mark.parametrize("more", [(), [("a", "b")], [("x-bin", "AP8")], [("a", "b"), ("a", "c")]])
def test_the_same_block_again_is_not_read_again_and_costs_nothing(more):
    encoder, reader = hpack.Encoder(), HeaderReader()
    block = encoder.encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in [*FIELDS, *more]])
    first, price = reader.read(block)
    again, nothing = reader.read(block)
    assert again is first and price > 0 == nothing


def test_a_block_that_changes_the_table_is_read_each_time():
    reader = HeaderReader()
    literal = b"\x40\x01a\x01b"  # a: b, with indexing
    block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in FIELDS]) + literal
    assert read(reader, block).metadata == read(reader, block).metadata == (("a", "b"),)
    assert len(reader._decoder.header_table.dynamic_entries) == 2


def test_an_index_means_what_the_table_has_now():
    reader = HeaderReader()
    plain = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in FIELDS])
    newest = plain + b"\xbe"
    read(reader, plain + b"\x40\x01a\x01b")
    assert read(reader, newest).metadata == read(reader, newest).metadata == (("a", "b"),)
    read(reader, plain + b"\x40\x01c\x01d")
    assert read(reader, newest).metadata == (("c", "d"),)
    reader.skip(plain + b"\x40\x01e\x01f")  # trailers
    assert read(reader, newest).metadata == (("e", "f"),)
    read(reader, b"\x20" + b"\x3f\xe1\x1f" + plain)  # the table is emptied, and made as large as it was
    with pytest.raises(ConnectionFault):
        reader.read(newest)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.tuples(NAMES, TEXTS), max_size=4), st.sampled_from([None, 0, 64, 4096])), max_size=12
    )
)
def test_whatever_a_caller_does_with_its_table_it_is_understood(calls):
    """Also where blocks repeat, so that some are remembered."""
    encoder, reader = hpack.Encoder(), HeaderReader()
    for pairs, table in [call for each in calls for call in (each, each)]:
        if table is not None:
            encoder.header_table_size = table
        head = read(reader, encoder.encode([*FIELDS, *pairs]))
        wanted = tuple((name, value) for name, value in pairs if not name.endswith("-bin"))
        if head.refusal is None:
            assert tuple(pair for pair in head.metadata if not pair[0].endswith("-bin")) == wanted


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_a_fault(block):
    reader = HeaderReader()
    for _ in range(2):
        try:
            head = read(reader, block)
        except ConnectionFault as fault:
            assert fault.reason is Reason.COMPRESSION_ERROR
            return
        assert head.fault or head.refusal or head.path


def test_little_is_remembered_of_a_caller():
    reader = HeaderReader()
    for number in range(header_block.MOST_CACHED + 10):
        block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in [*FIELDS, ("n", str(number))]])
        read(reader, block)
    assert len(reader._cached) <= header_block.MOST_CACHED


def test_metadata_is_counted_as_http_2_counts_and_bounded():
    used = sum(len(name) + len(value) + 32 for name, value in FIELDS) + 33
    assert head_of(("k", "v" * (MOST_HEAD_BYTES - used))).refusal is None
    refusal = head_of(("k", "v" * (MOST_HEAD_BYTES - used + 1))).refusal
    assert refusal.status is grpc.StatusCode.RESOURCE_EXHAUSTED and "16385" in refusal.message


@pytest.mark.parametrize("what", ["bytes", "one value many times", "fields"])
def test_a_block_that_is_far_too_large_is_not_read_to_its_end_and_no_later_one_is(what):
    reader = HeaderReader()
    plain = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in FIELDS])
    block = {
        "bytes": plain + b"\x00\x01k\x7f\x81\xff\x01" + b"v" * 33_000,
        "one value many times": plain + b"\x40\x01k\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 20,
        "fields": plain + b"\x00\x01a\x00" * (MOST_READ_BYTES // 33 + 1),
    }[what]
    head = read(reader, block)
    assert head.refusal.status is grpc.StatusCode.RESOURCE_EXHAUSTED and reader.lost
    assert read(reader, plain).refusal.status is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "more",
    [
        [("connection", "close")],
        [("te", "gzip")],
        [("A", "b")],
        [("", "b")],
        [(":path", "/b")],
        [("a", "b"), (":x", "y")],
        [("a", "b\nc")],
        [("a", "b\0")],
    ],
)
def test_what_is_no_request_has_a_fault_and_no_path(more):
    head = head_of(*more)
    assert head.fault and not head.path and head.refusal is None


@pytest.mark.parametrize("name", [":method", ":scheme", ":path"])
def test_a_request_has_its_pseudo_headers(name):
    assert head_of(without=(name,)).fault


def test_a_request_needs_no_authority():
    assert not head_of(without=(":authority",)).fault


@pytest.mark.parametrize("value", [b"", b"a", b"ab", b"abc", bytes(range(256))])
@pytest.mark.parametrize("padded", [True, False])
def test_values_in_base64_are_bytes(value, padded):
    text = base64.b64encode(value).decode()
    assert head_of(("x-bin", text if padded else text.rstrip("="))).metadata == (("x-bin", value),)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("5u", 5e-6), ("6n", 6e-9), ("0S", 0)]
)
def test_a_timeout_is_in_seconds(text, seconds):
    assert head_of(("grpc-timeout", text)).timeout_s == pytest.approx(seconds)


# What is answered


@pytest.mark.parametrize("status", [200, 405, 415])
def test_a_response_head_is_read_by_others(status):
    assert decoded(response_head(status)) == [[(":status", str(status)), ("content-type", "application/grpc")]]


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=200), st.lists(st.tuples(NAMES.filter(lambda name: not name.endswith("-bin")), TEXTS), max_size=4)
)
def test_a_status_is_read_by_others_whatever_its_words_are(words, metadata):
    words = words.encode("utf-8", "replace").decode()
    (fields,) = decoded(TABLE_OF_NOTHING + status_block(13, words, metadata))
    values = dict(fields[:2])
    assert values["grpc-status"] == "13" and unquote(values.get("grpc-message", "")) == words
    assert values.get("grpc-message", "").isascii() and values.get("grpc-message", " ").isprintable()
    assert fields[2 if words else 1 :] == metadata


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 256, 16_509, 16_510, 40_000])
def test_texts_of_any_length_are_read_by_others(size):
    decoder = hpack.Decoder(10**6)
    _, field = decoder.decode(status_block(0, "", [("k", "v" * size)]), raw=True)
    assert tuple(field) == (b"k", b"v" * size)


def test_bytes_are_answered_in_base64_without_padding():
    assert decoded(status_block(0, "", [("k-bin", b"\x00")])) == [[("grpc-status", "0"), ("k-bin", "AA")]]
