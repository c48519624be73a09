"""Inputs that change while a job reads them: every planned row ends in embeddings or failures, none with the picture
of another, and what can no longer be told is said."""

import contextlib
import os
import random
import shutil
import tarfile
import threading
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_learn_client.jobs import InputError, Observer, RefusedError, embed_dataset, verify
from metric_learn_client.jobs.inputs.folders import walk
from metric_learn_client.testing import fake_embeddings
from tests.integration.client.jobs.conftest import make_images, shard_contents
from tests.integration.client.jobs.test_sync import rows_of

FEW = {"shard_size": 10, "batch_size": 4, "in_flight": 2, "read_threads": 2}


class Then(Observer):
    """Does something once the rows are planned, and before the first is read."""

    def __init__(self, action):
        self._action = action

    def started(self, *_counts):
        self._action()


def codes(out):
    """{name of the file: E_..., or the embedding} of every row."""
    found = {}
    for content in shard_contents(out):
        for path, embedding in zip(content.rows.column("image_path").to_pylist(), content.embeddings):
            found[os.path.basename(path)] = embedding.tobytes()
        for failure in content.failures:
            found[os.path.basename(failure.image_path)] = failure.code
    return found


def embedded(out):
    return {(row, what) for row, what in rows_of(out) if isinstance(what, bytes)}


def embedding(content):
    return fake_embeddings([content])[0].tobytes()


def test_files_that_change_between_listing_and_reading_are_rows_all_the_same(tmp_path, fake):
    images = make_images(tmp_path / "in", 12)
    path = [images / f"{index:05d}.jpg" for index in range(12)]

    def change():
        path[0].unlink()
        for each, make in ((1, os.mkdir), (2, os.mkfifo), (3, lambda name: os.symlink(name, name))):
            path[each].unlink()
            make(path[each])
        with open(path[4], "ab") as file:
            file.write(b" has grown")
        os.truncate(path[5], 3)
        os.truncate(path[6], 0)
        os.utime(path[7], (0, 0))
        path[8].write_bytes(b"x" * 2000)
        path[9].unlink()
        path[9].symlink_to("/dev/zero")
        (images / "new.jpg").write_bytes(b"came too late")

    summary = embed_dataset(
        images, tmp_path / "out", endpoint=fake.endpoint, **FEW, max_image_bytes=1000, observer=Then(change)
    )
    assert (summary.rows, summary.succeeded, summary.failed) == (12, 5, 7)
    gone = {0: "E_NOT_FOUND", 1: "E_READ", 2: "E_READ", 3: "E_READ", 6: "E_EMPTY", 8: "E_TOO_LARGE", 9: "E_READ"}
    whole = {4: b"image 4 has grown", 5: b"ima", **{index: b"image %d" % index for index in (7, 10, 11)}}
    expected = {**gone, **{index: embedding(content) for index, content in whole.items()}}
    assert codes(tmp_path / "out") == {f"{index:05d}.jpg": expected[index] for index in range(12)}
    for each in path[:4]:
        shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
    again = embed_dataset(images, tmp_path / "out", endpoint=fake.endpoint, **FEW, if_exists="sync")
    assert again.sync == {"changed": 0, "removed": 4, "added": 1, "unchanged": 8}
    assert verify(tmp_path / "out", with_input=True).complete


def write_archive(path, numbers):
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            content = b"image %05d" % number
            header = tarfile.TarInfo(f"{number:05d}.jpg")
            header.size = len(content)
            tar.addfile(header, BytesIO(content))


def write_table(path, numbers):
    numbers = list(numbers)
    images = [b"image %05d" % number for number in numbers]
    pq.write_table(pa.table({"image": images, "path": [f"{number:05d}.jpg" for number in numbers]}), path)


@pytest.mark.parametrize("how", ["in its place", "by another file"])
@pytest.mark.parametrize(("name", "write"), [("in.tar", write_archive), ("in.parquet", write_table)])
def test_an_archive_or_table_written_anew_while_it_is_read_is_said_and_a_sync_puts_it_right(
    tmp_path, fake, name, write, how
):
    source, out = tmp_path / name, tmp_path / "out"
    write(source, range(40))

    def change():
        place = source if how == "in its place" else tmp_path / "aside"
        write(place, reversed(range(40)))
        place.replace(source)

    with pytest.raises(InputError, match=f"{name} changed since its rows were planned.*--sync"):
        embed_dataset(source, out, endpoint=fake.endpoint, **FEW, observer=Then(change))
    with pytest.raises((InputError, RefusedError)):
        embed_dataset(source, out, endpoint=fake.endpoint, **FEW)
    summary = embed_dataset(source, out, endpoint=fake.endpoint, **FEW, if_exists="sync")
    assert summary.rows == summary.succeeded == 40 and verify(out, with_input=True).complete
    assert codes(out) == {f"{number:05d}.jpg": embedding(b"image %05d" % number) for number in range(40)}


def test_members_may_be_appended_to_an_archive_while_it_is_read(tmp_path, fake):
    source, out = tmp_path / "in.tar", tmp_path / "out"
    write_archive(source, range(20))
    summary = embed_dataset(
        source, out, endpoint=fake.endpoint, **FEW, observer=Then(lambda: write_archive(source, range(30)))
    )
    assert summary.rows == summary.succeeded == 20
    assert embed_dataset(source, out, endpoint=fake.endpoint, **FEW, if_exists="extend").rows == 30
    assert codes(out) == {f"{number:05d}.jpg": embedding(b"image %05d" % number) for number in range(30)}


def test_an_archive_that_went_away_while_it_was_read_is_failed_rows(tmp_path, fake):
    write_archive(tmp_path / "in.tar", range(40))
    moved = Then(lambda: (tmp_path / "in.tar").rename(tmp_path / "moved"))
    summary = embed_dataset(tmp_path / "in.tar", tmp_path / "out", endpoint=fake.endpoint, **FEW, observer=moved)
    assert summary.rows == summary.failed == 40 and set(codes(tmp_path / "out").values()) == {"E_NOT_FOUND"}
    (tmp_path / "moved").rename(tmp_path / "in.tar")
    summary = embed_dataset(tmp_path / "in.tar", tmp_path / "out", endpoint=fake.endpoint, **FEW, retry_failed=True)
    assert summary.rows == summary.succeeded == 40


def test_a_folder_that_goes_away_while_it_is_listed_is_said(tmp_path):
    for name in "abc":
        make_images(tmp_path / name, 1)
    listed = walk(os.fsencode(tmp_path))
    assert next(listed) == b"a/00000.jpg"
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(InputError, match="b: the folder cannot be listed: No such file or directory"):
        list(listed)


def meddle(images, dice, stop):
    """What people and programs do to a folder, one thing after another."""

    def write(path, flags, content):
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | flags)  # no wait for a reader of what is a pipe now
        os.write(descriptor, content)
        os.close(descriptor)

    def instead(path, make):
        path.unlink()
        make(path)

    number = 0
    while not stop.wait(0.0002):
        number += 1
        folder = images / f"folder-{dice.randrange(6)}"
        path = folder / f"{dice.randrange(40):05d}.jpg"
        aside = folder / "aside"
        actions = [
            path.unlink,
            path.rmdir,
            lambda path=path, number=number: write(path, os.O_CREAT | os.O_TRUNC, b"new %d" % number),
            lambda path=path: write(path, os.O_APPEND, b" grown"),
            lambda path=path, aside=aside, number=number: (aside.write_bytes(b"%d" % number), aside.replace(path)),
            lambda path=path: instead(path, os.mkdir),
            lambda path=path: instead(path, os.mkfifo),
            lambda path=path: instead(path, lambda name: name.symlink_to(name)),
            lambda path=path: os.truncate(path, dice.randrange(3)),
            lambda path=path: os.utime(path, (dice.randrange(10**9), dice.randrange(10**9))),
            lambda folder=folder: shutil.rmtree(folder),
            lambda folder=folder: folder.exists() or make_images(folder, dice.randrange(40)),
        ]
        with contextlib.suppress(OSError):
            dice.choice([*actions, *actions[-2:]])()


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(10))
def test_jobs_on_a_folder_that_never_rests_lose_no_row(tmp_path, fake, seed):
    images, out, dice, stop = tmp_path / "in", tmp_path / "out", random.Random(seed), threading.Event()
    for number in range(6):
        make_images(images / f"folder-{number}", 40)
    thread = threading.Thread(target=meddle, args=(images, random.Random(seed), stop))
    thread.start()
    outcomes = []
    try:
        for if_exists in ("resume", "extend", "sync", "resume", "sync", "extend"):
            how = {"if_exists": if_exists, "sync_by": dice.choice(["time", "digest"])}
            try:
                summary = embed_dataset(images, out, endpoint=fake.endpoint, **FEW, **how)
            except (InputError, RefusedError) as error:  # before work: other rows than before, a folder that went
                outcomes.append(str(error))
                continue
            assert summary.complete and summary.succeeded + summary.failed == summary.rows
            assert verify(out).problems == ()
            outcomes.append(summary.rows)
    finally:
        stop.set()
        thread.join()
    print(outcomes)
    for path in images.rglob("*.jpg"):
        if path.is_symlink() or path.is_fifo():
            path.unlink()
    embed_dataset(images, out, endpoint=fake.endpoint, **FEW, if_exists="sync", sync_by="digest")
    found = verify(out, with_input=True)
    assert found.complete and found.problems == () and found.rows == found.input_rows
    embed_dataset(images, tmp_path / "fresh", endpoint=fake.endpoint, **FEW)
    assert sum(rows_of(out).values()) == sum(rows_of(tmp_path / "fresh").values())
    assert embedded(out) == embedded(tmp_path / "fresh")  # a row may have failed for another reason than it would now
