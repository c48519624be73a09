"""Inputs by chance, each with what must become of it: lists, tables, archives and folders, and a later state of each
with rows added. Written with hypothesis, so that a failing one is made small."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

# Pictures that lists and tables of paths name; "gone" ones are not there.
PICTURES = {name: f"picture {name}".encode() for name in ("a.jpg", "b c.JPG", "ü.png", "sub/d.webp", "sub/図.jpeg")}
GONE = ("gone.jpg", "sub/gone ü.png", "a.jpg/below.jpg")
FAILED = None  # what a row becomes that has no picture


@dataclass
class Made:
    """names: relative to the folder that `write` was given; expected: of each stage, how often each picture, or FAILED,
    is a row. write(folder, stage): stage 0, then 1 over it. options: root stands for where the pictures are."""

    names: list[str]
    write: Callable[[Path, int], None]
    expected: tuple[Counter[Any], Counter[Any]]
    options: dict[str, Any] = field(default_factory=dict)


def write_pictures(folder: Path) -> None:
    for name, content in PICTURES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def became(name: Any) -> Any:
    return PICTURES.get(name, FAILED)


_names = st.sampled_from([*PICTURES, *GONE])
_words = st.sampled_from(["cat", "red apple", "犬", "7", "x,y;z", '"'])
_encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
_ends = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def lists(draw: st.DrawFn) -> Made:
    form = draw(st.sampled_from(["lines", "numbers", "words", "quoted", "sop", "nul"]))
    rows = draw(st.lists(st.tuples(_names, st.integers(-1, 9), _words), min_size=1, max_size=12))
    first = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    encoding, end, blank = draw(_encodings), draw(_ends), draw(st.booleans())

    def line(name: str, number: int, word: str) -> str:
        if form == "numbers":
            return f"{name} {number}"
        if form == "words":
            return f"{name}\t{word}"
        if form == "sop":
            return f"{number} 2 3 {name}"
        return f'"{name}"' if form == "quoted" else name

    def write(folder: Path, stage: int) -> None:
        chosen = [row for row, early in zip(rows, first) if early or stage]
        lines = [line(*row) for row in chosen]
        if form == "sop":
            lines.insert(0, "image_id class_id super_class_id path")
        if form == "nul":
            (folder / "list.txt").write_bytes(b"".join(each.encode() + b"\0" for each in lines))
            return
        text = (end + (end if blank else "")).join(lines) + end
        (folder / "list.txt").write_bytes(text.encode(encoding))

    early = Counter(became(row[0]) for row, each in zip(rows, first) if each)
    return Made(["list.txt"], write, (early, Counter(became(row[0]) for row in rows)))


@st.composite
def csvs(draw: st.DrawFn) -> Made:
    import csv

    rows = draw(st.lists(st.tuples(_names, _words, _words), min_size=1, max_size=12))
    first = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    columns = draw(st.permutations(["path", "title", "more\nlines"]))
    sign, suffix = draw(st.sampled_from([(",", "csv"), (";", "csv"), ("\t", "csv"), ("\t", "tsv"), ("|", "csv")]))
    encoding, end = draw(_encodings), draw(st.sampled_from(["\n", "\r\n"]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))

    def write(folder: Path, stage: int) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=sign, lineterminator=end, quoting=quoting)
        writer.writerow(columns)
        for (path, *values), early in zip(rows, first):
            if early or stage:
                record = dict(zip(["title", "more\nlines"], values), path=path)
                writer.writerow([record[column] for column in columns])
        (folder / f"t.{suffix}").write_bytes(text.getvalue().encode(encoding))

    early = Counter(became(row[0]) for row, each in zip(rows, first) if each)
    return Made([f"t.{suffix}"], write, (early, Counter(became(row[0]) for row in rows)))


_TEXT = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
_BYTES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.binary())]
_VALUES: list[tuple[Any, Any]] = [
    *((kind, st.sampled_from(["x", "", "犬"])) for kind in _TEXT),
    (pa.int32(), st.integers(0, 9)),
    (pa.float64(), st.floats(width=32)),
    (pa.bool_(), st.booleans()),
    (pa.list_(_TEXT[3]), st.lists(st.sampled_from(["x", "y"]), max_size=2)),
    (pa.struct([("a", _TEXT[3])]), st.fixed_dictionaries({"a": st.sampled_from(["x", "y"])})),
    (pa.timestamp("us"), st.integers(0, 10**15)),
]


@st.composite
def tables(draw: st.DrawFn) -> Made:
    """Several files of one name or of others, in folders; their text columns stored as each likes."""
    holds = draw(st.sampled_from(["paths", "bytes", "bytes and paths", "struct"]))
    kind, values = draw(st.sampled_from(_VALUES))
    folders = draw(st.lists(st.sampled_from(["label=a", "label=b%20c", "x", "."]), min_size=1, max_size=4, unique=True))
    late = draw(st.booleans())
    contents = st.sampled_from([b"", None, b"one", b"two", b"three"])
    files: list[tuple[str, int, int, dict[str, Any], list[Any]]] = []
    for folder in folders:
        stage = int(late and folder == folders[-1] and len(folders) > 1)
        count = draw(st.integers(0, 5))
        group = draw(st.integers(1, 3))
        names = draw(st.lists(_names, min_size=count, max_size=count))
        images = draw(st.lists(contents, min_size=count, max_size=count))
        same = kind in _TEXT
        own = draw(st.sampled_from(_TEXT)) if same else kind
        columns = {"more": pa.array(draw(st.lists(st.none() | values, min_size=count, max_size=count)), own)}
        text = draw(st.sampled_from(_TEXT))
        if holds == "paths":
            columns["path"] = pa.array(names, text)
        elif holds == "struct":
            fields = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            columns["image"] = pa.array([{"bytes": each, "path": name} for each, name in zip(images, names)], fields)
        else:
            columns["image"] = pa.array(images, draw(st.sampled_from(_BYTES)))
            if holds == "bytes and paths":
                columns["path"] = pa.array(names, text)
        absent = FAILED if holds == "struct" else b""  # of a struct the path is tried, which leads nowhere here
        rows = [absent if image is None else image for image in images]
        if holds == "paths":
            rows = [became(name) for name in names]
        files.append((f"t/{folder}/part-0.parquet", stage, group, columns, rows))

    def write(folder: Path, stage: int) -> None:
        for name, when, group, columns, _ in files:
            if when == stage:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(pa.table(columns), folder / name, row_group_size=group)
                (folder / name).with_name("._part-0.parquet").write_bytes(b"rubbish")
        (folder / "t/_SUCCESS").touch()

    early: Counter[Any] = Counter(row for _, when, *_, rows in files if when == 0 for row in rows)
    return Made(["t"], write, (early, Counter(row for *_, rows in files for row in rows)), {"input_format": "parquet"})


_members = st.sampled_from(
    ["a.jpg", "b.PNG", "x/a.jpg", "./c.webp", "/abs.bmp", "../up.jpg", "ü.jpg", "n/" * 60 + "l.jpg"]
)
_kinds = st.sampled_from(["picture", "picture", "other", "link", "symlink", "dangling", "pipe", "dir"])
_others = st.sampled_from(["a.txt", "a.json", "._a.jpg", "x", "b.jpg.gz", ".h/a.jpg"])


@st.composite
def archives(draw: st.DrawFn) -> Made:
    """Up to three archives in one file, and another file; members of every kind, the last archive added later."""
    form = draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    parts: list[tuple[bytes, list[Any]]] = []
    for _ in range(draw(st.integers(1, 3))):
        buffer, rows = io.BytesIO(), []
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            for _ in range(draw(st.integers(0, 5))):
                what = draw(
                    st.sampled_from(["picture", "picture", "other", "link", "symlink", "dangling", "pipe", "dir"])
                )
                info = tarfile.TarInfo(draw(_others if what == "other" else _members))
                if what == "picture":
                    content = draw(st.sampled_from([b"", b"one", b"two" * 400]))
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                    rows.append(content)
                elif what == "other":
                    tar.addfile(info)
                elif what == "dir":
                    info.type = tarfile.DIRTYPE
                    tar.addfile(info)
                elif what == "pipe":
                    info.type = tarfile.FIFOTYPE
                    tar.addfile(info)
                    rows.append(FAILED)
                else:
                    target = f"to/{len(rows)}-{len(parts)}.jpg"
                    if what != "dangling":
                        content = f"of {target}".encode()
                        aim = tarfile.TarInfo(target)
                        aim.size = len(content)
                        tar.addfile(aim, io.BytesIO(content))
                        rows.append(content)
                    info = tarfile.TarInfo(f"from/{len(rows)}-{len(parts)}.jpg")
                    info.type = tarfile.SYMTYPE if what == "symlink" else tarfile.LNKTYPE
                    info.linkname = f"../{target}" if what == "symlink" else target
                    tar.addfile(info)
                    rows.append(FAILED if what == "dangling" else content)
        parts.append((buffer.getvalue(), rows))
    alone = draw(st.booleans())

    def write(folder: Path, stage: int) -> None:
        (folder / "t").mkdir(exist_ok=True)
        count = len(parts) if stage else max(1, len(parts) - 1)
        (folder / "t/s-1.tar").write_bytes(b"".join(content for content, _ in parts[:count]))
        if stage and alone:
            (folder / "t/s-0.tar").write_bytes(parts[0][0])
        (folder / "t/._s-1.tar").write_bytes(b"rubbish")

    early: Counter[Any] = Counter(row for _, rows in parts[: max(1, len(parts) - 1)] for row in rows)
    late: Counter[Any] = Counter(row for _, rows in parts for row in rows)
    return Made(["t"], write, (early, late + Counter(parts[0][1]) if alone else late), {"input_format": "tar"})


@st.composite
def folders(draw: st.DrawFn) -> Made:
    stems = st.sampled_from(["a", "b c", "ü", "x/y", "x=1/z", "deep/er/w", "_u", "q\n", "\udcff"])
    suffixes = st.sampled_from([".jpg", ".JPEG", ".png", ".bmp"])
    files = draw(st.dictionaries(st.tuples(stems, suffixes).map("".join), st.integers(0, 1), min_size=1, max_size=8))
    links = draw(st.booleans())
    spelling = draw(st.sampled_from(["t", "t/", "./t", "t//."]))

    def write(folder: Path, stage: int) -> None:
        for name, when in files.items():
            if when <= stage:
                path = os.fsencode(folder / "t") + b"/" + os.fsencode(name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as file:
                    file.write(os.fsencode(name))
        (folder / "t").mkdir(exist_ok=True)
        (folder / "t/._a.jpg").write_bytes(b"rubbish")
        if links and not os.path.lexists(folder / "t/loop"):
            (folder / "t/loop").symlink_to(".")
            (folder / "t/dangling.jpg").symlink_to("nothing")

    broken = Counter({FAILED: 1} if links else {})
    early = Counter(os.fsencode(name) for name, when in files.items() if when == 0) + broken
    return Made([spelling], write, (early, Counter(map(os.fsencode, files)) + broken))


KINDS = {"lists": lists(), "csvs": csvs(), "tables": tables(), "archives": archives(), "folders": folders()}
