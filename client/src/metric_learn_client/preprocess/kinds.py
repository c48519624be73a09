"""Which kind of file the first bytes are of: the four that are read, and the names of those that are not."""

from __future__ import annotations

from typing import Optional

from metric_learn_client.preprocess.header import Buffer

_HEAD_BYTES = 512
# Brands of ISO base media files (ISO 14496-12), the first that fits.
_BRANDS = (
    ((b"avif", b"avis"), "an AVIF file"),
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC file"),
    ((b"jp2 ", b"jpx "), "a JPEG 2000 file"),
    ((b"crx ",), "a camera raw file"),
    ((b"qt  ",), "a QuickTime video"),
)
_STARTS = (
    ((b"GIF87a", b"GIF89a"), "a GIF file"),
    ((b"FUJIFILMCCD-RAW", b"IIRO", b"IIU\0", b"\0MRM"), "a camera raw file"),
    ((b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"), "a TIFF or camera raw file"),
    ((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP"), "a JPEG 2000 file"),
    ((b"\xff\x0a", b"\0\0\0\x0cJXL "), "a JPEG XL file"),
    ((b"II\xbc",), "a JPEG XR file"),
    ((b"\x1a\x45\xdf\xa3",), "a Matroska or WebM video"),
    ((b"\0\0\x01\xba", b"\0\0\x01\xb3"), "an MPEG video"),
    ((b"\0\0\x01\0", b"\0\0\x02\0"), "an ICO or CUR file"),
    ((b"8BPS",), "a Photoshop file"),
    ((b"%PDF",), "a PDF file"),
    ((b"%!PS", b"\xc5\xd0\xd3\xc6"), "a PostScript file"),
    ((b"\x8aMNG", b"\x8bJNG"), "an MNG or JNG file"),
    (tuple(b"P%d%c" % (kind, space) for kind in range(1, 8) for space in b" \t\r\n#"), "a PNM file"),
    ((b"PF\n", b"Pf\n"), "a PFM file"),
    ((b"v/1\x01",), "an OpenEXR file"),
    ((b"#?R",), "a Radiance HDR file"),
    ((b"qoif",), "a QOI file"),
    ((b"DDS ",), "a DDS file"),
    ((b"PK\x03\x04",), "a ZIP file, not an image"),
    ((b"\x1f\x8b",), "a gzip file, not an image"),
    ((b"version https://git-lfs",), "a Git LFS pointer, not an image"),
    ((b"data:",), "a data URI as text, not the bytes of an image"),
)
# Behind a first "<", whatever comments and declarations stand between: the first of these that is there.
_MARKUP = (
    (b"<svg", "an SVG file"),
    (b"<!doctype svg", "an SVG file"),
    (b"<!doctype html", "an HTML page, not an image"),
    (b"<html", "an HTML page, not an image"),
    (b"<head", "an HTML page, not an image"),
    (b"<body", "an HTML page, not an image"),
    (b"<?xml", "an XML file, not an image"),
)


def format_of(data: Buffer) -> Optional[str]:
    """ "jpeg", "png", "webp" or "bmp" by the first bytes; None for any other."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "bmp" if data[:2] == b"BM" else None


def name_of(data: Buffer) -> str:
    """What a file is that is none of the four: "a GIF file"; "no image of a known kind" for what has no name."""
    head = bytes(data[:_HEAD_BYTES])
    if head[4:8] == b"ftyp":
        return _media(head)
    for starts, name in _STARTS:
        if head.startswith(starts):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "an AVI video"
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free"):
        return "a QuickTime video"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text[:1] == b"<":
        for tag, name in _MARKUP:
            if tag in text:
                return name
    if text[:1] in (b"{", b"["):
        return "JSON or text, not an image"
    return "no image of a known kind" if head.strip(b"\0") else "nothing but zeros, not an image"


def _media(head: bytes) -> str:
    """The major brand counts before the compatible ones."""
    end = min(max(16, int.from_bytes(head[:4], "big")), len(head))
    for brand in (head[at : at + 4] for at in (8, *range(16, end, 4))):
        for brands, name in _BRANDS:
            if brand in brands:
                return name
    return "an MP4 video"
