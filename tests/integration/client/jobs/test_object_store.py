"""Jobs whose output is objects of a store: the same files as in a folder, whatever ends the job or fails meanwhile."""

import hashlib
import io
import json
import os
import random
import signal
import threading
import time
import uuid

import numpy as np
import pyarrow as pa
import pytest

from metric_learn_client.cli import run
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.jobs import OutputError, RefusedError, embed_dataset, verify
from metric_learn_client.jobs.errors import OutageError
from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.options import JobOptions
from metric_learn_client.jobs.output.objects import leases
from metric_learn_client.jobs.output.objects import store as store_module
from metric_learn_client.jobs.output.objects.bucket import Bucket
from metric_learn_client.jobs.output.objects.leases import Busy, Lease
from metric_learn_client.jobs.output.objects.store import ObjectStore
from metric_learn_client.jobs.output.shard_files import RowFailure, ShardContent, ShardIdentity, write_shard
from metric_learn_client.testing import FakeServable, fake_embeddings
from tests.integration.client.jobs.conftest import (
    AHEAD,
    BATCH,
    FEW,
    FLAGS,
    SHARD,
    Job,
    data,
    kill,
    make_images,
    until,
    whole,
)

pytest.importorskip("moto", reason="the object store of these tests is moto's, which is not installed here")
pytest.importorskip("s3fs", reason="objects are written with s3fs, which is not installed here")

import contextlib

from tests.integration.client.jobs.object_store import BUCKET, Store, once

LONG = pytest.mark.long, pytest.mark.timeout(1800)
SOME_STEPS = pytest.mark.parametrize("step", [13, pytest.param(1, marks=LONG)], ids=["some", "every one"])


@pytest.fixture(scope="module")
def running():
    store = Store().start()
    store.client.create_bucket(Bucket=BUCKET)
    yield store
    store.stop()


@pytest.fixture
def store(running, monkeypatch):
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    running.faults, running.conditions, running.asked = (lambda *_: None), True, []
    running.hosts = set()
    return running


@pytest.fixture
def prefix():
    return uuid.uuid4().hex


def url(prefix):
    return f"s3://{BUCKET}/{prefix}"


def objects(store, prefix):
    """As `data` has the files of a folder."""
    return {
        name: hashlib.sha256(content).hexdigest()
        for name, content in sorted(store.objects(prefix).items())
        if not name.startswith(".") and name != "runs.jsonl"
    }


def check_marks(store, prefix):
    """As a reader sees it who knows of no protocol: what a mark stands for is there."""
    found = store.objects(prefix)
    for name in [name for name in found if name.startswith("stats/")]:
        for file, digest in json.loads(found[name])["files"].items():
            assert hashlib.sha256(found[file]).hexdigest() == digest["sha256"]


@pytest.mark.parametrize("output_format", ["npy", "parquet"])
def test_the_objects_are_the_files_of_a_run_into_a_folder_byte_for_byte(tmp_path, fake, store, prefix, output_format):
    images = make_images(tmp_path / "in", 120)
    (images / "00077.jpg").write_bytes(b"corrupt")
    for out in (tmp_path / "out", url(prefix)):
        embed_dataset(images, out, endpoint=fake.endpoint, **FEW, output_format=output_format)
    assert objects(store, prefix) == data(tmp_path / "out")
    left = [name for name in store.objects(prefix) if name.startswith((".partial", ".commit", ".locks/probe"))]
    assert left == []


def test_a_job_that_is_done_lists_its_shards_before_and_after_and_no_third_time(tmp_path, fake, store, prefix):
    images, lists = make_images(tmp_path / "in", 60), []
    embed_dataset(images, url(prefix), endpoint=fake.endpoint, **FEW)
    store.faults = lambda _method, _key, asked: lists.append(asked["QUERY_STRING"])
    embed_dataset(images, url(prefix), endpoint=fake.endpoint, **FEW)
    assert sum("list-type" in query and "stats" in query for query in lists) == 2


def test_a_job_is_resumed_extended_retried_verified_and_begun_anew(tmp_path, fake, store, prefix):
    images, out = make_images(tmp_path / "in", 70), url(prefix)
    (images / "00003.jpg").write_bytes(b"corrupt")
    assert embed_dataset(images, out, endpoint=fake.endpoint, **FEW).failed == 1
    sent = fake.images
    assert embed_dataset(images, out, endpoint=fake.endpoint, **FEW).sent == 0 and fake.images == sent
    (images / "00003.jpg").write_bytes(b"repaired")
    assert embed_dataset(images, out, endpoint=fake.endpoint, **FEW, retry_failed=True).succeeded == 70
    make_images(tmp_path / "in/more", 5)
    with pytest.raises(RefusedError, match="the input's rows changed"):
        embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    assert embed_dataset(images, out, endpoint=fake.endpoint, **FEW, if_exists="extend").succeeded == 75
    found = verify(out, with_input=True)
    assert (found.problems, found.input_rows, found.complete) == ((), 75, True)
    assert embed_dataset(images, out, endpoint=fake.endpoint, **FEW, if_exists="overwrite").sent == 75
    assert objects(store, prefix) == whole(images, tmp_path / "whole", fake.endpoint)
    assert len(store.get(f"{prefix}/runs.jsonl").splitlines()) == 1


def test_a_sync_leaves_the_objects_that_it_leaves_as_files_in_a_folder(tmp_path, fake, store, prefix):
    images = make_images(tmp_path / "in", 30)
    outs, options = (tmp_path / "out", url(prefix)), {"endpoint": fake.endpoint, "shard_size": 10}
    for out in outs:
        embed_dataset(images, out, **options)
    for index in range(10, 20):
        (images / f"{index:05d}.jpg").unlink()
    (images / "00003.jpg").write_bytes(b"changed")
    (images / "new.jpg").write_bytes(b"new")
    for out in outs:
        found = embed_dataset(images, out, **options, if_exists="sync").sync
        assert found == {"changed": 1, "removed": 10, "added": 1, "unchanged": 19}
        assert verify(out, with_input=True).problems == ()
    assert objects(store, prefix) == data(tmp_path / "out")


def test_a_damaged_object_is_found_by_verify(tmp_path, fake, store, prefix):
    embed_dataset(make_images(tmp_path / "in", 5), url(prefix), endpoint=fake.endpoint)
    store.put(f"{prefix}/img_emb/img_emb_00000.npy", b"damaged")
    assert "its bytes changed" in verify(url(prefix)).problems[0]
    store.client.delete_object(Bucket=BUCKET, Key=f"{prefix}/img_emb/img_emb_00000.npy")
    assert "is missing" in verify(url(prefix)).problems[0]


def test_a_shard_whose_mark_was_removed_is_done_again_over_files_of_other_bytes(tmp_path, fake, store, prefix):
    images = make_images(tmp_path / "in", 5)
    embed_dataset(images, url(prefix), endpoint=fake.endpoint, **FEW)
    for name in ("img_emb/img_emb_00000.npy", "embeddings/embeddings_00000.parquet"):
        store.put(f"{prefix}/{name}", b"of a service whose embeddings differ in the last bit")
    for name in ("stats/00000.json", ".plan/plan.json"):  # as an --overwrite that was killed leaves it
        store.client.delete_object(Bucket=BUCKET, Key=f"{prefix}/{name}")
    assert embed_dataset(images, url(prefix), endpoint=fake.endpoint, **FEW).succeeded == 5
    assert objects(store, prefix) == whole(images, tmp_path / "whole", fake.endpoint)


def test_a_commit_that_another_writer_undoes_is_no_success(store, prefix):
    bucket = Bucket(url(prefix))
    put = bucket._store.put

    def undone(key, *content, **named):
        etag = put(key, *content, **named)
        if key == ".commit/00000.json":
            store.client.delete_object(Bucket=BUCKET, Key=f"{prefix}/{key}")
        return etag

    bucket._store.put = undone
    with pytest.raises(OutputError, match=r"stats/00000.json: somebody else changed it; run the same command again"):
        write(bucket, 1)


def test_pictures_that_another_program_adds_and_removes_are_seen_by_the_next_run_of_this_one(
    tmp_path, fake, store, prefix
):
    for index in range(3):
        store.put(f"{prefix}/{index}.jpg", b"image %d" % index)
    options = {"endpoint": fake.endpoint, "shard_size": 10}
    assert embed_dataset(url(prefix), tmp_path / "out", **options).succeeded == 3
    store.put(f"{prefix}/3.jpg", b"image 3")
    assert embed_dataset(url(prefix), tmp_path / "out", **options, if_exists="extend").sent == 1
    store.client.delete_object(Bucket=BUCKET, Key=f"{prefix}/0.jpg")
    summary = embed_dataset(url(prefix), tmp_path / "out", **options, if_exists="sync", sync_by="digest")
    assert summary.sync == {"changed": 0, "removed": 1, "added": 0, "unchanged": 3}
    assert verify(tmp_path / "out", with_input=True).input_rows == 3


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=LONG)])
def test_sigkill_at_random_points_changes_nothing_in_the_objects(tmp_path, fake, store, prefix, kills, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    images = make_images(tmp_path / "in", 100 * kills)
    (images / "00077.jpg").write_bytes(b"corrupt")
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    sent_before = fake.images
    fake.faults.delay_s = 0.05
    job = Job(images, url(prefix), fake.endpoint, *FLAGS)
    chance = random.Random(kills)
    for life in range(kills):
        process = job.start()
        if life % 4:
            until(process, "started")
            time.sleep(chance.uniform(0, 0.6))
        else:
            time.sleep(chance.uniform(0, 1.5))
        assert process.poll() is None, "the job was done before it was killed; more images are needed"
        kill(process)
        check_marks(store, prefix)
        if "job.json" in store.objects(prefix):
            assert verify(url(prefix)).problems == ()
    fake.faults.delay_s = 0.0
    code, _, err = job.run()
    assert code == ExitCode.SOME_FAILED, err
    assert objects(store, prefix) == expected
    assert fake.images - sent_before - len(list(images.iterdir())) <= kills * (SHARD + AHEAD * BATCH)
    assert not [name for name in store.objects(prefix) if name.startswith((".partial", ".commit"))]
    assert list((tmp_path / "temporary").iterdir()) == []


class Cut(BaseException):
    """As if the process had ended: no handler for errors sees it."""


def cut(patch, after):
    """The `after`th write or deletion of a run raises Cut, by turns before and after it is done."""
    left = [after]

    def cutting(real):
        def call(self, key, *rest, **named):
            if key.startswith(".locks"):
                return real(self, key, *rest, **named)
            left[0] -= 1
            if left[0] == 0 and after % 2:
                raise Cut
            result = real(self, key, *rest, **named)
            if left[0] == 0:
                raise Cut
            return result

        return call

    for name in ("put", "delete"):
        patch.setattr(ObjectStore, name, cutting(getattr(ObjectStore, name)))


@SOME_STEPS
def test_a_shard_is_whole_or_absent_wherever_its_commit_is_cut_off(tmp_path, fake, store, prefix, monkeypatch, step):
    images = make_images(tmp_path / "in", 4)
    (images / "00002.jpg").write_bytes(b"corrupt")
    options = {"endpoint": fake.endpoint, "shard_size": 2}
    embed_dataset(images, tmp_path / "whole", **options)
    expected, ended = data(tmp_path / "whole"), False
    for after in range(1, 100, step):
        out = f"{prefix}/{after}"
        with monkeypatch.context() as patch:
            cut(patch, after)
            try:
                embed_dataset(images, url(out), **options)
                ended = True
            except Cut:
                pass
        check_marks(store, out)
        if "job.json" in store.objects(out):
            assert verify(url(out)).problems == ()
        embed_dataset(images, url(out), **options)
        assert objects(store, out) == expected
        if ended:
            break
    assert ended and after > 20, "every step of a run was cut off once"


@SOME_STEPS
def test_a_retry_that_is_cut_off_has_replaced_a_shard_whole_or_not_at_all(
    tmp_path, fake, store, prefix, monkeypatch, step
):
    images, ended = make_images(tmp_path / "in", 2), False
    bad = images / "00001.jpg"
    options = {"endpoint": fake.endpoint, "shard_size": 2}
    for after in range(1, 100, step):
        out = f"{prefix}/{after}"
        bad.write_bytes(b"corrupt")
        embed_dataset(images, url(out), **options)
        bad.write_bytes(b"repaired")
        with monkeypatch.context() as patch:
            cut(patch, after)
            try:
                embed_dataset(images, url(out), **options, retry_failed=True)
                ended = True
            except Cut:
                found = verify(url(out))
                assert found.problems == () and found.succeeded in (1, 2)
        assert embed_dataset(images, url(out), **options, retry_failed=True).succeeded == 2
        assert verify(url(out)).problems == ()
        check_marks(store, out)
        if ended:
            break
    assert ended and after > 10


def shard_of(value, failed):
    """A shard of three rows whose numbers say which writer made it; `failed` of them have failed."""
    count = 3 - failed
    rows = pa.RecordBatch.from_pydict({"image_path": [f"{index}.jpg" for index in range(count)]})
    embeddings = np.zeros((count, 2048), np.float32)
    embeddings[:, value] = 1.0
    failures = [RowFailure(row, f"{row}.jpg", "E_READ", f"writer {value}") for row in range(count, 3)]
    return ShardContent(np.arange(count), rows, embeddings, failures)


def write(bucket, value, failed=1):
    folder = bucket.begin(0)
    write_shard(folder, shard_of(value, failed), ShardIdentity(0, 0, "", "fingerprint", "1"), JobOptions())
    bucket.finish(0, folder)


@pytest.mark.parametrize(
    ("first", "failed"),
    [(None, (1, 1)), (7, (1, 3))]
    + [pytest.param(*each, marks=LONG) for each in ((7, (1, 1)), (7, (3, 1)), (None, (1, 3)), (None, (3, 1)))],
    ids=str,
)
def test_of_two_writers_of_which_one_is_overtaken_anywhere_one_has_the_whole_shard(store, prefix, first, failed):
    """The locks are left out: as after a takeover from a writer that was stopped, which goes on."""
    steps = 0
    for pause in range(1, 60):
        slow, fast = Bucket(f"{url(prefix)}/{pause}"), Bucket(f"{url(prefix)}/{pause}")
        if first is not None:
            write(fast, first)
        real, left = slow._store.put, [pause]

        def put(key, *rest, real=real, left=left, fast=fast, **named):
            left[0] -= 1
            if left[0] == 0:
                fast.recover()
                write(fast, 2, failed[1])
            return real(key, *rest, **named)

        slow._store.put = put
        with contextlib.suppress(OutputError):
            write(slow, 1, failed[0])
        Bucket(f"{url(prefix)}/{pause}").recover()
        check_marks(store, f"{prefix}/{pause}")
        found = store.objects(f"{prefix}/{pause}")
        assert not [name for name in found if name.startswith((".commit", ".partial"))]
        stats = json.loads(found["stats/00000.json"])
        assert {name for name in found if not name.startswith(("stats", "."))} == set(stats["files"])
        if stats["succeeded"]:
            of = np.load(io.BytesIO(found["img_emb/img_emb_00000.npy"])).argmax(axis=1)
            assert set(of.tolist()) in ({1}, {2})
        steps = pause
        if left[0] > 0:
            break
    assert 5 < steps < 59


def test_answers_that_are_lost_after_the_store_did_what_was_asked_change_nothing(tmp_path, fake, store, prefix):
    images = make_images(tmp_path / "in", 60)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    asked = {}

    def faults(method, key, headers):
        asked[method, key] = asked.get((method, key), 0) + 1
        return "lost" if method in ("PUT", "DELETE") and asked[method, key] == 1 else None

    store.faults = faults
    embed_dataset(images, url(prefix), endpoint=fake.endpoint, **FEW)
    assert objects(store, prefix) == expected
    assert min(count for (method, _), count in asked.items() if method == "PUT") >= 2


def test_one_request_in_three_fails_and_the_objects_are_the_same(tmp_path, fake, store, prefix, monkeypatch):
    monkeypatch.setattr(store_module, "_FIRST_PAUSE_S", 0.02)
    images = make_images(tmp_path / "in", 60)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    chance = random.Random(18)
    kinds = ["503 SlowDown", "500 InternalError", "lost", "429 TooManyRequests", "409 ConditionalRequestConflict"]
    store.faults = lambda *_: chance.choice(kinds) if chance.random() < 1 / 3 else None
    embed_dataset(images, url(prefix), endpoint=fake.endpoint, **FEW)
    store.faults = lambda *_: None
    assert objects(store, prefix) == expected
    assert verify(url(prefix)).problems == ()


def behind_the_first_shard(fault):
    """A fault of every request that comes after the one that commits a job's first shard."""
    came = []

    def faults(method, key, headers):
        if came:
            return fault
        if method == "PUT" and key.endswith("stats/00000.json"):
            came.append(key)
        return None

    return faults


def test_a_store_that_goes_away_is_waited_for(tmp_path, fake, store, prefix):
    images = make_images(tmp_path / "in", 120)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    store.faults = behind_the_first_shard("503 SlowDown")
    said = []

    class Watching(Observer):
        def notice(self, text):
            said.append(text)
            store.faults = lambda *_: None

    embed_dataset(images, url(prefix), endpoint=fake.endpoint, **FEW, observer=Watching())
    assert "waiting up to 600 s for s3://" in said[0] and "answers again" in said[1]
    assert objects(store, prefix) == expected


def test_an_outage_of_the_store_beyond_the_limit_ends_with_4_and_goes_on_later(tmp_path, fake, store, prefix, capfd):
    images = make_images(tmp_path / "in", 120)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    job = Job(images, url(prefix), fake.endpoint, *FLAGS, "--max-outage-s", 1)
    store.faults = behind_the_first_shard("503 SlowDown")
    code, err = run(job.arguments), capfd.readouterr().err
    assert code == ExitCode.NOT_REACHABLE, err
    assert f"{url(prefix)}: no answer for" in err and "(the limit is 1): SlowDown (503)" in err
    assert [name for name in store.objects(prefix) if name.startswith("stats/")] == ["stats/00000.json"]
    store.faults = lambda *_: None
    assert run(job.arguments) == ExitCode.DONE
    assert objects(store, prefix) == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_job_whose_store_does_not_answer(tmp_path, fake, store, prefix, number, code):
    process = Job(make_images(tmp_path / "in", 300), url(prefix), fake.endpoint, *FLAGS).start()
    until(process, "shard")
    store.faults = lambda *_: "hangs"
    started = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 15
    assert process.returncode == code and "Traceback" not in err, err
    assert "the same command goes on from there" in json.loads(out.splitlines()[-1])["text"]
    store.faults = lambda *_: None
    check_marks(store, prefix)
    assert verify(url(prefix)).problems == ()


@pytest.fixture
def refused(tmp_path, fake, capfd):
    """What the command says of a place for its output, on one line, before it asks for any embedding."""

    def call(where):
        code = run(["embed", str(make_images(tmp_path / "in", 3)), "--output-dir", where, "--endpoint", fake.endpoint])
        out, err = capfd.readouterr()
        assert code == ExitCode.USAGE, err
        assert len(err.splitlines()) == 1 and "secret" not in err and out == ""
        assert fake.images == 0
        return err

    return call


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("403 AccessDenied", "not permitted (AccessDenied)"),
        ("403 InvalidAccessKeyId", "not permitted (InvalidAccessKeyId)"),
        ("403 SignatureDoesNotMatch", "not permitted (SignatureDoesNotMatch)"),
        ("400 ExpiredToken", "the credentials are not valid any more (ExpiredToken)"),
        ("301 PermanentRedirect", "the bucket is in another region"),
        ("400 AuthorizationHeaderMalformed", "the bucket is in another region"),
        ("400 IllegalLocationConstraintException", "the bucket is in another region"),
        ("501 NotImplemented", "this store has no conditional writes"),
        ("404 NoSuchBucket", "there is no such bucket"),
        ("403 RequestTimeTooSkewed", "the clock of this machine is wrong"),
        ("404 NoSuchKey", '"addressing_style": "virtual"'),
        ("403 VirtualHostDomainRequired", '"addressing_style": "virtual"'),
    ],
)
def test_what_the_store_refuses_is_one_line_before_any_work(refused, store, prefix, fault, says):
    store.faults = lambda method, *_: fault if method == "PUT" else None
    assert says in refused(url(prefix))


def test_a_store_without_conditional_writes_is_found_out_and_nothing_is_left_in_it(refused, store, prefix):
    store.conditions = False
    assert "this store has no conditional writes" in refused(url(prefix))
    assert store.objects(prefix) == {}


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("gs://bucket/out", "output is written to a folder or to s3://"),
        ("s3://key:secret@bucket/out", "credentials are no part of it"),
        ("s3://", "--output-dir is s3://bucket/prefix"),
        ("s3://no-such-bucket/out", "there is no such bucket at this endpoint"),
    ],
)
def test_a_place_that_cannot_be_is_one_line(refused, store, where, says):
    assert says in refused(where)


def test_no_credentials_are_one_line(tmp_path, fake, store, prefix, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    code, _, err = Job(make_images(tmp_path / "in", 3), url(prefix), fake.endpoint).run()
    assert code == ExitCode.USAGE and len(err.splitlines()) == 1 and "no credentials: set AWS_ACCESS_KEY_ID" in err


def test_virtual_hosted_addressing_is_told_as_s3fs_is_told_it(tmp_path, fake, store, prefix, monkeypatch):
    """The store is the proxy here, so that no name of a bucket has to be found."""
    options = {"s3": {"addressing_style": "virtual"}, "proxies": {"http": store.url}}
    endpoint = "http://s3.us-east-1.amazonaws.com"
    monkeypatch.setenv("FSSPEC_S3", json.dumps({"endpoint_url": endpoint, "config_kwargs": options}))
    code, _, err = Job(make_images(tmp_path / "in", 3), url(prefix), fake.endpoint).run()
    assert code == ExitCode.DONE, err
    assert store.hosts == {f"{BUCKET}.s3.us-east-1.amazonaws.com"}
    assert "stats/00000.json" in store.objects(prefix)


def test_a_prefix_that_holds_something_else_is_refused(refused, store, prefix):
    store.put(f"{prefix}/somebody's.txt", b"")
    assert "is not empty and holds no job (somebody's.txt)" in refused(url(prefix))


def test_a_job_that_another_part_makes_meanwhile_is_no_other_thing(tmp_path, fake, store, prefix):
    job = Job(make_images(tmp_path / "in", 3), url(prefix), fake.endpoint)
    assert job.run()[0] == ExitCode.DONE
    record = store.get(f"{prefix}/job.json")
    store.client.delete_object(Bucket=BUCKET, Key=f"{prefix}/job.json")
    store.faults = lambda method, key, headers: None if key else store.put(f"{prefix}/job.json", record)  # a listing
    code, _, err = job.run()
    assert code == ExitCode.DONE, err


def test_credentials_that_expire_in_the_middle_end_the_job_with_2_and_it_goes_on_with_new_ones(
    tmp_path, fake, store, prefix, capfd
):
    job = Job(make_images(tmp_path / "in", 120), url(prefix), fake.endpoint, *FLAGS)
    store.faults = behind_the_first_shard("400 ExpiredToken")
    code, err = run(job.arguments), capfd.readouterr().err
    assert code == ExitCode.USAGE and "the credentials are not valid any more (ExpiredToken)" in err
    assert "secret" not in err
    store.faults = lambda *_: None
    assert run(job.arguments) == ExitCode.DONE
    assert not any(b"secret" in content for content in store.objects(prefix).values())


def test_a_second_job_on_the_prefix_is_refused_while_the_first_one_works(tmp_path, fake, store, prefix, capfd):
    images = make_images(tmp_path / "in", 60)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    refused = threading.Event()

    def embed(images):
        assert refused.wait(60)
        return fake_embeddings(images)

    with FakeServable(embed=embed) as server:
        job = Job(images, url(prefix), server.endpoint, *FLAGS)
        first = job.start()
        until(first, "started")
        assert run(job.arguments) == ExitCode.USAGE
        assert "another job works on this directory, on " in capfd.readouterr().err
        assert run([*job.arguments, "--num-shards", "2", "--shard-index", "0"]) == ExitCode.USAGE
        assert "a job of another number of parts works on this directory" in capfd.readouterr().err
        assert first.poll() is None
        refused.set()
        first.communicate(timeout=60)
    assert first.returncode == ExitCode.DONE
    assert objects(store, prefix) == expected


def test_jobs_that_start_at_one_time_make_one_job(tmp_path, fake, store, prefix):
    images = make_images(tmp_path / "in", 120)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    jobs = [Job(images, url(prefix), fake.endpoint, *FLAGS).start() for _ in range(3)]
    ended = [process.communicate(timeout=90)[1] for process in jobs]
    codes = sorted(process.returncode for process in jobs)
    assert codes[0] == ExitCode.DONE and set(codes) <= {ExitCode.DONE, ExitCode.USAGE}, ended
    assert objects(store, prefix) == expected


@pytest.mark.parametrize("flags", [("--num-shards", 2), ("--engine", "processes")], ids=["two parts", "processes"])
def test_several_processes_write_to_one_prefix(tmp_path, fake, store, prefix, flags):
    images = make_images(tmp_path / "in", 200)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    job = Job(images, url(prefix), fake.endpoint, *FLAGS, *flags)
    processes = [job.start("--shard-index", index) for index in range(2)] if "--num-shards" in flags else [job.start()]
    for process in processes:
        _, err = process.communicate(timeout=90)
        assert process.returncode == ExitCode.DONE, err
    assert objects(store, prefix) == expected


def test_a_job_that_lost_its_lock_writes_nothing_any_more(tmp_path, fake, store, prefix, monkeypatch):
    images = make_images(tmp_path / "in", 200)

    def faults(method, key, headers):
        if key.endswith("stats/00001.json") and method == "PUT":  # another one takes the lock now
            threading.Thread(target=store.put, args=(f"{prefix}/.locks/part-0-of-1", b'{"owner": "other"}')).start()
        return None

    store.faults = faults
    with pytest.raises(OutputError, match="another job has taken over"):
        embed_dataset(images, url(prefix), endpoint=fake.endpoint, **FEW)
    assert json.loads(store.get(f"{prefix}/.locks/part-0-of-1"))["owner"] == "other"
    check_marks(store, prefix)


def test_the_lock_of_a_machine_that_died_is_taken_over_when_it_has_run_out(tmp_path, fake, store, prefix):
    dead = {"owner": "gone", "host": "elsewhere", "lease_s": 0.6, "process": {"boot": "another"}}
    for key in ("part-0-of-1", "part-1-of-4", "plan"):
        store.put(f"{prefix}/.locks/{key}", json.dumps(dead).encode())
    started = time.monotonic()
    assert embed_dataset(make_images(tmp_path / "in", 3), url(prefix), endpoint=fake.endpoint).complete
    assert time.monotonic() - started > 3 * 0.6


def test_a_lock_that_another_machine_renews_is_not_taken_over(store, prefix, monkeypatch):
    stop = threading.Event()
    held = Lease(ObjectStore(url(prefix)), ".locks/job", stop, lease_s=0.6)
    monkeypatch.setattr(leases, "_of_this_machine", lambda facts: False)  # as from elsewhere
    held.acquire(wait=False)
    with pytest.raises(Busy):
        Lease(ObjectStore(url(prefix)), ".locks/job", stop, lease_s=0.6).acquire(wait=False)
    held.release()
    again = Lease(ObjectStore(url(prefix)), ".locks/job", stop, lease_s=0.6)
    again.acquire(wait=False)
    again.release()


def test_a_renewal_whose_answer_was_lost_keeps_the_lock(store, prefix):
    lease = Lease(ObjectStore(url(prefix)), ".locks/job", threading.Event(), lease_s=0.6)
    lease.acquire(wait=False)
    store.faults = once("lost", lambda method, key: method == "PUT")
    seen, limit = set(), time.monotonic() + 30
    while len(seen) < 4 and time.monotonic() < limit:
        seen.add(json.loads(store.get(f"{prefix}/.locks/job"))["renewed"])
    assert len(seen) == 4
    lease.release()
    assert json.loads(store.get(f"{prefix}/.locks/job"))["owner"] is None


def test_a_store_that_is_not_there_is_an_outage_within_the_limit(monkeypatch, store, prefix):
    store.faults = lambda *_: "503 SlowDown"
    started = time.monotonic()
    with pytest.raises(OutageError, match="no answer for"):
        ObjectStore(url(prefix), limit_s=0.5).get("job.json")
    assert time.monotonic() - started < 20


def test_commands_that_read_embeddings_say_that_they_read_a_copy(capfd):
    for arguments in (["evaluate", "s3://bucket/out"], ["index", "build", "s3://bucket/out", "--output", "index"]):
        assert run(arguments) == ExitCode.USAGE
        assert "aws s3 sync s3://bucket/out COPY" in capfd.readouterr().err and not os.path.exists("index")
