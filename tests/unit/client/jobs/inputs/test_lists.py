"""A list is read however it was written, or refused in one line."""

import bz2
import gzip
import io
import lzma
import os
from pathlib import Path

import pyarrow as pa
import pytest

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.input_kinds import open_input
from metric_learn_client.jobs.inputs.text import encoding_of
from metric_learn_client.jobs.options import InputSpec

INPUTS = Path(__file__).parents[4] / "golden" / "inputs"
NAMES = ["img/a.png", "img/b.jpg", "img/c d.webp", "img/ü.jpg", "img/图.jpg"]
ENCODINGS = {
    "utf-8": "utf-8",
    "utf-8 with a mark": "utf-8-sig",
    "utf-16 with a mark": "utf-16",
    "utf-16 little": "utf-16-le",
    "utf-16 big": "utf-16-be",
    "utf-32 with a mark": "utf-32",
    "utf-32 little": "utf-32-le",
    "utf-32 big": "utf-32-be",
}


def rows_of(name, **options):
    source = open_input(InputSpec((str(name),), **options))
    return [
        {key: value for key, value in row.items() if not key.startswith("plan:")}
        for batch in source.batches()
        for row in batch.to_pylist()
    ]


def paths_of(name, **options):
    return [row["image_path"] for row in rows_of(name, **options)]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("where", ["file", "standard input"])
def test_every_encoding_and_line_end_gives_the_same_rows(tmp_path, monkeypatch, encoding, end, where):
    content = "".join(name + end for name in NAMES).encode(encoding)
    (tmp_path / "list.txt").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert paths_of(tmp_path / "list.txt" if where == "file" else "-") == NAMES


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
def test_a_csv_may_have_any_encoding(tmp_path, encoding):
    name = write(tmp_path / "t.csv", 'path,title\r\na.jpg,"two\r\nlines"\r\nü.jpg,x\r\n', encoding)
    assert rows_of(name) == [{"image_path": "a.jpg", "title": "two\nlines"}, {"image_path": "ü.jpg", "title": "x"}]


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("sign", ["sep=;", '"sep=;"'])
def test_excels_line_of_its_delimiter_is_no_row(tmp_path, encoding, sign):
    name = write(tmp_path / "t.csv", f"{sign}\r\nimage;size\r\na.jpg;1,5\r\n", encoding)
    assert rows_of(name) == [{"image_path": "a.jpg", "size": "1,5"}]
    name = write(tmp_path / "t.csv", f"{sign}\r\nBild;size\r\na.jpg;1,5\r\n", encoding)
    assert rows_of(name, path_column="Bild") == [{"image_path": "a.jpg", "size": "1,5"}]
    with pytest.raises(InputError, match=r"which column has the path\? Its first line is \['Bild', 'size'\]"):
        rows_of(name)
    name = write(tmp_path / "t.csv", f"{sign}\r\nimage;size\r\na.jpg\r\n", encoding)
    with pytest.raises(InputError, match="line 3: 1 fields for 2 columns"):
        rows_of(name)


def test_a_column_whose_name_is_no_utf_8_is_refused_and_values_are_kept_as_names_of_files_are(tmp_path):
    name = write(tmp_path / "t.csv", "image;Größe\na.jpg;1\n", "cp1252")
    with pytest.raises(InputError, match=r"its column 'Gr\\\\xf6\\\\xdfe' is not UTF-8; write it anew in UTF-8"):
        rows_of(name)
    name = write(tmp_path / "t.csv", "image;label\na.jpg;Fußball\n", "cp1252")
    assert rows_of(name) == [{"image_path": "a.jpg", "label": "Fu\\xdfball"}]


def test_what_begins_as_utf_16_and_is_not_is_refused_in_one_line(tmp_path):
    (tmp_path / "list.txt").write_bytes("a.jpg\n".encode("utf-16") + b"\x00\xd8\x00\xd8")
    with pytest.raises(InputError, match=r"list.txt: begins as utf-16-le and is not: .*write it as UTF-8"):
        paths_of(tmp_path / "list.txt")


@pytest.mark.parametrize("content", [b"a.jpg\0b c.jpg\0", b"/x/1.jpg\0/x/2.jpg\0/x/3.jpg\0", b"\xff.jpg\0b.jpg\0"])
def test_names_with_nul_bytes_between_are_not_utf_16(content):
    assert encoding_of(content) == ("utf-8", 0)


def test_a_mark_between_lists_that_were_put_together_is_no_part_of_a_name(tmp_path):
    one = "a.jpg\n".encode("utf-8-sig")
    (tmp_path / "list.txt").write_bytes(one + one.replace(b"a", b"b"))
    assert paths_of(tmp_path / "list.txt") == ["a.jpg", "b.jpg"]


def test_labels_may_be_words_or_several(tmp_path):
    assert [row["label"] for row in rows_of(INPUTS / "text_label.txt")] == ["cat"] * 4
    name = write(tmp_path / "list.txt", "a.jpg red apple\nb c.JPG\tgreen\n'd e.jpg' 7\n")
    assert [(row["image_path"], row["label"]) for row in rows_of(name)][:2] == [
        ("a.jpg", "red apple"),
        ("b c.JPG", "green"),
    ]


def test_a_line_without_its_label_is_named_with_the_way_out(tmp_path):
    name = write(tmp_path / "list.txt", "a.jpg cat\nb.jpg cat\nc.jpg\n")
    with pytest.raises(InputError, match=r"line 3: 'c.jpg' is not of the form 'path label'; --input-format lines"):
        rows_of(name)
    assert paths_of(name, input_format="lines") == ["a.jpg cat", "b.jpg cat", "c.jpg"]


def test_a_label_that_is_no_number_behind_a_hundred_that_are_is_named(tmp_path):
    name = write(tmp_path / "list.txt", "a.jpg 1\n" * 120 + "a.jpg cat\n")
    with pytest.raises(InputError, match=r"line 121: 'a.jpg cat' .*the label a whole number as in the lines before"):
        rows_of(name)


def test_names_that_look_like_a_path_and_a_label_stay_names(tmp_path):
    lines = ["a.jpg b.jpg", "my photo 2.jpg", "holiday.jpg copy.jpg"]
    assert paths_of(write(tmp_path / "list.txt", "\n".join(lines))) == lines


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_around_every_path_are_no_part_of_it(tmp_path, quote):
    name = write(tmp_path / "list.txt", "".join(f"{quote}{each}{quote}\n" for each in NAMES))
    assert paths_of(name) == NAMES
    name = write(tmp_path / "labels.txt", f"{quote}a b.jpg{quote} 3\n{quote}c.jpg{quote} 4\n")
    assert rows_of(name) == [{"image_path": "a b.jpg", "label": 3}, {"image_path": "c.jpg", "label": 4}]


def test_a_quote_in_one_name_stays_in_it(tmp_path):
    lines = ['"odd".jpg', "plain.jpg"]
    assert paths_of(write(tmp_path / "list.txt", "\n".join(lines))) == lines


def test_white_space_behind_a_picture_is_no_part_of_its_name(tmp_path):
    assert paths_of(write(tmp_path / "list.txt", "a.jpg  \nb.jpg\t\n c.jpg\n")) == ["a.jpg", "b.jpg", " c.jpg"]
    assert paths_of(write(tmp_path / "t.csv", "id, path\n1, a.jpg \n2,b.jpg\n")) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_a_csv_may_have_any_of_the_usual_signs_between_its_fields(tmp_path, sign):
    name = write(tmp_path / "t.csv", f'id{sign}path{sign}title\n1{sign}a.jpg{sign}"x{sign}y"\n')
    assert rows_of(name) == [{"image_path": "a.jpg", "id": "1", "title": f"x{sign}y"}]


def test_two_columns_of_one_name_are_refused_unless_others_are_kept(tmp_path):
    name = write(tmp_path / "t.csv", "path,n,n,m\na.jpg,1,2,3\n")
    with pytest.raises(InputError, match="two columns are called 'n': rename one, or keep others with --columns"):
        rows_of(name)
    assert rows_of(name, columns=("m",)) == [{"image_path": "a.jpg", "m": "3"}]
    with pytest.raises(InputError, match="two columns are called 'path'"):
        rows_of(write(tmp_path / "u.csv", "path,path\na.jpg,b.jpg\n"))


def test_lines_without_anything_do_not_count_in_a_csv(tmp_path):
    name = write(tmp_path / "t.csv", "\n\npath,n\n\na.jpg,1\n\n")
    assert rows_of(name) == [{"image_path": "a.jpg", "n": "1"}]


def test_a_csv_without_a_line_of_names_says_so(tmp_path):
    with pytest.raises(InputError, match=r"Its first line is \['a.jpg', '1'\]: name the column"):
        rows_of(write(tmp_path / "t.csv", "a.jpg,1\nb.jpg,2\n"))


def test_a_csv_value_that_is_not_text_is_kept_escaped(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"path,title\n\xff.jpg,\xfe\n")
    assert rows_of(tmp_path / "t.csv") == [{"image_path": "\\xff.jpg", "title": "\\xfe"}]


def test_a_pipe_is_refused_because_it_can_be_read_once_only(tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(InputError, match=r"list.txt: not a regular file; .* standard input"):
        rows_of(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"a.jpg\n") + b"rubbish", "gzip"),
        (bz2.compress(b"a.jpg\n"), "bzip2"),
        (lzma.compress(b"a.jpg\n"), "xz"),
        (pa.compress(b"a.jpg\n", "zstd", asbytes=True), "zstd"),
        (b"PK\x03\x04" + bytes(40), "zip"),
        (b"PK\x05\x06" + bytes(18), "empty zip"),
        (b"PAR1\x15\x04" + bytes(40), "parquet"),
        (b"ARROW1\0\0" + bytes(40), "Arrow"),
    ],
    ids=["gzip", "bzip2", "xz", "zstd", "zip", "empty zip", "parquet", "arrow"],
)
@pytest.mark.parametrize("name", ["list.txt", "list.csv", "no-such-suffix", "x.jsonl"])
def test_a_list_that_is_something_else_is_refused_with_what_it_is(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: .*it is (compressed by|an?) {kind}"):
        paths_of(tmp_path / name)


@pytest.mark.parametrize("name", ["t.xlsx", "t.XLS", "t.ods"])
def test_a_spreadsheet_is_refused_with_how_to_save_it(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=f"{name}: a spreadsheet; save it as CSV"):
        paths_of(tmp_path / name)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.feather", "x.tar.zst", "x.dat"])
def test_a_file_of_an_unknown_kind_is_refused_with_what_can_be_given(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"path": "a.jpg"}\n')
    with pytest.raises(InputError, match=r"neither image, list, .parquet nor .tar; .*--input-format"):
        paths_of(tmp_path / name)


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("metric_learn_client.jobs.inputs.text.MAX_LINE_CHARS", 1000)
    name = write(tmp_path / "list.txt", "a.jpg\n" + "x" * 5000)
    with pytest.raises(InputError, match=r"line 2: more than 1000 characters; is it a list?"):
        rows_of(name)


def test_nul_bytes_without_an_end_are_refused(monkeypatch):
    with open("/dev/zero", "rb") as zeros:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(zeros))
        with pytest.raises(InputError, match=r"standard input: 65536 NUL bytes in a row; is it a list?"):
            paths_of("-")


def test_closed_standard_input_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        rows_of("-")


def test_a_csv_behind_a_list_of_another_kind_is_refused_and_its_lines_are_no_paths(tmp_path):
    lines, csv = write(tmp_path / "l.txt", "a.jpg\n"), write(tmp_path / "l.csv", "path,label\na.jpg,3\n")
    with pytest.raises(InputError, match=r"l.txt is read as lines, and .*l.csv is a CSV: one job reads one kind"):
        open_input(InputSpec((str(lines), str(csv))))
