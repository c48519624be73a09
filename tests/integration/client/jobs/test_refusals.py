"""Another job on the same directory is refused, and the difference named; verify finds what was changed by others."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.jobs import InputError, OutputError, RefusedError, embed_dataset, verify
from metric_learn_client.jobs.output.directory import Directory
from metric_learn_client.testing import FakeServable
from tests.integration.client.jobs.conftest import Job, data, kill, make_images, until


@pytest.fixture
def done(tmp_path, fake):
    """(images, out, arguments) of a finished job."""
    images = make_images(tmp_path / "in", 50)
    arguments = {"endpoint": fake.endpoint, "shard_size": 20}
    embed_dataset(images, tmp_path / "out", **arguments)
    return images, tmp_path / "out", arguments


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shard_size": 30}, "shard size was 20, now 30"),
        ({"dtype": "float16"}, 'dtype was "float32", now "float16"'),
        ({"limit": 3}, "limit was null, now 3"),
        ({"preprocess": "local"}, 'preprocess was "server", now "local"'),
        ({"shuffle_seed": 1}, "shuffle seed was null, now 1"),
    ],
)
def test_a_changed_option_is_named(done, change, text):
    images, out, arguments = done
    before = data(out)
    with pytest.raises(RefusedError, match=text):
        embed_dataset(images, out, **{**arguments, **change})
    assert data(out) == before


def test_another_model_is_named_and_embeds_nothing(done):
    images, out, arguments = done
    with FakeServable(fingerprint="beef" * 16) as other:
        with pytest.raises(RefusedError, match=f"the model was {'fa4e' * 16}, now {'beef' * 16}"):
            embed_dataset(images, out, **{**arguments, "endpoint": other.endpoint})
        assert other.images == 0


def test_a_model_that_changes_while_the_job_runs_ends_it(tmp_path, fake):
    images = make_images(tmp_path / "in", 50)
    fake.faults.fingerprint = "beef" * 16
    code, _, err = Job(images, tmp_path / "out", fake.endpoint).run()
    assert code == ExitCode.USAGE and "beef" in err and "Traceback" not in err
    assert verify(tmp_path / "out").done_shards == 0


def test_changed_rows_are_refused_and_extend_embeds_what_was_added(done, tmp_path, fake):
    images, out, arguments = done
    before = data(out)
    (images / "00000-more.jpg").write_bytes(b"more")
    with pytest.raises(RefusedError, match=r"the input's rows changed .* --extend embeds what was added"):
        embed_dataset(images, out, **arguments)
    sent = fake.images
    summary = embed_dataset(images, out, **arguments, if_exists="extend")
    assert (summary.succeeded, summary.shards, fake.images - sent) == (51, 4, 1)
    after = data(out)
    assert {name: after[name] for name in before if name != "job.json"} == {
        name: digest for name, digest in before.items() if name != "job.json"
    }
    assert pq.read_table(out / "metadata/metadata_00003.parquet")["row"].to_pylist() == [50]
    assert not verify(out).problems
    assert embed_dataset(images, out, **arguments).succeeded == 51


def test_overwrite_begins_anew_and_leaves_no_shard_of_before(done, tmp_path):
    images, out, arguments = done
    (out / "mine.txt").write_text("not the job's")
    summary = embed_dataset(images, out, **{**arguments, "shard_size": 25}, if_exists="overwrite")
    assert (summary.succeeded, summary.shards) == (50, 2)
    assert len(list((out / "img_emb").iterdir())) == 2 and (out / "mine.txt").exists()
    assert not verify(out).problems


def test_overwrite_removes_no_file_of_others_below_a_job_json_that_is_none(tmp_path, fake):
    images, out = make_images(tmp_path / "in", 3), tmp_path / "mine"
    kept = [out / "metadata/thesis.txt", out / "stats/report.json", out / "embeddings/img_emb_00000.npy"]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text("years of work")
    (out / "job.json").write_text('{"kind": "of a scheduler"}')
    assert embed_dataset(images, out, endpoint=fake.endpoint, if_exists="overwrite").succeeded == 3
    assert all(path.read_text() == "years of work" for path in kept)


def test_overwrite_with_an_input_that_is_not_there_removes_nothing(done):
    images, out, arguments = done
    before = data(out)
    with pytest.raises(InputError, match="no such file or folder"):
        embed_dataset(f"{images}-elsewhere", out, **arguments, if_exists="overwrite")
    assert data(out) == before


@pytest.mark.parametrize("if_exists", ["overwrite", "extend", "sync"])
def test_a_retry_that_would_first_change_the_job_is_refused_and_nothing_is_lost(done, if_exists):
    images, out, arguments = done
    with pytest.raises(ValueError, match=f"retry_failed does not go with if_exists='{if_exists}'"):
        embed_dataset(images, out, **arguments, if_exists=if_exists, retry_failed=True)
    assert verify(out).complete


@pytest.mark.parametrize("if_exists", ["resume", "overwrite"])
def test_a_directory_with_other_things_is_left_alone(tmp_path, fake, if_exists):
    images = make_images(tmp_path / "in", 5)
    with pytest.raises(RefusedError, match="not empty and holds no job"):
        embed_dataset(images, images, endpoint=fake.endpoint, if_exists=if_exists)
    assert len(list(images.iterdir())) == 5


def test_a_job_that_another_part_makes_meanwhile_is_no_other_thing(done, monkeypatch):
    _, out, _ = done
    record, listed = (out / "job.json").read_bytes(), Path.iterdir
    (out / "job.json").unlink()

    def iterdir(path):
        (out / "job.json").write_bytes(record)
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    Directory(out).check()


def test_a_second_job_on_the_directory_is_refused_while_the_first_runs(tmp_path, fake):
    images = make_images(tmp_path / "in", 50)
    fake.faults.delay_s = 120.0  # the first works until it is killed, however long the others take to start
    job = Job(images, tmp_path / "out", fake.endpoint)
    first = job.start()
    try:
        until(first, "started")
        code, _, err = job.run()
        assert code == ExitCode.USAGE and "another job works on this directory" in err
        code, _, err = job.run("--num-shards", 2)
        assert code == ExitCode.USAGE and "another job works on this directory" in err
    finally:
        kill(first)
    fake.faults.delay_s = 0.0
    assert job.run()[0] == ExitCode.DONE


def test_files_that_an_old_pyarrow_cannot_write_are_refused_before_anything_is_sent(tmp_path, fake, monkeypatch):
    monkeypatch.setattr("pyarrow.__version__", "12.0.1")
    images = make_images(tmp_path / "in", 3)
    with pytest.raises(RefusedError, match=r"needs pyarrow 15 or newer; here is 12.0.1"):
        embed_dataset(images, tmp_path / "out", endpoint=fake.endpoint, output_format="parquet", dtype="float16")
    assert fake.images == 0 and not (tmp_path / "out/job.json").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": ["embedding"]}, "--embedding-column embedding: the output has another column of this name"),
        ({"columns": [], "embedding_column": "row"}, "--embedding-column row: the output has another column"),
        ({"columns": [], "embedding_column": "image_path"}, "--embedding-column image_path: the output has another"),
    ],
    ids=["of the input", "row", "image_path"],
)
def test_embeddings_under_the_name_of_another_column_are_refused_before_any_work(tmp_path, fake, options, says):
    pq.write_table(pa.table({"image": [b"1", b"2"], "embedding": [[1.0], [2.0]]}), tmp_path / "t.parquet")
    arguments = {"endpoint": fake.endpoint, "output_format": "parquet"}
    with pytest.raises(InputError, match=says):
        embed_dataset(tmp_path / "t.parquet", tmp_path / "out", **arguments, **options)
    assert fake.images == 0 and not (tmp_path / "out/job.json").exists()
    embed_dataset(tmp_path / "t.parquet", tmp_path / "out", **arguments, embedding_column="vector")
    assert pq.read_table(tmp_path / "out/embeddings").column("embedding").to_pylist() == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sandbox": True}, "--sandbox says where pictures are decoded here: it needs --preprocess local"),
        ({"preprocess": "local"}, "--preprocess local: this client prepares pictures by"),
        (
            {"sync_by": "digest"},
            r"sync_by='digest' \(--sync-by\) says how --sync tells a changed file: it needs --sync",
        ),
        ({"ray_address": "auto"}, "ray_address='auto': it needs engine='ray'; now it is 'local'"),
    ],
    ids=["sandbox", "another preprocessing", "sync-by", "ray-address"],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_written(tmp_path, fake, options, says):
    images = make_images(tmp_path / "in", 3)
    with pytest.raises((ValueError, RefusedError), match=says):
        embed_dataset(images, tmp_path / "out", endpoint=fake.endpoint, **options)
    assert not (tmp_path / "out/job.json").exists() and not (tmp_path / "out/.plan").exists()


@pytest.mark.parametrize(
    ("out", "says"),
    [(Path("s3://bucket/x"), "s3:/bucket/x: is it meant as a URL"), ("", "--output-dir is empty: name a directory")],
    ids=["a path of a URL", "empty"],
)
def test_an_output_that_is_no_name_of_a_directory_is_refused(tmp_path, fake, monkeypatch, out, says):
    images = make_images(tmp_path / "in", 3)
    monkeypatch.chdir(make_images(tmp_path / "work", 0))
    with pytest.raises(RefusedError, match=says):
        embed_dataset(images, out, endpoint=fake.endpoint)
    assert not list(Path.cwd().iterdir())


def test_other_files_under_the_same_names_are_not_taken_for_those_that_were_embedded(tmp_path, fake, monkeypatch):
    for day in ("monday", "tuesday"):
        images = make_images(tmp_path / day / "in", 30)
        for path in images.iterdir():
            path.write_bytes(f"of {day} {path.name}".encode())
    options = {"endpoint": fake.endpoint, "shard_size": 10}
    monkeypatch.chdir(tmp_path / "monday")
    assert embed_dataset("in", tmp_path / "out", **options).succeeded == 30
    monkeypatch.chdir(tmp_path / "tuesday")
    with pytest.raises(RefusedError, match=r"have other sizes than when they were embedded, as 'in/00000.jpg': --sync"):
        embed_dataset("in", tmp_path / "out", **options)
    assert embed_dataset("in", tmp_path / "out", **options, if_exists="sync").sync["changed"] == 30
    (tmp_path / "tuesday/in/00000.jpg").write_bytes(b"one that changed is for --sync to see")
    assert embed_dataset("in", tmp_path / "out", **options).sent == 0


def test_standard_input_must_say_the_same_again(tmp_path, fake, monkeypatch):
    import io

    images = make_images(tmp_path / "in", 3)

    def run(names, **options):
        text = "".join(f"{images / name}\n" for name in names)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return embed_dataset("-", tmp_path / "out", endpoint=fake.endpoint, **options)

    assert run(["00000.jpg", "00001.jpg"]).succeeded == 2
    assert run(["00000.jpg", "00001.jpg"]).succeeded == 2
    with pytest.raises(RefusedError, match="rows changed"):
        run(["00001.jpg", "00000.jpg"])
    assert run(["00000.jpg", "00001.jpg", "00002.jpg"], if_exists="extend").succeeded == 3


def damage_bytes(out):
    path = out / "img_emb/img_emb_00001.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def damage_missing(out):
    (out / "metadata/metadata_00001.parquet").unlink()


def damage_swap(out):
    """Two shards' embeddings exchanged, stats and all: only the rows tell."""
    for folder, name in (("metadata", "metadata_{}.parquet"), ("failures", "failures_{}.parquet")):
        one, two = (out / folder / name.format(number) for number in ("00000", "00001"))
        content = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(content)
    for number in ("00000", "00001"):
        restat(out, number)


def damage_norm(out):
    path = out / "img_emb/img_emb_00001.npy"
    np.save(path, np.load(path) * 2)
    restat(out, "00001")


def restat(out, number):
    from metric_learn_client.jobs.output.shard_files import file_digest

    path = out / f"stats/{number}.json"
    stats = json.loads(path.read_text())
    stats["files"] = {name: file_digest(out / name) for name in stats["files"]}
    path.write_text(json.dumps(stats))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (damage_bytes, "its bytes changed"),
        (damage_missing, "metadata_00001.parquet is missing"),
        (damage_swap, "its rows are not"),
        (damage_norm, "norm 2"),
    ],
)
def test_verify_finds_what_is_wrong_and_exits_with_5(done, damage, text):
    images, out, arguments = done
    job = Job(images, out, arguments["endpoint"])
    job.arguments = ["job", "verify", str(out), "--json", "--complete"]
    code, events, _ = job.run()
    assert code == ExitCode.DONE and events[0]["complete"] and events[0]["succeeded"] == 50
    damage(out)
    code, events, _ = job.run()
    assert code == ExitCode.GATE_FAILED and text in " ".join(events[0]["problems"])


def test_verify_tells_an_unfinished_job_from_a_wrong_one(done):
    images, out, arguments = done
    (out / "stats/00002.json").unlink()
    job = Job(images, out, arguments["endpoint"])
    for flags, expected in (([], ExitCode.DONE), (["--complete"], ExitCode.GATE_FAILED)):
        job.arguments = ["job", "verify", str(out), "--json", *flags]
        code, events, _ = job.run()
        assert (code, events[0]["done_shards"], events[0]["problems"]) == (expected, 2, [])


def test_verify_complete_fails_where_the_input_cannot_be_listed(done):
    images, out, arguments = done
    images.rename(images.with_name("elsewhere"))
    job = Job(images, out, arguments["endpoint"])
    for flags, expected in (([], ExitCode.DONE), (["--complete"], ExitCode.GATE_FAILED)):
        job.arguments = ["job", "verify", str(out), "--json", *flags]
        code, events, _ = job.run()
        assert (code, events[0]["problems"]) == (expected, [])
    assert "no such file or folder" in events[0]["not_compared"]


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "name", "says"),
    [
        (halve, "failures/failures_00001.parquet", "cannot be read: "),
        (Path.unlink, "failures/failures_00001.parquet", "is missing"),
        (lambda path: path.write_text("{}"), "stats/00001.json", "not the stats of a shard: shard is missing"),
    ],
    ids=["half", "missing", "no stats"],
)
def test_a_damaged_file_of_a_shard_is_named_with_what_to_do_and_that_mends_it(tmp_path, fake, damage, name, says):
    images, out = make_images(tmp_path / "in", 30), tmp_path / "out"
    (images / "00015.jpg").write_bytes(b"corrupt")
    job = Job(images, out, fake.endpoint, "--shard-size", 10)
    assert job.run()[0] == ExitCode.SOME_FAILED
    whole = data(out)
    damage(out / name)
    for flags in ([], ["--retry-failed"]):
        code, _, err = job.run(*flags)
        assert code == ExitCode.UNEXPECTED and len(err.splitlines()) == 1
        assert f"{out}/{name}" in err and says in err and f"remove {out}/stats/00001.json and run the same" in err
    (out / "stats/00001.json").unlink()
    assert job.run()[0] == ExitCode.SOME_FAILED
    assert data(out) == whole


@pytest.mark.parametrize("name", ["metadata/metadata_00000.parquet", "img_emb/img_emb_00000.npy"])
def test_a_damaged_file_that_a_retry_reads_is_named(tmp_path, fake, name):
    images, out = make_images(tmp_path / "in", 10), tmp_path / "out"
    (images / "00003.jpg").write_bytes(b"corrupt")
    embed_dataset(images, out, endpoint=fake.endpoint)
    halve(out / name)
    (images / "00003.jpg").write_bytes(b"repaired")
    with pytest.raises(OutputError, match=f"{name} cannot be read: .*; remove .*stats/00000.json and run the same"):
        embed_dataset(images, out, endpoint=fake.endpoint, retry_failed=True)
