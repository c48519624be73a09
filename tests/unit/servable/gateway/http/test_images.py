"""Data URIs as people write them, and what is refused with which words."""

import base64
import contextlib
import tracemalloc
import urllib.parse

import pytest

from servable.gateway.errors import CallError
from servable.gateway.http import images
from servable.gateway.http.images import BrokenBase64, read_base64, read_data_uri

PICTURE = bytes(range(256)) * 3 + b"\xff\xfe"
TEXT = base64.b64encode(PICTURE).decode()
LINES = base64.encodebytes(PICTURE).decode()
URL_SAFE = base64.urlsafe_b64encode(PICTURE).decode()


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/jpeg;base64,{TEXT}",
        f"DATA:IMAGE/JPEG;BASE64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"data:base64,{TEXT}",
        f"data:text/plain;base64,{TEXT}",
        f"data:image/jpeg;charset=utf-8;name=a.jpg; base64 ,{TEXT}",
        f"  data:image/png;base64, {TEXT} \n",
        f"data:image/jpeg;base64,{LINES}",
        f"data:image/jpeg;base64,{LINES}".replace("\n", "\r\n"),
        f"data:image/jpeg;base64,{TEXT.rstrip('=')}",
        f"data:image/jpeg;base64,{URL_SAFE}",
        f"data:image/jpeg;base64,{URL_SAFE.rstrip('=')}",
        f"data:image/jpeg;base64,{TEXT}".replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    ],
    ids=range(13),
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_data_uri_is_read_however_it_is_written(uri, as_bytes):
    assert read_data_uri(memoryview(uri.encode()) if as_bytes else uri, "input[0]") == PICTURE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://a/b.jpg", "never fetched"),
        ("HTTPS://a/b.jpg", "never fetched"),
        ("s3://bucket/key", "never fetched"),
        ("//a/b.jpg", "never fetched"),
        ("file:/etc/passwd", "never fetched"),
        ("/9j/4AAQSkZJRg", "data:image/jpeg;base64,... before it"),
        ("iVBORw0KGgoAAAA", "data:image/png;base64,... before it"),
        ("a red shoe", "pictures, not text"),
        ("", "pictures, not text"),
        ("data:image/jpeg;base64", "no comma"),
        ("data:image/jpeg;" + "x" * 1000 + ";base64,AAAA", "no comma within 256"),
        ("data:image/svg+xml,<svg/>", "not base64"),
        ("data:,AAAA", "not base64"),
    ],
)
def test_what_is_no_data_uri_is_refused_with_its_place_and_a_way_out(text, words):
    for given in (text, memoryview(text.encode())):
        with pytest.raises(CallError, match=words) as caught:
            read_data_uri(given, "input[7]")
        assert caught.value.field == "input[7]" and "data:" in caught.value.message


@pytest.mark.parametrize("text", ["A", "AAAAA", "AA=A", "AAAA*AAA", "é", "\ud800", "AAAA====A", "%", "%zz"])
def test_broken_base64_is_the_pictures_own_error(text):
    with pytest.raises(BrokenBase64, match=r"^E_DECODE: "):
        read_base64(text)


def test_the_pieces_in_which_text_is_cleaned_do_not_show(monkeypatch):
    monkeypatch.setattr(images, "PIECE", 5)
    for text in (LINES, URL_SAFE.rstrip("="), TEXT.replace("+", "%2B").replace("/", "%2F")):
        assert read_base64(text) == PICTURE == read_base64(memoryview(text.encode()))


def test_no_text_is_no_bytes():
    assert read_base64("") == b"" == read_data_uri("data:;base64,", "x")


def test_a_large_picture_is_decoded_without_further_copies():
    uri = b"data:image/jpeg;base64," + base64.b64encode(bytes(8_000_000))
    tracemalloc.start()
    try:
        read_data_uri(memoryview(uri), "x")
        assert tracemalloc.get_traced_memory()[1] < 1.1 * 8_000_000
    finally:
        tracemalloc.stop()


def percent_encoded(picture):
    return urllib.parse.quote(base64.encodebytes(picture).replace(b"\n", b"\r\n"), safe="")


@pytest.mark.parametrize("piece", [7, 8, 9, 1000])
def test_percent_encoding_is_read_piece_by_piece_wherever_a_piece_ends(monkeypatch, piece):
    monkeypatch.setattr(images, "PIECE", piece)
    picture = PICTURE * 10
    assert read_base64(percent_encoded(picture)) == picture


def test_base64_that_is_nothing_but_percent_encoding_is_read():
    for picture in (b"\xff" * 900, b"\xfb\xef\xbe" * 300):  # all "/", all "+"
        assert read_base64(percent_encoded(picture)) == picture


@pytest.mark.parametrize("text", ["QUJD%", "QUJD%2", "QUJD%zz", "QU%4", "%%%", "QUJD%2%42"])
def test_a_broken_percent_sign_is_broken_base64(text):
    with pytest.raises(BrokenBase64):
        read_base64(text)


def test_a_bomb_of_percent_signs_takes_no_more_memory_than_a_few_times_its_length():
    for text in ("%20" * 1_000_000, "%" * 1_000_000, "%2" * 1_000_000):
        tracemalloc.start()
        with contextlib.suppress(BrokenBase64):
            read_base64(text)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * images.PIECE + 4 * len(text)
