"""Every form of input gives the rows it should, in an order that depends on the input alone."""

import io
import os
import subprocess
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.input_kinds import open_input
from metric_learn_client.jobs.options import InputSpec
from metric_learn_client.jobs.patterns import expand_braces, glob_regex
from metric_learn_client.jobs.plan.plan import build, listing_of
from metric_learn_client.jobs.work.reader import Reader


def rows_of(*names, **options):
    source = open_input(InputSpec(tuple(str(name) for name in names), **options))
    return pa.Table.from_batches(list(source.batches()))


def paths_of(*names, **options):
    return rows_of(*names, **options)["image_path"].to_pylist()


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def planned_images(folder, *names, limit=1 << 20, **options):
    """What the reader makes of the rows of the first shard."""
    spec = InputSpec(tuple(str(name) for name in names), **options)
    plan = build(open_input(spec), spec, 1000, folder)
    reader = Reader(plan, limit)
    rows = plan.read(0)
    prepared = reader.prepare(rows)
    images = reader.read(rows) if prepared is None else prepared
    reader.close()
    return images


def test_a_folder_is_read_in_the_order_of_whole_paths_and_by_suffix(tmp_path):
    for name in ("b.jpg", "a/z.JPEG", "a/b/c.png", "a.webp", "a-b/x.bmp", "notes.txt", "a/readme.md"):
        write(tmp_path / name)
    found = [os.path.relpath(path, tmp_path) for path in paths_of(tmp_path)]
    assert found == sorted(["b.jpg", "a/z.JPEG", "a/b/c.png", "a.webp", "a-b/x.bmp"])


def test_a_file_that_is_named_is_a_row_whatever_its_suffix(tmp_path):
    name = write(tmp_path / "a.jfif")
    assert paths_of(name, input_format="files") == [str(name)]


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path):
    write(tmp_path / "in/a.jpg")
    write(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "in/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    assert [path.rsplit("/", 1)[1] for path in paths_of(tmp_path / "in")] == ["a.jpg", "b.jpg"]


def test_a_folder_named_like_an_image_is_a_row_and_so_is_what_it_holds(tmp_path):
    write(tmp_path / "album.jpg/inside.png")
    assert [os.path.relpath(path, tmp_path) for path in paths_of(tmp_path)] == ["album.jpg", "album.jpg/inside.png"]


def test_a_file_name_that_is_not_text_is_shown_escaped_and_still_read(tmp_path):
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path / "in") + b"/\xff.jpg", "wb") as file:
        file.write(b"bytes of it")
    assert paths_of(tmp_path / "in")[0].endswith("\\xff.jpg")
    assert planned_images(tmp_path / "plan", tmp_path / "in") == [b"bytes of it"]


def test_a_deep_folder_does_not_end_the_walk(tmp_path):
    folder = tmp_path
    for _ in range(1200):
        folder = folder / "d"
        if len(str(folder)) > 3900:
            break
        folder.mkdir()
    write(folder.parent / "a.jpg")
    try:
        assert len(paths_of(tmp_path)) == 1
    finally:  # Python's own rmtree, with which pytest clears old folders, recurses and gives up
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("**/*.jpg", ["a.jpg", "x/y/a.jpg"], ["a.jpeg", "jpg"]),
        ("*.jpg", ["a.jpg"], ["x/a.jpg"]),
        ("x/?[0-9].png", ["x/a1.png"], ["x/ab.png", "x/a1.pngs"]),
        ("[!a].jpg", ["b.jpg"], ["a.jpg"]),
    ],
)
def test_globs_match_as_shells_do(pattern, matching, other):
    regex = glob_regex(pattern)
    assert [name for name in matching + other if regex.match(name.encode())] == matching


def test_a_glob_in_the_input_is_the_folder_and_the_pattern(tmp_path):
    for name in ("x/1.jpg", "x/1.png", "y/2.jpg"):
        write(tmp_path / name)
    assert len(paths_of(tmp_path / "**/*.jpg")) == 2
    assert len(paths_of(tmp_path / "x/*")) == 2


def test_braces_expand_as_webdataset_has_them():
    assert expand_braces("s-{0008..0011}.tar") == ["s-0008.tar", "s-0009.tar", "s-0010.tar", "s-0011.tar"]
    assert expand_braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    assert expand_braces("plain{x}.jpg") == ["plain{x}.jpg"]


def test_braces_for_too_many_names_are_refused_before_the_names_fill_the_memory():
    with pytest.raises(InputError, match="stands for 10000000000 names; the limit is"):
        expand_braces("{0..99999}/{0..99999}.tar")


def test_a_plain_list_keeps_spaces_order_and_repeats_and_is_relative_to_itself(tmp_path):
    write(tmp_path / "sub/my photo.jpg", b"1")
    lines = tmp_path / "sub/list.txt"
    lines.write_bytes(b"\xef\xbb\xbfmy photo.jpg\r\n\r\nmissing.jpg\r\nmy photo.jpg")
    assert paths_of(lines) == ["my photo.jpg", "missing.jpg", "my photo.jpg"]
    first, second, third = planned_images(tmp_path / "plan", lines)
    assert (first, third) == (b"1", b"1") and second.code == "E_NOT_FOUND"


def test_the_paths_of_each_of_several_lists_belong_to_its_own_folder(tmp_path):
    for folder in ("one", "two"):
        write(tmp_path / folder / "a.jpg", folder.encode())
        write(tmp_path / folder / "list.txt", b"a.jpg\n")
    lists = (tmp_path / "one/list.txt", tmp_path / "two/list.txt")
    assert paths_of(*lists) == ["a.jpg", "a.jpg"]
    assert planned_images(tmp_path / "plan", *lists) == [b"one", b"two"]
    assert planned_images(tmp_path / "plan", *lists, root=str(tmp_path / "two")) == [b"two", b"two"]


def test_path_label_lines_are_recognised(tmp_path):
    lines = tmp_path / "val.txt"
    lines.write_text("a b.JPEG 3\nc.jpg\t-1\n")
    assert rows_of(lines).select(["image_path", "label"]).to_pylist() == [
        {"image_path": "a b.JPEG", "label": 3},
        {"image_path": "c.jpg", "label": -1},
    ]


def test_the_sop_list_is_recognised_by_its_first_line(tmp_path):
    lines = tmp_path / "Ebay_test.txt"
    lines.write_text("image_id class_id super_class_id path\n59552 11319 1 bicycle_final/1_0.JPG\n")
    row = rows_of(lines).to_pylist()[0]
    assert (row["image_id"], row["class_id"], row["super_class_id"]) == (59552, 11319, 1)
    assert row["image_path"] == "bicycle_final/1_0.JPG"


def test_a_broken_line_is_named(tmp_path):
    lines = tmp_path / "Ebay_test.txt"
    lines.write_text("image_id class_id super_class_id path\n1 2 3 a.jpg\n1 x 3 b.jpg\n")
    with pytest.raises(InputError, match=r"line 3: '1 x 3 b.jpg' is not of the form"):
        rows_of(lines)


def test_csv_columns_are_kept_or_chosen_and_the_path_column_is_found(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text('id,path,title\n1,a.jpg,"x, ""y"""\n2,b.jpg,z\n')
    assert rows_of(table).select(["image_path", "id", "title"]).to_pylist()[0] == {
        "image_path": "a.jpg",
        "id": "1",
        "title": 'x, "y"',
    }
    assert rows_of(table, columns=("title",)).schema.names[:2] == ["image_path", "title"]
    with pytest.raises(InputError, match="--columns nope"):
        rows_of(table, columns=("nope",))


def test_a_csv_row_with_too_few_fields_is_named(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("path,id\na.jpg,1\nb.jpg\n")
    with pytest.raises(InputError, match="line 3: 1 fields for 2 columns"):
        rows_of(table)


@pytest.mark.parametrize("content", [b"a.jpg\nb c.jpg\n", b"a.jpg\0b c.jpg\0", b"a.jpg\0b c.jpg"])
def test_standard_input_has_lines_or_nul_ends(monkeypatch, content):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert paths_of("-") == ["a.jpg", "b c.jpg"]


def parquet(file, **columns):
    pq.write_table(pa.table(columns), file, row_group_size=3)
    return file


def test_a_table_of_paths_keeps_its_other_columns(tmp_path):
    write(tmp_path / "a.jpg", b"A")
    name = parquet(tmp_path / "t.parquet", url=["a.jpg", None], score=[0.5, None], tags=[["x"], []])
    rows = rows_of(name, root=str(tmp_path))
    assert rows.schema.names[:3] == ["image_path", "score", "tags"]
    first, second = planned_images(tmp_path / "plan", name, root=str(tmp_path))
    assert first == b"A" and second.code == "E_NOT_FOUND"


def test_a_table_of_bytes_is_read_in_any_order(tmp_path):
    images = [b"img%d" % index for index in range(10)]
    name = parquet(tmp_path / "t.parquet", jpg=images, image_path=[f"{i}.jpg" for i in range(10)], n=list(range(10)))
    assert planned_images(tmp_path / "plan", name) == images
    spec = InputSpec((str(name),), shuffle_seed=1)
    plan = build(open_input(spec), spec, 100, tmp_path / "shuffled")
    rows = plan.read(0)
    assert rows.column("n").to_pylist() != list(range(10))
    reader = Reader(plan, 100)
    assert reader.prepare(rows) == [images[n] for n in rows.column("n").to_pylist()]
    reader.close()


def test_a_hugging_face_struct_of_bytes_and_path_is_understood(tmp_path):
    name = parquet(tmp_path / "t.parquet", image=[{"bytes": b"A", "path": "a.jpg"}, None], label=[1, 2])
    rows = rows_of(name)
    assert rows["image_path"].to_pylist() == ["a.jpg", "t.parquet#1"]
    assert rows["label"].to_pylist() == [1, 2]
    there, absent = planned_images(tmp_path / "plan", name)
    assert (there, absent.code) == (b"A", "E_EMPTY")


def test_a_broken_row_group_costs_its_own_rows_only(tmp_path):
    images = [os.urandom(2000) for _ in range(6)]
    name = parquet(tmp_path / "t.parquet", jpg=images)
    spec = InputSpec((str(name),))
    plan = build(open_input(spec), spec, 100, tmp_path / "plan")
    content = bytearray(name.read_bytes())
    at = content.index(images[1][:64])
    content[4 : at + 3000] = bytes(at + 2996)  # the first group's pages
    name.write_bytes(content)
    reader = Reader(plan, 1 << 20)
    got = reader.prepare(plan.read(0))
    reader.close()
    assert [getattr(each, "code", None) for each in got] == ["E_READ"] * 3 + [None] * 3
    assert got[3:] == images[3:]


def test_tables_whose_columns_differ_are_refused_with_the_column(tmp_path):
    one = parquet(tmp_path / "1.parquet", path=["a"], n=[1])
    two = parquet(tmp_path / "2.parquet", path=["a"], n=["1"])
    with pytest.raises(InputError, match=r"2.parquet: column 'n' is string; in .*1.parquet it is int64"):
        rows_of(one, two)
    assert rows_of(one, two, columns=()).num_rows == 2


def test_a_column_with_a_name_of_the_output_is_refused(tmp_path):
    name = parquet(tmp_path / "1.parquet", path=["a"], row=[1])
    with pytest.raises(InputError, match="column 'row'"):
        rows_of(name)


def archive(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_archives_give_keys_kept_texts_and_images_from_where_they_lie(tmp_path):
    archive(tmp_path / "s-00.tar", [("a/1.jpg", b"one"), ("a/1.txt", b"text"), ("a/2.png", b"two" * 1000)])
    archive(tmp_path / "s-01.tar", [("3.json", b"{}"), ("3.jpg", b"three"), ("note.md", b"-")])
    pattern = tmp_path / "s-{00..01}.tar"
    rows = rows_of(pattern, columns=("txt", "json")).to_pylist()
    assert [(row["__key__"], row["txt"], row["json"]) for row in rows] == [
        ("a/1", "text", None),
        ("a/2", None, None),
        ("3", None, "{}"),
    ]
    assert rows[0]["image_path"].endswith("s-00.tar/a/1.jpg")
    assert planned_images(tmp_path / "plan", pattern) == [b"one", b"two" * 1000, b"three"]
    limited = planned_images(tmp_path / "plan", pattern, limit=100)
    assert [getattr(each, "code", each) for each in limited] == [b"one", "E_TOO_LARGE", b"three"]


@pytest.mark.parametrize("size", [5000, 5500, 4608])  # inside a header, inside a picture, between two members
def test_a_cut_off_archive_is_refused_with_its_name(tmp_path, size):
    path = archive(tmp_path / "s.tar", [(f"{i}.jpg", b"x" * 1000) for i in range(20)])
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"s.tar: not a whole"):
        rows_of(path)


def test_any_fsspec_url_is_read_like_a_local_name(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name, content in (("a.jpg", b"A"), ("sub/b.jpg", b""), ("c.txt", b"-")):
        memory.pipe(f"/pictures/{name}", content)
    try:
        assert paths_of("memory://pictures") == ["memory://pictures/a.jpg", "memory://pictures/sub/b.jpg"]
        assert planned_images(tmp_path / "p", "memory://pictures") == [b"A", b""]
        lines = tmp_path / "urls.txt"
        lines.write_text("memory://pictures/a.jpg\nmemory://pictures/gone.jpg\n")
        first, second = planned_images(tmp_path / "q", lines)
        assert first == b"A" and second.code == "E_NOT_FOUND"
        memory.pipe("/pictures/s.tar", archive(tmp_path / "s.tar", [("k.jpg", b"in tar")]).read_bytes())
        assert planned_images(tmp_path / "r", "memory://pictures/s.tar") == [b"in tar"]
    finally:
        memory.rm("/pictures", recursive=True)


def test_a_url_that_nothing_can_read_is_refused_before_any_row_fails(tmp_path):
    lines = tmp_path / "urls.txt"
    lines.write_text("nosuchscheme://bucket/a.jpg\n")
    with pytest.raises(InputError, match="nosuchscheme"):
        rows_of(lines)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: None, "E_NOT_FOUND"),
        (lambda path: path.symlink_to(path.parent / "nothing"), "E_NOT_FOUND"),
        (lambda path: path.mkdir(), "E_READ"),
        (lambda path: os.mkfifo(path), "E_READ"),
        (lambda path: path.write_bytes(b"x" * 2000), "E_TOO_LARGE"),
        (lambda path: path.symlink_to(path), "E_READ"),
    ],
)
def test_what_cannot_be_read_fails_alone_with_its_code(tmp_path, make, code):
    good = write(tmp_path / "good.jpg", b"good")
    bad = tmp_path / "bad.jpg"
    make(bad)
    lines = tmp_path / "list.txt"
    lines.write_text(f"{bad}\n{good}\n")
    failed, read = planned_images(tmp_path / "plan", lines, limit=1000)
    assert (failed.code, read) == (code, b"good")
    assert str(tmp_path) not in failed.message


def test_an_input_without_images_says_what_it_saw(tmp_path):
    write(tmp_path / "in/a.tiff")
    spec = InputSpec((str(tmp_path / "in"),))
    with pytest.raises(InputError, match=r"no images; not taken, by their names: 1 \.tiff \(as .*/in/a.tiff\)"):
        build(open_input(spec), spec, 10, tmp_path / "plan")
    with pytest.raises(InputError, match="no such file or folder"):
        open_input(InputSpec((str(tmp_path / "nothing"),)))


def test_the_same_rows_have_one_digest_however_they_are_batched(tmp_path, monkeypatch):
    for index in range(50):
        write(tmp_path / f"in/{index}.jpg")
    spec = InputSpec((str(tmp_path / "in"),))
    whole = listing_of(open_input(spec), spec)
    monkeypatch.setattr("metric_learn_client.jobs.inputs.input_rows.CHUNK_ROWS", 7)
    assert listing_of(open_input(spec), spec) == whole
    write(tmp_path / "in/50.jpg")
    assert listing_of(open_input(spec), spec) != whole


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["img", "img/sub"], {}),
        (["img/sub", "./img/"], {}),
        (["img", "img/sub/1.jpg"], {}),
        (["img", "img/sub"], {"glob": "**/*.jfif"}),
        (["memory://below/img", "memory://below/img/sub"], {}),
    ],
    ids=str,
)
def test_an_input_below_another_one_is_refused_because_its_pictures_would_be_there_twice(
    tmp_path, monkeypatch, names, options
):
    write(tmp_path / "img/sub/1.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="its pictures would be taken twice; name one of both"):
        paths_of(*names, **options)


def test_an_input_below_another_one_that_does_not_take_it_is_one_more(tmp_path, monkeypatch):
    for name in ("img/1.jpg", "img/sub/2.jpg", "img/.hidden/3.jpg", "img/4.jfif"):
        write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert paths_of("img", "img/sub", glob="*.jpg") == ["img/1.jpg", "img/sub/2.jpg"]
    found = paths_of("img", "img/.hidden", "img/4.jfif", input_format="files")
    assert found == ["img/1.jpg", "img/sub/2.jpg", "img/.hidden/3.jpg", "img/4.jfif"]


def test_a_name_with_two_colons_is_no_url(tmp_path):
    write(tmp_path / "img::1.jpg", b"one")
    lines = write(tmp_path / "list.txt", b"img::1.jpg\n")
    assert planned_images(tmp_path / "plan", lines) == [b"one"]
