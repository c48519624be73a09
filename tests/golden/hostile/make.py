"""Makes this folder: `.venv/client/bin/python tests/golden/hostile/make.py [sound]`.

`sound/` has one small picture of each kind that is read; the mutations of tests/unit/client/preprocess start from them.
Their bytes are kept, because the encoders of another version would give other ones: "sound" makes them again, to add a
kind. The other files are made from these, one for each kind that went wrong somewhere or could: expected.json says for
each the code and words of its error, or which sound picture it must equal.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent
PHOTO = cv2.resize(
    cv2.imread(str(FOLDER.parent / "images" / "coffee_444_q95.jpg")), (44, 30), interpolation=cv2.INTER_AREA
)
RGB = Image.fromarray(PHOTO[:, :, ::-1])
OTHER = Image.fromarray(255 - PHOTO[:, :, ::-1])


def tiff(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """A TIFF block with one entry, the orientation; kind 3 is SHORT, 4 is LONG."""
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,)))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + struct.pack(order + "HHHI", 1, 0x112, kind, 1) + value + bytes(4)


def pillow(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def adam7() -> bytes:
    """An interlaced PNG: seven passes, each a small picture of its own."""
    rgb = PHOTO[:, :, ::-1]
    rows = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        rows += b"".join(b"\0" + row.tobytes() for row in rgb[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 8, 2, 0, 0, 1)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def rle8() -> bytes:
    """A BMP of 8 bits with run lengths: each row one run, then the end of the line; at last the end of the picture."""
    height, width = 6, 20
    pixels = b"".join(bytes([width, row, 0, 0]) for row in range(height)) + b"\0\1"
    palette = b"".join(bytes([index * 40, 255 - index * 40, 128, 0]) for index in range(height))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 2835, 2835, height, height)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels


def pictures() -> dict[str, bytes]:
    baseline = pillow(RGB, "JPEG", quality=85)
    app0_end = 2 + 2 + struct.unpack(">H", baseline[4:6])[0]
    exif = segment(0xE1, b"Exif\0\0" + tiff(6))
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")
    png = pillow(RGB, "PNG")
    after_header = 8 + 25
    webp = pillow(RGB, "WEBP", quality=80)
    top_down = bytearray(pillow(RGB, "BMP"))
    top_down[22:26] = struct.pack("<i", -PHOTO.shape[0])
    canvas = struct.pack("<I", PHOTO.shape[1] - 1)[:3] + struct.pack("<I", PHOTO.shape[0] - 1)[:3]
    alpha = RGB.copy()
    alpha.putalpha(RGB.convert("L"))
    made = {
        "baseline.jpg": baseline,
        "subsampled_440.jpg": cv2.imencode(".jpg", PHOTO, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x121111])[1].tobytes(),
        "progressive.jpg": pillow(RGB, "JPEG", progressive=True),
        "restarts.jpg": pillow(RGB, "JPEG", restart_marker_blocks=2),
        "grey.jpg": pillow(RGB.convert("L"), "JPEG"),
        "cmyk.jpg": pillow(RGB.convert("CMYK"), "JPEG"),
        "rgb.jpg": pillow(RGB, "JPEG", keep_rgb=True),
        "exif6.jpg": baseline[:app0_end] + exif + baseline[app0_end:],
        "exif6_after_xmp.jpg": baseline[:app0_end] + xmp + exif + baseline[app0_end:],
        "icc.jpg": baseline[:app0_end] + segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(200)) + baseline[app0_end:],
        "rgb.png": png,
        "alpha.png": pillow(alpha, "PNG"),
        "palette.png": pillow(RGB.quantize(16), "PNG", transparency=3),
        "grey16.png": pillow(Image.fromarray(PHOTO[:, :, 0].astype(np.uint16) * 257), "PNG"),
        "bilevel.png": pillow(RGB.convert("1"), "PNG"),
        "interlaced.png": adam7(),
        "exif6.png": png[:after_header] + png_chunk(b"eXIf", tiff(6, ">")) + png[after_header:],
        "animated.png": pillow(RGB, "PNG", save_all=True, append_images=[OTHER], duration=50),
        "animated_aside.png": pillow(RGB, "PNG", save_all=True, append_images=[OTHER, RGB], default_image=True),
        "lossy.webp": webp,
        "lossless.webp": pillow(RGB, "WEBP", lossless=True),
        "alpha.webp": pillow(alpha, "WEBP", quality=60),
        "exif6.webp": riff((b"VP8X", bytes([8, 0, 0, 0]) + canvas), (b"VP8 ", webp[20:]), (b"EXIF", tiff(6))),
        "animated.webp": pillow(RGB, "WEBP", save_all=True, append_images=[OTHER], duration=50),
        "animated_alpha.webp": pillow(
            alpha, "WEBP", save_all=True, append_images=[OTHER.convert("RGBA")], lossless=True
        ),
        "rgb.bmp": pillow(RGB, "BMP"),
        "palette.bmp": pillow(RGB.quantize(16), "BMP"),
        "alpha.bmp": pillow(alpha, "BMP"),
        "top_down.bmp": bytes(top_down),
        "rle8.bmp": rle8(),
    }
    return made


def sofs(jpeg: bytes) -> int:
    """Where the frame header of a JPEG of this folder is."""
    return min(at for at in (jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2")) if at > 0)


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def before(data: bytes, found: bytes, new: bytes) -> bytes:
    at = data.rindex(found)
    return data[:at] + new + data[at:]


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def png_with(png: bytes, name: bytes, change) -> bytes:  # type: ignore[no-untyped-def]
    """The bodies of all chunks of this name changed."""
    return png_of([(here, change(body) if here == name else body) for here, body in chunks(png)])


def rows_of(change):  # type: ignore[no-untyped-def]
    return lambda body: zlib.compress(change(zlib.decompress(body)))


def halves(image_data: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Image data with another chunk in its middle, which PNG does not allow."""
    name, body = image_data
    return [(name, body[: len(body) // 2]), (b"tEXt", b"a\0b"), (name, body[len(body) // 2 :])]


def hostile(sound: dict[str, bytes]) -> dict[str, tuple[bytes, str, str]]:
    """name -> file, code and words of the error; or file, "same as" and the sound picture that it must equal."""
    jpeg, progressive, restarts = sound["baseline.jpg"], sound["progressive.jpg"], sound["restarts.jpg"]
    png, animated, palette = sound["rgb.png"], sound["animated.png"], sound["palette.png"]
    webp, moving, bmp = sound["exif6.webp"], sound["animated.webp"], sound["rgb.bmp"]
    tiny = (FOLDER.parent / "images" / "cat_tiny_60x40.jpg").read_bytes()
    frame = sofs(jpeg)
    scan = jpeg.index(b"\xff\xda")
    last_scan = progressive.rindex(b"\xff\xda")
    restart = restarts.index(b"\xff\xd1")
    anmf = moving.index(b"ANMF") + 8
    made = {
        "data_missing_inside.jpg": (tiny[:900] + tiny[1100:], "E_DECODE", "missing inside"),
        "cut.jpg": (jpeg[:-300], "E_DECODE", "cut off"),
        "cut_with_end.jpg": (jpeg[:-300] + b"\xff\xd9", "E_DECODE", "missing inside"),
        "cut_before_its_end.jpg": (progressive[:-2], "E_DECODE", "cut off"),
        "restart_missing.jpg": (restarts[:restart] + restarts[restart + 2 :], "E_DECODE", "damaged"),
        "bytes_too_many.jpg": (before(jpeg, b"\xff\xd9", bytes([7]) * 40), "E_DECODE", "behind its last block"),
        "code_that_does_not_exist.jpg": (jpeg[: scan + 20] + b"\xff\0" * 20 + jpeg[scan + 60 :], "E_DECODE", "JPEG"),
        "scan_missing.jpg": (progressive[:last_scan] + b"\xff\xd9", "E_DECODE", "scans of it are missing"),
        "scans_65.jpg": (before(progressive, b"\xff\xd9", progressive[last_scan:-2] * 65), "E_TOO_LARGE", "scans"),
        "segments_1025.jpg": (jpeg[:2] + segment(0xFE, b"") * 1025 + jpeg[2:], "E_TOO_LARGE", "segments"),
        "segments_alone.jpg": (jpeg[:2] + segment(0xE0, b"") * 1500, "E_DECODE", "no frame header"),
        "no_image_data.jpg": (jpeg[:scan] + b"\xff\xd9", "E_DECODE", "no image data"),
        "two_frames.jpg": (jpeg[:frame] + jpeg[frame : frame + 19] + jpeg[frame:], "E_DECODE", "two frame headers"),
        "huge.jpg": (changed(jpeg, frame + 5, b"\xff\xff\xff\xff"), "E_TOO_LARGE", "pixels; the limit is"),
        "precision12.jpg": (changed(changed(jpeg, frame + 1, b"\xc1"), frame + 4, b"\x0c"), "E_UNSUPPORTED", "12-bit"),
        "lossless.jpg": (changed(jpeg, frame + 1, b"\xc3"), "E_UNSUPPORTED", "a lossless JPEG"),
        "hierarchical.jpg": (changed(jpeg, frame + 1, b"\xc5"), "E_UNSUPPORTED", "a hierarchical JPEG"),
        "arithmetic.jpg": (changed(jpeg, frame + 1, b"\xc9"), "E_UNSUPPORTED", "an arithmetic-coded JPEG"),
        "jpeg_ls.jpg": (changed(jpeg, frame + 1, b"\xf7"), "E_UNSUPPORTED", "a JPEG-LS file"),
        "sampling_410.jpg": (changed(jpeg, frame + 11, b"\x42"), "E_UNSUPPORTED", "sampling factors 4x2, 1x1, 1x1"),
        "jfif_of_another_version.jpg": (changed(jpeg, 11, b"\x07"), "same as", "baseline.jpg"),
        "adobe_of_unknown_transform.jpg": (
            jpeg[:20] + segment(0xEE, b"Adobe\0d\0\0\0\0\7") + jpeg[20:],
            "same as",
            "baseline.jpg",
        ),
        "bytes_between_segments.jpg": (jpeg[:20] + b"junk" + jpeg[20:], "same as", "baseline.jpg"),
        "zeros_before_its_end.jpg": (before(jpeg, b"\xff\xd9", bytes(500)), "same as", "baseline.jpg"),
        "bytes_behind_its_end.jpg": (jpeg + jpeg[:500], "same as", "baseline.jpg"),
        "icc_in_wrong_pieces.jpg": (
            jpeg[:20] + segment(0xE2, b"ICC_PROFILE\0\5\1profile") + jpeg[20:],
            "same as",
            "baseline.jpg",
        ),
        "range_of_another_process.jpg": (changed(jpeg, scan + 11, b"\0\0\0"), "same as", "baseline.jpg"),
        "animated_bad_filter.png": (
            png_with(animated, b"IDAT", rows_of(lambda rows: changed(rows, 133 * 9, b"\x9a"))),
            "E_DECODE",
            "filter",
        ),
        "animated_data_ends_early.png": (
            png_with(animated, b"IDAT", rows_of(lambda rows: rows[: len(rows) // 2])),
            "E_DECODE",
            "ends early",
        ),
        "animated_empty_frame_control.png": (png_with(animated, b"fcTL", lambda body: b""), "same as", "rgb.png"),
        "animated_bad_frame.png": (png_with(animated, b"fdAT", lambda body: body[:9]), "same as", "rgb.png"),
        "cut.png": (png[:-500], "E_DECODE", "cut off"),
        "without_its_end.png": (png[:-12], "E_DECODE", "cut off"),
        "stream_cut.png": (png_with(png, b"IDAT", lambda body: body[:-100]), "E_DECODE", "ends early"),
        "stream_without_checksum.png": (png_with(png, b"IDAT", lambda body: body[:-4]), "E_DECODE", "ends early"),
        "stream_damaged.png": (png_with(png, b"IDAT", lambda body: changed(body, 99, b"\1\2\3")), "E_DECODE", "PNG"),
        "row_missing.png": (png_with(png, b"IDAT", rows_of(lambda rows: rows[:-133])), "E_DECODE", "ends early"),
        "rows_too_many.png": (png_with(png, b"IDAT", rows_of(lambda rows: rows + rows)), "same as", "rgb.png"),
        "bytes_behind_the_stream.png": (png_with(png, b"IDAT", lambda body: body + body), "same as", "rgb.png"),
        "checksum.png": (changed(png, 60, b"\0\0"), "E_DECODE", "checksum"),
        "image_data_apart.png": (
            png_of([*chunks(png)[:1], *halves(chunks(png)[1]), *chunks(png)[2:]]),
            "E_DECODE",
            "ends early",
        ),
        "palette_missing.png": (png_of([c for c in chunks(palette) if c[0] != b"PLTE"]), "E_DECODE", "no palette"),
        "cgbi.png": (png[:8] + png_chunk(b"CgBI", b"\x50\0\x20\2") + png[8:], "E_UNSUPPORTED", "CgBI"),
        "unknown_critical.png": (png[:33] + png_chunk(b"ABCD", b"") + png[33:], "E_UNSUPPORTED", "critical chunk"),
        "huge.png": (
            png_with(png, b"IHDR", lambda body: b"\0\0\xff\xff" * 2 + body[8:]),
            "E_TOO_LARGE",
            "pixels; the limit is",
        ),
        "thin.png": (png_with(png, b"IHDR", lambda body: b"\0\0\0\1\0\0\xff\xff" + body[8:]), "E_TOO_LARGE", "thin"),
        "depth.png": (png_with(png, b"IHDR", lambda body: changed(body, 8, b"\3")), "E_DECODE", "does not have"),
        "cut.webp": (webp[:-200], "E_DECODE", "cut off"),
        "picture_cut.webp": (riff((b"VP8 ", webp[38:300])), "E_DECODE", "damaged or cut off"),
        "another_size.webp": (changed(webp, 24, b"\xff"), "E_DECODE", "another size"),
        "no_picture.webp": (riff((b"VP8X", webp[20:30])), "E_DECODE", "no image chunk"),
        "frame_beside.webp": (changed(moving, anmf, b"\1"), "E_UNSUPPORTED", "does not fill the canvas"),
        "frame_cut.webp": (riff((b"VP8X", moving[20:30]), (b"ANMF", moving[anmf : anmf + 9])), "E_DECODE", "frame"),
        "cut.bmp": (bmp[:-1], "E_DECODE", "cut off"),
        "cut_run_lengths.bmp": (sound["rle8.bmp"][:-8], "E_DECODE", "cut off"),
        "pixels_inside_header.bmp": (changed(bmp, 10, b"\x10\0\0\0"), "E_DECODE", "inside its header"),
        "two_bits.bmp": (changed(bmp, 28, b"\2"), "E_DECODE", "does not have"),
        "holds_a_jpeg.bmp": (changed(bmp, 30, b"\4"), "E_UNSUPPORTED", "holds a JPEG or PNG"),
        "odd_masks.bmp": (
            changed(changed(sound["alpha.bmp"], 30, b"\3"), 54, struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)),
            "E_UNSUPPORTED",
            "bit fields",
        ),
        "negative_width.bmp": (changed(bmp, 18, b"\xff\xff\xff\xff"), "E_DECODE", "header says"),
        "huge.bmp": (changed(bmp, 18, b"\xff\xff\0\0" * 2), "E_TOO_LARGE", "pixels; the limit is"),
    }
    return made


if __name__ == "__main__":
    if sys.argv[1:] == ["sound"]:
        for name, data in pictures().items():
            (FOLDER / "sound" / name).write_bytes(data)
    kept = {path.name: path.read_bytes() for path in (FOLDER / "sound").iterdir()}
    expected = {}
    for name, (data, code, words) in hostile(kept).items():
        (FOLDER / name).write_bytes(data)
        expected[name] = [code, words]
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=0) + "\n")
