"""`--sync`: afterwards the output has the rows of a fresh run, whatever changed, and however often it was cut off."""

import contextlib
import json
import os
import random
import shutil
import tarfile
from collections import Counter
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.jobs import InputError, JobError, RefusedError, embed_dataset, verify
from metric_learn_client.jobs.plan import plan
from tests.integration.client.jobs.conftest import Job, kill, make_images, shard_contents, until
from tests.integration.client.jobs.test_faults import Cut, cut_renames

LONG = pytest.mark.long, pytest.mark.timeout(1800)
FEW = {"shard_size": 10, "batch_size": 4, "in_flight": 2, "read_threads": 2}


def rows_of(out):
    """Every row with its columns and what became of it; without its number, which a fresh run gives anew."""
    found = Counter()
    for content in shard_contents(out):
        for row, embedding in zip(content.rows.to_pylist(), content.embeddings):
            found[json.dumps(row), embedding.tobytes()] += 1
        for failure in content.failures:
            found[failure.image_path, failure.code] += 1
    return found


def fresh(images, folder, fake, **options):
    shutil.rmtree(folder / "fresh", ignore_errors=True)
    embed_dataset(images, folder / "fresh", endpoint=fake.endpoint, **FEW, **options)
    return rows_of(folder / "fresh")


def sync(images, out, fake, **options):
    return embed_dataset(images, out, endpoint=fake.endpoint, **FEW, if_exists="sync", **options)


def touch_all(images):
    """Another time, the same content."""
    for path in images.rglob("*.jpg"):
        os.utime(path, ns=(1, 1))


def test_changed_removed_and_added_files_are_embedded_anew_removed_and_added(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 45), tmp_path / "out"
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    (images / "00007.jpg").write_bytes(b"another picture")
    (images / "00020.jpg").write_bytes(b"corrupt")
    (images / "00031.jpg").unlink()
    make_images(images / "more", 3)
    sent = fake.images
    summary = sync(images, out, fake)
    assert summary.sync == {"changed": 2, "removed": 1, "added": 3, "unchanged": 42}
    assert fake.images - sent == 5
    assert (summary.rows, summary.succeeded, summary.failed) == (47, 46, 1)
    found = verify(out, with_input=True)
    assert (found.problems, found.rows, found.input_rows, found.complete) == ((), 47, 47, True)
    assert rows_of(out) == fresh(images, tmp_path, fake)
    again = sync(images, out, fake)
    assert again.sync == {"changed": 0, "removed": 0, "added": 0, "unchanged": 47} and again.sent == 0


def test_a_shard_of_which_every_row_went_is_empty_and_one_that_only_fails_has_no_embeddings(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 25), tmp_path / "out"
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    for index in range(10):
        (images / f"{index:05d}.jpg").unlink()
        (images / f"{index + 10:05d}.jpg").write_bytes(b"corrupt")
    summary = sync(images, out, fake)
    assert (summary.rows, summary.succeeded, summary.failed) == (15, 5, 10)
    assert sorted(os.listdir(out / "img_emb")) == ["img_emb_00002.npy"]
    assert verify(out, with_input=True).problems == () and verify(out).complete
    assert rows_of(out) == fresh(images, tmp_path, fake)


def test_a_file_that_comes_back_and_one_that_is_repaired_are_embedded(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 12), tmp_path / "out"
    (images / "00003.jpg").write_bytes(b"corrupt")
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    (images / "00003.jpg").write_bytes(b"repaired")
    (images / "00005.jpg").rename(tmp_path / "aside.jpg")
    assert sync(images, out, fake).succeeded == 11
    (tmp_path / "aside.jpg").rename(images / "00005.jpg")
    assert sync(images, out, fake).sync == {"changed": 0, "removed": 0, "added": 1, "unchanged": 11}
    assert verify(out, with_input=True).problems == ()
    assert rows_of(out) == fresh(images, tmp_path, fake)


def test_by_digest_a_file_with_another_time_is_unchanged_and_one_with_the_same_time_is_not(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 12), tmp_path / "out"
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    touch_all(images)
    assert sync(images, out, fake, sync_by="digest").sync["unchanged"] == 12
    assert sync(images, out, fake).sync["changed"] == 12  # by time
    before = os.stat(images / "00003.jpg")
    (images / "00003.jpg").write_bytes(b"image X")  # of the same size
    os.utime(images / "00003.jpg", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sync(images, out, fake).sync["changed"] == 0
    assert sync(images, out, fake, sync_by="digest").sync["changed"] == 1
    assert rows_of(out) == fresh(images, tmp_path, fake)


def test_times_of_a_broken_clock_tell_changed_files_as_others_do(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 12), tmp_path / "out"
    path = [images / f"{index:05d}.jpg" for index in range(12)]
    year_2445, year_1906 = 15_000_000_000, -2_000_000_000
    for each, time_s in ((0, year_2445), (1, year_1906), (2, -1), (3, year_2445), (4, year_1906)):
        os.utime(path[each], (time_s, time_s))
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    assert sync(images, out, fake).sync == {"changed": 0, "removed": 0, "added": 0, "unchanged": 12}
    for each, time_s in ((3, year_1906), (4, year_2445), (5, 0), (6, year_2445)):  # back and ahead, of the same size
        path[each].write_bytes(b"IMAGE %d" % each)
        os.utime(path[each], (time_s, time_s))
    assert sync(images, out, fake).sync == {"changed": 4, "removed": 0, "added": 0, "unchanged": 8}
    assert rows_of(out) == fresh(images, tmp_path, fake)


def test_lines_of_a_list_that_changed_are_other_rows(tmp_path, fake):
    images, out, csv = make_images(tmp_path / "in", 5), tmp_path / "out", tmp_path / "list.csv"
    lines = [f"{images}/{index:05d}.jpg,{'abcde'[index]}" for index in range(5)]
    csv.write_text("\n".join(["path,label", *lines]))
    embed_dataset(csv, out, endpoint=fake.endpoint, **FEW)
    lines[2] = f"{images}/00002.jpg,z"
    csv.write_text("\n".join(["path,label", lines[0], lines[0], *lines[1:4]]))
    (images / "00001.jpg").write_bytes(b"new")
    assert sync(csv, out, fake).sync == {"changed": 1, "removed": 2, "added": 2, "unchanged": 2}
    assert rows_of(out) == fresh(csv, tmp_path, fake)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_table_or_an_archive_that_was_written_anew_is_embedded_anew(tmp_path, fake, kind):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()

    def write(name, pictures):
        if kind == "parquet":
            pq.write_table(pa.table({"image": [*pictures.values()], "label": [*pictures]}), folder / f"{name}.parquet")
            return
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for member, content in pictures.items():
                header = tarfile.TarInfo(f"{member}.jpg")
                header.size = len(content)
                tar.addfile(header, BytesIO(content))

    for name in "abc":
        write(name, {f"{name}{index}": b"%d of %s" % (index, name.encode()) for index in range(6)})
    options = {"input_format": kind}
    embed_dataset(folder, out, endpoint=fake.endpoint, **FEW, **options)
    write("b", {f"b{index}": b"new %d" % index for index in range(4)})
    (folder / f"c.{kind}").unlink()
    write("d", {"d0": b"added"})
    with pytest.raises(Exception, match=r"changed|another job"):
        embed_dataset(folder, out, endpoint=fake.endpoint, **FEW, **options)
    summary = sync(folder, out, fake, **options)
    assert summary.sync == {"changed": 0, "removed": 12, "added": 5, "unchanged": 6}
    assert verify(out, with_input=True).problems == ()
    assert rows_of(out) == fresh(folder, tmp_path, fake, **options)


def change(images, chance, number):
    """Some of everything."""
    there = sorted(images.glob("*.jpg"))
    for path in chance.sample(there, 6):
        path.write_bytes(b"changed %d" % number)
        os.utime(path, ns=(number, number))
    for path in chance.sample(there, 3):
        path.unlink()
    for index in range(3):
        (images / f"new-{number}-{index}.jpg").write_bytes(b"new %d %d" % (number, index))


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=LONG)])
def test_a_sync_that_is_cut_off_anywhere_leaves_old_or_new_shards_and_is_finished_by_the_next_run(
    tmp_path, fake, monkeypatch, rounds
):
    images, out, chance = make_images(tmp_path / "in", 60), tmp_path / "out", random.Random(rounds)
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    for number in range(1, rounds + 1):
        change(images, chance, number)
        with monkeypatch.context() as patch:
            cut_renames(patch, chance.randrange(1, 25))
            with contextlib.suppress(Cut):
                sync(images, out, fake)
        assert verify(out).problems == ()
        summary = embed_dataset(images, out, endpoint=fake.endpoint, **FEW)  # without --sync: it finishes
        assert summary.complete
        assert rows_of(out) == fresh(images, tmp_path, fake)
        assert verify(out, with_input=True).problems == ()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=LONG)])
def test_a_sync_that_is_killed_goes_on(tmp_path, fake, kills):
    images, out, chance = make_images(tmp_path / "in", 60), tmp_path / "out", random.Random(kills)
    flags = ("--shard-size", 10, "--batch-size", 4, "--in-flight", 2, "--read-threads", 2)
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    job = Job(images, out, fake.endpoint, *flags)
    for number in range(1, kills + 1):
        change(images, chance, number)
        fake.faults.delay_s = 0.2
        process = job.start("--sync")
        if number % 2:
            until(process, "shard")
        else:
            until(process, "started")
        kill(process)
        assert verify(out).problems == ()
    fake.faults.delay_s = 0.0
    code, events, err = job.run("--sync")
    assert code == ExitCode.DONE, err
    assert set(events[-1]["sync"]) == {"changed", "removed", "added", "unchanged"}
    assert rows_of(out) == fresh(images, tmp_path, fake)


def test_an_output_that_kept_nothing_to_compare_is_refused_in_one_line(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 3), tmp_path / "out"
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    shutil.rmtree(out / ".seen")  # as an earlier version left it
    code, _, err = Job(images, out, fake.endpoint, *("--shard-size", 10)).run("--sync")
    assert code == ExitCode.USAGE and len(err.splitlines()) == 1
    assert "was made before it was kept which files its rows come from" in err


def test_a_sync_of_standard_input_or_a_part_of_the_input_is_refused(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 3), tmp_path / "out"
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW, limit=2)
    with pytest.raises(RefusedError, match="--sync does not go with --limit"):
        sync(images, out, fake, limit=2)


def test_the_summary_says_what_was_found(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 5), tmp_path / "out"
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    (images / "00001.jpg").unlink()
    assert "sync: 0 changed, 1 removed, 0 added, 4 unchanged" in sync(images, out, fake).as_text()


def test_a_table_that_is_written_anew_while_it_is_compared_is_refused_and_embedded_anew_by_the_next_sync(
    tmp_path, fake, monkeypatch
):
    table, out, build = tmp_path / "t.parquet", tmp_path / "out", plan.build
    pq.write_table(pa.table({"image": [b"old 1", b"old 2"]}), table)
    embed_dataset(table, out, endpoint=fake.endpoint, **FEW)

    def written_anew(*arguments):
        pq.write_table(pa.table({"image": [b"new 1", b"new 2"]}), table)
        return build(*arguments)

    monkeypatch.setattr("metric_learn_client.jobs.prepare.build", written_anew)
    with pytest.raises(InputError, match="the input changed while it was compared; run the same command once nothing"):
        sync(table, out, fake)
    monkeypatch.undo()
    assert sync(table, out, fake).sync == {"changed": 0, "removed": 2, "added": 2, "unchanged": 0}
    assert rows_of(out) == fresh(table, tmp_path, fake)


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_an_input_that_is_away_is_refused_before_anything_is_removed(tmp_path, fake, kind):
    images, out = make_images(tmp_path / "in", 120), tmp_path / "out"
    source = images
    if kind == "list":
        source = tmp_path / "list.txt"
        source.write_text("".join(f"in/{index:05d}.jpg\n" for index in range(120)))
    embed_dataset(source, out, endpoint=fake.endpoint, **FEW)
    before = rows_of(out)
    images.rename(tmp_path / "not mounted")
    images.mkdir()
    says = {"folder": "none of the job's 120 rows is in the input", "list": "none of the first 100 pictures is there"}
    with pytest.raises(InputError, match=says[kind]):
        sync(source, out, fake)
    assert rows_of(out) == before
    images.rmdir()
    (tmp_path / "not mounted").rename(images)
    assert sync(source, out, fake).sync == {"changed": 0, "removed": 0, "added": 0, "unchanged": 120}


def test_tables_that_are_empty_now_are_refused_before_anything_is_removed(tmp_path, fake):
    table, out = tmp_path / "t.parquet", tmp_path / "out"
    pq.write_table(pa.table({"image": [b"1", b"2"]}), table)
    embed_dataset(table, out, endpoint=fake.endpoint, **FEW)
    before = rows_of(out)
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), table)
    with pytest.raises(InputError, match="the input has no images"):
        sync(table, out, fake)
    assert rows_of(out) == before


def test_a_job_that_lost_its_plan_after_a_sync_is_not_planned_anew(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 25), tmp_path / "out"
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    (images / "00000.jpg").unlink()
    sync(images, out, fake)
    shutil.rmtree(out / ".plan")
    (out / "stats/00002.json").unlink()
    before = rows_of(out)
    with pytest.raises(JobError, match=r"the plan is gone, and a job that .* by --sync cannot be planned anew"):
        embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    assert rows_of(out) == before
