"""Every row of the input ends in embeddings or failures, or the job is refused before anything is sent."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.jobs import InputError, RefusedError, embed_dataset, verify
from metric_learn_client.testing import fake_embeddings
from tests.integration.client.jobs.conftest import Job, make_images, shard_contents


def table(path, images, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"jpg": images, **columns}), path, row_group_size=2)
    return path


def archive(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def rows_of(out):
    """{image_path: its embedding} of the whole output; no path twice."""
    found = {}
    for content in shard_contents(out):
        for path, embedding in zip(content.rows.column("image_path").to_pylist(), content.embeddings):
            assert path not in found, path
            found[path] = embedding
    return found


def assert_embedded(out, expected):
    found = rows_of(out)
    assert sorted(found) == sorted(expected)
    for path, image in expected.items():
        assert (found[path] == fake_embeddings([image])[0]).all(), path


def test_extend_takes_every_table_of_folders_whose_files_have_one_name(tmp_path, fake):
    data, out = tmp_path / "data", tmp_path / "out"
    table(data / "label=b/part-0.parquet", [b"b0", b"b1", b"b2"])
    options = {"endpoint": fake.endpoint, "input_format": "parquet"}
    embed_dataset(data, out, **options)
    table(data / "label=a/part-0.parquet", [b"a0", b"a1"])  # before the other one in the listing
    table(data / "label=c/part-0.parquet", [b"c0"])
    summary = embed_dataset(data, out, **options, if_exists="extend")
    assert (summary.succeeded, summary.sent) == (6, 3)
    expected = {
        f"label={name}/part-0.parquet#{n}": f"{name}{n}".encode() for name, n in ("a0", "a1", "b0", "b1", "b2", "c0")
    }
    assert_embedded(out, expected)
    assert verify(out, with_input=True).problems == ()


def test_failures_of_before_are_read_from_their_own_archive_after_another_came_before_it(tmp_path, fake):
    out = tmp_path / "out"
    (tmp_path / "in").mkdir()
    archive(tmp_path / "in/b.tar", [("1.jpg", b"image of b"), ("2.jpg", b"corrupt")])
    options = {"endpoint": fake.endpoint, "input_format": "tar"}
    embed_dataset(tmp_path / "in", out, **options)
    archive(tmp_path / "in/a.tar", [("1.jpg", b"image of a"), ("2.jpg", b"another")])
    embed_dataset(tmp_path / "in", out, **options, if_exists="extend")
    summary = embed_dataset(tmp_path / "in", out, **options, retry_failed=True)
    assert (summary.succeeded, summary.codes) == (3, {"E_DECODE": 1})


def test_extend_tells_lines_by_their_labels_and_counts_repeats(tmp_path, fake):
    make_images(tmp_path, 3)
    lines, out = tmp_path / "list.txt", tmp_path / "out"
    lines.write_text("00000.jpg 1\n00001.jpg 1\n")
    embed_dataset(lines, out, endpoint=fake.endpoint)
    lines.write_text("00000.jpg 2\n00000.jpg 1\n00000.jpg 1\n00001.jpg 1\n")
    summary = embed_dataset(lines, out, endpoint=fake.endpoint, if_exists="extend")
    assert (summary.rows, summary.sent) == (4, 2)
    added = pq.read_table(out / "metadata/metadata_00001.parquet", partitioning=None)
    assert [(row["image_path"], row["label"]) for row in added.to_pylist()] == [("00000.jpg", 2), ("00000.jpg", 1)]


def test_pictures_whose_tables_call_them_alike_have_paths_of_their_own(tmp_path, fake):
    one = table(tmp_path / "one.parquet", [b"1", b"2"], image_path=["image.jpg", "image.jpg"])
    two = table(tmp_path / "two.parquet", [b"3", b"4"], image_path=["image.jpg", "image.jpg#2"])
    embed_dataset([one, two], tmp_path / "out", endpoint=fake.endpoint)
    assert_embedded(
        tmp_path / "out", {"image.jpg": b"1", "image.jpg#3": b"2", "image.jpg#4": b"3", "image.jpg#2": b"4"}
    )


def test_members_of_one_name_have_paths_of_their_own_also_after_an_extension(tmp_path, fake):
    name = archive(tmp_path / "s.tar", [("a.jpg", b"1"), ("a.jpg", b"2")])
    embed_dataset(name, tmp_path / "out", endpoint=fake.endpoint)
    archive(name, [("a.jpg", b"3")], "a")
    assert embed_dataset(name, tmp_path / "out", endpoint=fake.endpoint, if_exists="extend").sent == 1
    assert_embedded(tmp_path / "out", {f"{name}/a.jpg": b"1", f"{name}/a.jpg#2": b"2", f"{name}/a.jpg#3": b"3"})


@pytest.mark.parametrize("more", [{}, {"if_exists": "extend"}, {"retry_failed": True}], ids=str)
@pytest.mark.parametrize("kind", ["table", "archive"])
def test_a_file_whose_pictures_moved_is_refused_before_anything_is_sent(tmp_path, fake, more, kind):
    def write(images):
        if kind == "table":
            return table(tmp_path / "t.parquet", images, n=list(range(len(images))))
        return archive(tmp_path / "t.tar", [(f"{n}.jpg", image) for n, image in enumerate(images)])

    name = write([b"one", b"two"])
    embed_dataset(name, tmp_path / "out", endpoint=fake.endpoint)
    sent = fake.images
    write([b"x" * 3000, b"one"])
    with pytest.raises((InputError, RefusedError), match=f"{name.name} changed since its rows were planned"):
        embed_dataset(name, tmp_path / "out", endpoint=fake.endpoint, **more)
    assert fake.images == sent


def test_files_may_go_away_and_others_come_and_one_that_comes_back_changed_is_refused(tmp_path, fake):
    data, out = tmp_path / "data", tmp_path / "out"
    options = {"endpoint": fake.endpoint, "input_format": "parquet"}
    table(data / "1.parquet", [b"1"])
    embed_dataset(data, out, **options)
    (data / "1.parquet").unlink()
    table(data / "2.parquet", [b"2"])
    assert embed_dataset(data, out, **options, if_exists="extend").sent == 1
    assert embed_dataset(data, out, **options).sent == 0
    assert_embedded(out, {"1.parquet#0": b"1", "2.parquet#0": b"2"})
    table(data / "1.parquet", [b"another"])
    with pytest.raises(InputError, match=r"1.parquet changed since its rows were planned"):
        embed_dataset(data, out, **options, if_exists="extend")


def test_a_table_of_paths_may_lose_and_gain_columns_between_extensions(tmp_path, fake):
    make_images(tmp_path, 4)
    name, out = tmp_path / "t.parquet", tmp_path / "out"
    for count, columns in ((1, {"a": "x"}), (2, {"b": "x"}), (3, {"a": "x", "b": "y"})):
        rows = {
            "path": [f"{n:05d}.jpg" for n in range(count)],
            **{key: [value] * count for key, value in columns.items()},
        }
        pq.write_table(pa.table(rows), name)
        summary = embed_dataset(name, out, endpoint=fake.endpoint, if_exists="resume" if count == 1 else "extend")
        assert (summary.rows, summary.sent) == (count, 1)


def test_verify_complete_finds_rows_of_the_input_that_no_run_has_seen(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 5), tmp_path / "out"
    job = Job(images, out, fake.endpoint)
    assert job.run()[0] == ExitCode.DONE
    job.arguments = ["job", "verify", str(out), "--complete", "--json"]
    code, (found,), _ = job.run()
    assert (code, found["input_rows"], found["problems"]) == (ExitCode.DONE, 5, [])
    make_images(images, 7)
    code, (found,), _ = job.run()
    assert (code, found["input_rows"]) == (ExitCode.GATE_FAILED, 7)
    assert found["problems"] == ["2 rows of the input are none of the job's: --extend embeds them"]


def test_a_job_of_the_former_version_goes_on_and_is_extended(tmp_path, fake):
    """Its plan knows nothing of what was skipped, and its tables' paths were file names alone."""
    data, out = tmp_path / "data", tmp_path / "out"
    table(data / "label=a/part-0.parquet", [b"a0", b"a1"])
    options = {"endpoint": fake.endpoint, "input_format": "parquet"}
    embed_dataset(data, out, **options)
    plan = out / ".plan/plan.json"
    facts = json.loads(plan.read_text())
    del facts["skipped"]
    plan.write_text(json.dumps(facts))
    (planned,) = (path for path in (out / ".plan").iterdir() if path != plan)
    with pa.memory_map(str(planned)) as file:
        rows = pa.ipc.open_file(file).read_all().drop_columns(["label"])
        old = rows.set_column(0, "image_path", pa.array(["part-0.parquet#0", "part-0.parquet#1"]))
        with pa.OSFile(str(tmp_path / "old"), "wb") as sink, pa.ipc.new_file(sink, old.schema) as writer:
            writer.write_table(old)
    (tmp_path / "old").replace(planned)
    assert embed_dataset(data, out, **options).sent == 0
    table(data / "label=b/part-0.parquet", [b"b0"])
    assert embed_dataset(data, out, **options, if_exists="extend").sent == 1


def test_one_folder_spelled_in_two_ways_is_one_input_and_one_job(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 3), tmp_path / "out"
    assert embed_dataset([f"{images}/", images], out, endpoint=fake.endpoint).rows == 3
    for name in (images, f"{images}/.", f"{tmp_path}//in/"):
        assert embed_dataset(name, out, endpoint=fake.endpoint).sent == 0


def test_the_summary_counts_and_names_what_was_not_taken(tmp_path, fake):
    images = make_images(tmp_path / "in", 2)
    for name in ("a.jfif", "b.JFIF", "c.jpe", "readme", "._00000.jpg", ".cache/00000.jpg"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_bytes(b"x")
    job = Job(images, tmp_path / "out", fake.endpoint)
    for _ in range(2):  # also where there is nothing to do any more
        code, events, _ = job.run()
        assert code == ExitCode.DONE and events[-1]["succeeded"] == 2
        assert events[-1]["skipped"] == {
            ".jfif": {"count": 2, "example": f"{images}/a.jfif"},
            ".jpe": {"count": 1, "example": f"{images}/c.jpe"},
            "no suffix": {"count": 1, "example": f"{images}/readme"},
            "._*": {"count": 1, "example": f"{images}/._00000.jpg"},
            ".*": {"count": 1, "example": f"{images}/.cache/00000.jpg"},
        }
    job.arguments.remove("--json")
    process = job.start()
    out, _ = process.communicate(timeout=60)
    assert "2 .jfif (as " in out and "1 no suffix (as " in out


def test_a_list_of_which_nothing_is_there_is_refused_with_its_first_place(tmp_path, fake):
    lines = tmp_path / "list.txt"
    lines.write_text("".join(f"photos/{n}.jpg\n" for n in range(150)))
    with pytest.raises(InputError, match=f"none of the first 100 pictures is there; .*{tmp_path}/photos/0.jpg.*--root"):
        embed_dataset(lines, tmp_path / "out", endpoint=fake.endpoint)
    make_images(tmp_path / "elsewhere/photos", 1)
    (tmp_path / "elsewhere/photos/00000.jpg").rename(tmp_path / "elsewhere/photos/7.jpg")
    summary = embed_dataset(lines, tmp_path / "out", endpoint=fake.endpoint, root=str(tmp_path / "elsewhere"))
    assert (summary.succeeded, summary.failed) == (1, 149)


def test_search_and_evaluate_name_rows_of_tables_by_their_paths(tmp_path, fake):
    for label in "ab":
        table(tmp_path / f"data/label={label}/part-0.parquet", [f"{label}{n}".encode() for n in range(3)])
    embed_dataset(tmp_path / "data", tmp_path / "out", endpoint=fake.endpoint, input_format="parquet")
    job = Job("", "", "")
    out, index = str(tmp_path / "out"), str(tmp_path / "index")

    def run(*arguments):
        job.arguments = list(arguments)
        with job.start() as process:
            said, err = process.communicate(timeout=120)
        assert process.returncode == ExitCode.DONE, err
        return said

    run("index", "build", out, "--output", index)
    found = json.loads(run("search", "label=b/part-0.parquet#1", "--stored", "--index", index, "--k", "1", "--json"))
    assert [each["path"] for each in found["neighbours"]] == ["label=b/part-0.parquet#1"]
    by_column, by_folder = (
        json.loads(run("evaluate", out, "--json", "--k", "1", *more))
        for more in (("--label-column", "label"), ("--label-from-folder",))
    )
    assert by_column == by_folder


def picture_of(folder, name="1.jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(f"picture in {folder.name}".encode())
    return folder


def embeddings_in_order(out):
    return [embedding for content in shard_contents(out) for embedding in content.embeddings]


@pytest.mark.parametrize("lists", [("train", "test"), ("train", "here"), ("here", "train")], ids="-".join)
def test_each_list_of_several_names_the_pictures_of_its_own_folder_also_where_that_is_a_url(tmp_path, fake, lists):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("train", "test"):
        memory.pipe(f"/own-folder/{name}/1.jpg", f"picture in {name}".encode())
        memory.pipe(f"/own-folder/{name}/list.txt", b"1.jpg\n")
    (picture_of(tmp_path / "here") / "list.txt").write_text("1.jpg\n")
    names = [f"{tmp_path if name == 'here' else 'memory://own-folder'}/{name}/list.txt" for name in lists]
    assert embed_dataset(names, tmp_path / "out", endpoint=fake.endpoint).succeeded == 2
    expected = fake_embeddings([f"picture in {name}".encode() for name in lists])
    assert (embeddings_in_order(tmp_path / "out") == expected).all()
    assert embed_dataset(names, tmp_path / "out", endpoint=fake.endpoint, if_exists="extend").sent == 0
    memory.rm("/own-folder", recursive=True)


def test_names_on_standard_input_belong_to_the_working_directory_also_beside_a_list(tmp_path, fake, monkeypatch):
    monkeypatch.chdir(picture_of(tmp_path / "work"))
    (picture_of(tmp_path / "lists") / "a.txt").write_text("1.jpg\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1.jpg\n")))
    embed_dataset(["../lists/a.txt", "-"], "out", endpoint=fake.endpoint, input_format="lines")
    assert (embeddings_in_order("out") == fake_embeddings([b"picture in lists", b"picture in work"])).all()


def test_paths_of_tables_in_several_folders_belong_each_to_its_own_also_after_the_first_picture_went(tmp_path, fake):
    tables = []
    for folder in (picture_of(tmp_path / name) for name in "ab"):
        picture_of(folder, "2.jpg")
        tables.append(folder / "t.parquet")
        pq.write_table(pa.table({"path": ["1.jpg", "2.jpg"]}), tables[-1])
    options = {"endpoint": fake.endpoint, "shard_size": 2}
    expected = fake_embeddings([b"picture in a"] * 2 + [b"picture in b"] * 2)
    assert embed_dataset(tables, tmp_path / "out", **options).succeeded == 4
    assert (embeddings_in_order(tmp_path / "out") == expected).all()
    (tmp_path / "a/1.jpg").unlink()
    summary = embed_dataset(tables, tmp_path / "out", **options, if_exists="sync")
    assert (summary.sync, summary.failed) == ({"changed": 1, "removed": 0, "added": 0, "unchanged": 3}, 1)
    assert (embeddings_in_order(tmp_path / "out") == expected[1:]).all()
    assert verify(tmp_path / "out", with_input=True).problems == ()
