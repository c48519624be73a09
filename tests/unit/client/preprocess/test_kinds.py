"""A sound file of a kind that is not read says which kind it is."""

import re

import pytest

from metric_learn_client.preprocess import ImageError, decode


def media(brand):
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + brand + bytes(100)


KINDS = {
    "a GIF file": b"GIF89a" + bytes(100),
    "a TIFF or camera raw file": b"II*\0" + bytes(100),
    "a HEIC file": media(b"heic"),
    "an AVIF file": media(b"avif"),
    "a camera raw file": media(b"crx "),
    "an MP4 video": b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + bytes(100),
    "a JPEG 2000 file": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "a JPEG XL file": b"\xff\x0a" + bytes(100),
    "an SVG file": b"\xef\xbb\xbf <?xml version='1.0'?>\n<!-- <a comment> --><svg xmlns=''/>",
    "an HTML page, not an image": b"\n<!DOCTYPE HTML><html><body>404</body></html>",
    "an XML file, not an image": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "JSON or text, not an image": b'{"error": "not found"}',
    "a PDF file": b"%PDF-1.7\n",
    "an ICO or CUR file": b"\0\0\1\0\1\0" + bytes(100),
    "a PNM file": b"P6\n2 2\n255\n" + bytes(12),
    "a Photoshop file": b"8BPS\0\1" + bytes(100),
    "a Git LFS pointer, not an image": b"version https://git-lfs.github.com/spec/v1\n",
    "a data URI as text, not the bytes of an image": b"data:image/jpeg;base64,/9j/",
    "a ZIP file, not an image": b"PK\3\4" + bytes(100),
    "nothing but zeros, not an image": bytes(1000),
    "no image of a known kind": b"hello, world",
}


@pytest.mark.parametrize(("kind", "data"), KINDS.items(), ids=KINDS)
def test_it_is_named(kind, data):
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert str(caught.value) == f"E_UNSUPPORTED: {kind}; JPEG, PNG, WebP and BMP are read"
    assert re.fullmatch(r"[A-Za-z0-9 ,.;:_\-]{1,160}", caught.value.message)
