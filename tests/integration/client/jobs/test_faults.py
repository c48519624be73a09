"""Whatever ends a job, or stands in its way: nothing is lost or there twice, and the files come out the same."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

import numpy as np
import psutil
import pytest

from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.jobs import Observer, OutputError, embed_dataset, verify
from metric_learn_client.jobs.errors import OutageError
from metric_learn_client.jobs.output.shard_files import file_digest
from metric_learn_client.testing import FakeServable, Faults
from tests.integration.client.conftest import fake_process
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


def test_sigkill_at_twenty_random_points_changes_nothing_in_the_files(tmp_path, fake):
    images = make_images(tmp_path / "in", 3000)
    (images / "00077.jpg").write_bytes(b"corrupt")
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    sent_before = fake.images
    fake.faults.delay_s = 0.05  # so that the job takes longer than all of its lives
    job = Job(images, tmp_path / "out", fake.endpoint, *FLAGS)
    chance = random.Random(20)
    for life in range(20):
        process = job.start()
        if life % 4:
            until(process, "started")
            time.sleep(chance.uniform(0, 0.3))
        else:  # also while it starts, plans, and locks
            time.sleep(chance.uniform(0, 0.9))
        assert process.poll() is None, "the job was done before it was killed; more images are needed"
        kill(process)
        if (tmp_path / "out/job.json").exists():
            assert verify(tmp_path / "out").problems == ()
    fake.faults.delay_s = 0.0
    code, _events, err = job.run()
    assert code == ExitCode.SOME_FAILED, err
    assert data(tmp_path / "out") == expected
    # a killed worker repeats its shard, and the window of the next
    assert fake.images - sent_before - 3000 <= 20 * (SHARD + AHEAD * BATCH)


def test_a_shard_is_whole_or_absent_wherever_its_commit_is_cut_off(tmp_path, fake, monkeypatch):
    """Every rename of the commit fails once, as if the process had ended there; the next run repairs it."""
    images = make_images(tmp_path / "in", 120)
    (images / "00077.jpg").write_bytes(b"corrupt")
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    for after in range(1, 20):
        out = tmp_path / f"out{after}"
        with monkeypatch.context() as patch:
            cut_renames(patch, after)
            try:
                embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
                assert after > 15  # 3 shards, 5 renames each
            except Cut:
                pass
        if (out / "job.json").exists():
            assert verify(out).problems == ()
        for mark in (out / "stats").glob("*.json"):  # as a reader sees it who knows of no protocol
            for name, digest in json.loads(mark.read_text())["files"].items():
                assert file_digest(out / name) == digest
        embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
        assert data(out) == expected
        shutil.rmtree(out)


class Cut(BaseException):
    """As if the process had ended: no handler for errors sees it."""


def cut_renames(patch, after):
    """The `after`th rename of a commit raises Cut."""
    left = [after]
    for name in ("rename", "replace"):

        def call(source, target, real=getattr(os, name)):
            if ".partial" in str(source) or ".commit" in str(source):
                left[0] -= 1
                if left[0] == 0:
                    raise Cut
            real(source, target)

        patch.setattr(os, name, call)


def test_a_job_whose_record_had_no_room_leaves_nothing_that_stops_the_next_run(tmp_path, fake, monkeypatch):
    images, out = make_images(tmp_path / "in", 5), tmp_path / "out"
    (out / "lost+found").mkdir(parents=True)  # an empty file system of its own
    sync = os.fsync

    def full(descriptor):
        if "job.json" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"job.json: No space left on device; free some space"):
            embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
    assert not [name for name in os.listdir(out) if "job.json" in name]
    (out / "job.json.new").write_text("{")  # as one leaves it that is killed there
    assert embed_dataset(images, out, endpoint=fake.endpoint, **FEW).succeeded == 5
    assert not (out / "job.json.new").exists()


def test_a_retry_that_is_cut_off_has_replaced_a_shard_whole_or_not_at_all(tmp_path, fake, monkeypatch):
    images = make_images(tmp_path / "in", 40)
    bad = images / "00003.jpg"
    for after in range(1, 7):
        out = tmp_path / f"out{after}"
        bad.write_bytes(b"corrupt")
        embed_dataset(images, out, endpoint=fake.endpoint, **FEW)
        bad.write_bytes(b"repaired")
        with monkeypatch.context() as patch:
            cut_renames(patch, after)
            try:
                embed_dataset(images, out, endpoint=fake.endpoint, **FEW, retry_failed=True)
                assert after == 6
            except Cut:
                found = verify(out)  # as a reader would find it now, the new shard half in place
                assert found.problems == () and found.succeeded == (39 if after == 1 else 40)
        assert embed_dataset(images, out, endpoint=fake.endpoint, **FEW, retry_failed=True).succeeded == 40
        assert verify(out).problems == ()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_job_cleanly_and_says_how_to_go_on(tmp_path, fake, number, code):
    images = make_images(tmp_path / "in", 600)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    fake.faults.delay_s = 0.1
    job = Job(images, tmp_path / "out", fake.endpoint, *FLAGS)
    process = job.start()
    until(process, "shard")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code and "Traceback" not in err, err
    notice = [json.loads(line) for line in out.splitlines()][-1]
    assert "the same command goes on from there" in notice["text"]
    assert verify(tmp_path / "out").problems == ()
    fake.faults.delay_s = 0.0
    assert job.run()[0] == ExitCode.DONE
    assert data(tmp_path / "out") == expected


def test_a_server_that_is_killed_and_comes_back_costs_time_only(tmp_path):
    images = make_images(tmp_path / "in", 1500)
    with fake_process() as (endpoint, first):
        expected = whole(images, tmp_path / "whole", endpoint)
        process = Job(images, tmp_path / "out", endpoint, *FLAGS, "--deadline-s", 5).start()
        until(process, "shard")
        first.kill()
        first.wait()
        time.sleep(1.0)
        with FakeServable(endpoint):
            out, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.DONE, err
    assert json.loads(out.splitlines()[-1])["failed"] == 0
    assert data(tmp_path / "out") == expected


class Proxy:
    """A TCP proxy that can be cut: open connections are reset, new ones refused."""

    def __init__(self, target):
        self._target = target
        self._pairs = []
        self._lock = threading.Lock()
        self.address = ("127.0.0.1", 0)
        self.listen()

    def listen(self):
        self._listener = socket.create_server(self.address)
        self.address = self._listener.getsockname()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for end in pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
                host, port = self._target.rsplit(":", 1)
                far = socket.create_connection((host, int(port)))
            except OSError:
                return
            with self._lock:
                self._pairs += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source, sink):
        try:
            while block := source.recv(1 << 16):
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.mark.parametrize("cut_s", [3.0, pytest.param(20.0, marks=pytest.mark.long)])
def test_a_network_that_is_cut_is_waited_for(tmp_path, fake, cut_s):
    images = make_images(tmp_path / "in", 1000)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    proxy = Proxy(fake.endpoint)
    fake.faults.delay_s = 0.05
    job = Job(images, tmp_path / "out", "{}:{}".format(*proxy.address), *FLAGS, "--deadline-s", 5)
    process = job.start()
    until(process, "shard")
    proxy.cut()
    time.sleep(cut_s)
    assert process.poll() is None
    proxy.listen()
    out, err = process.communicate(timeout=90)
    proxy.cut()
    assert process.returncode == ExitCode.DONE, err
    events = [json.loads(line) for line in out.splitlines()]
    if cut_s > 10:  # the client's own retries cover a shorter cut without a word
        assert any("waiting up to 600 s for the service" in event.get("text", "") for event in events)
    assert data(tmp_path / "out") == expected


def test_an_outage_beyond_the_limit_ends_with_4_and_goes_on_later(tmp_path, fake):
    images = make_images(tmp_path / "in", 300)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    job = Job(images, tmp_path / "out", fake.endpoint, *FLAGS, "--max-outage-s", 1, "--deadline-s", 2)
    fake.faults.delay_s = 0.05
    process = job.start()
    until(process, "shard")
    fake.faults.status = "UNAVAILABLE"
    _out, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.NOT_REACHABLE, err
    assert "no call worked for" in err and "--max-outage-s 1" in err
    assert verify(tmp_path / "out").problems == ()
    fake.faults.status, fake.faults.delay_s = None, 0.0
    assert job.run()[0] == ExitCode.DONE
    assert data(tmp_path / "out") == expected


def test_a_service_that_is_not_there_at_the_start_is_waited_for_up_to_the_limit(tmp_path):
    images = make_images(tmp_path / "in", 3)
    started = time.monotonic()
    with pytest.raises(OutageError, match="no call worked"):
        embed_dataset(images, tmp_path / "out", endpoint="127.0.0.1:1", max_outage_s=1.0)
    assert time.monotonic() - started < 20


def test_back_pressure_slows_the_job_and_fails_nothing(tmp_path, fake):
    images = make_images(tmp_path / "in", 500)
    fake.faults.delay_s, fake.faults.max_in_flight = 0.01, 2
    summary = embed_dataset(images, tmp_path / "out", endpoint=fake.endpoint, shard_size=100, batch_size=5, in_flight=8)
    assert (summary.succeeded, summary.failed) == (500, 0)


def test_one_image_that_ends_every_call_it_is_in_fails_alone(tmp_path):
    def embed(images):
        from metric_learn_client.testing import fake_embeddings

        if b"image 77" in images:
            raise RuntimeError("this image ends the call")
        return fake_embeddings(images)

    images = make_images(tmp_path / "in", 200)
    with FakeServable(embed=embed) as server:
        summary = embed_dataset(images, tmp_path / "out", endpoint=server.endpoint, **FEW, deadline_s=5.0)
    assert (summary.succeeded, summary.failed) == (199, 1)
    assert set(summary.codes) <= {"E_CALL", "E_INTERNAL"}


def test_an_image_that_ended_the_servers_process_is_one_failure_row_and_never_sent_again(tmp_path):
    images = make_images(tmp_path / "in", 5)
    with FakeServable(faults=Faults(in_band=(3, "E_CRASH: it ended the process"), calls=1)) as server:
        summary = embed_dataset(images, tmp_path / "out", endpoint=server.endpoint, batch_size=1, in_flight=1)
    assert (summary.succeeded, summary.failed, summary.codes) == (4, 1, {"E_CRASH": 1})


def test_a_wrong_token_ends_the_job_at_once(tmp_path):
    images = make_images(tmp_path / "in", 3)
    with FakeServable(token="right") as server:
        code, _, err = Job(images, tmp_path / "out", server.endpoint).run()
    assert code in (ExitCode.USAGE, ExitCode.NOT_REACHABLE) and "Traceback" not in err
    assert "token" in err.lower() or "UNAUTHENTICATED" in err


def test_a_worker_process_that_is_killed_is_replaced(tmp_path, fake):
    images = make_images(tmp_path / "in", 400)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    fake.faults.delay_s = 0.05
    process = Job(images, tmp_path / "out", fake.endpoint, *FLAGS, "--engine", "processes").start()
    until(process, "shard")
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    out, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.DONE, err
    assert "a worker process died (-9)" in out
    assert data(tmp_path / "out") == expected


def test_worker_processes_end_with_the_job_that_is_killed(tmp_path, fake):
    images = make_images(tmp_path / "in", 400)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    fake.faults.delay_s = 0.05
    job = Job(images, tmp_path / "out", fake.endpoint, *FLAGS, "--engine", "processes")
    process = job.start()
    until(process, "shard")
    workers = psutil.Process(process.pid).children(recursive=True)
    kill(process)
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    fake.faults.delay_s = 0.0
    assert job.run()[0] == ExitCode.DONE
    assert data(tmp_path / "out") == expected


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.5 MB; `grow` makes it larger."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small tmpfs needs root and the command mount")
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(mount)], capture_output=True)
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_a_full_disk_is_said_leaves_nothing_half_written_and_goes_on_with_more_space(tmp_path, fake, small_disk):
    images = make_images(tmp_path / "in", 150)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    fake.faults.delay_s = 0.2
    job = Job(images, small_disk / "out", fake.endpoint, *FLAGS)
    process = job.start()
    until(process, "shard")
    (small_disk / "somebody's").write_bytes(bytes(700_000))
    _, err = process.communicate(timeout=60)
    fake.faults.delay_s = 0.0
    assert process.returncode == ExitCode.UNEXPECTED and "Traceback" not in err, err
    assert "No space left on device; free some space and run the same command again" in err
    found = verify(small_disk / "out")
    assert found.problems == () and 0 < found.done_shards < found.shards
    assert not any((small_disk / "out/.partial").iterdir())
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert job.run()[0] == ExitCode.DONE
    assert data(small_disk / "out") == expected


def test_a_disk_without_room_for_the_embeddings_is_refused_before_any_is_asked_for(tmp_path, fake, small_disk):
    images = make_images(tmp_path / "in", 300)
    job = Job(images, small_disk / "out", fake.endpoint, *FLAGS)
    code, _, err = job.run()
    assert code == ExitCode.USAGE and len(err.splitlines()) == 1 and fake.images == 0
    assert "300 rows of 8192 bytes are 2.5 MB of embeddings, and 1." in err and "MB are free" in err
    assert Job(images, small_disk / "out16", fake.endpoint, *FLAGS).run("--dtype", "float16")[0] == ExitCode.DONE


def test_an_error_of_the_disk_is_said_and_nothing_half_written_is_visible(tmp_path, fake, monkeypatch):
    images = make_images(tmp_path / "in", 200)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    real, left = os.fsync, [9]

    def fsync(descriptor):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match="Input/output error; see to the disk and run the same command again"):
        embed_dataset(images, tmp_path / "out", endpoint=fake.endpoint, **FEW)
    monkeypatch.undo()
    assert verify(tmp_path / "out").problems == ()
    embed_dataset(images, tmp_path / "out", endpoint=fake.endpoint, **FEW)
    assert data(tmp_path / "out") == expected


def test_rows_never_change_place_when_answers_come_out_of_order(tmp_path, fake):
    images = make_images(tmp_path / "in", 300)
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    fake.faults.out_of_order = True
    embed_dataset(images, tmp_path / "out", endpoint=fake.endpoint, **FEW)
    assert data(tmp_path / "out") == expected
    assert np.load(tmp_path / "out/img_emb/img_emb_00000.npy").shape == (SHARD, 2048)


def remove(*names):
    def removed(out):
        for name in names:
            shutil.rmtree(out / name)

    return removed


def emptied(out):
    shutil.rmtree(out)
    out.mkdir()


class AtTheSecondShard(Observer):
    def __init__(self, action):
        self._action = action
        self._shards = 0

    def committed(self, _stats):
        self._shards += 1
        if self._shards == 2:
            self._action()


@pytest.mark.parametrize(
    "strike",
    [shutil.rmtree, emptied, remove(".partial"), remove(".commit"), remove("stats"), remove("stats", "img_emb")],
    ids=["all of it", "emptied", "partial", "commit", "stats", "data"],
)
def test_an_output_that_goes_away_in_the_middle_is_said_and_the_same_command_makes_it_whole(tmp_path, fake, strike):
    images, out = make_images(tmp_path / "in", 6 * SHARD), tmp_path / "out"
    expected = whole(images, tmp_path / "whole", fake.endpoint)
    with pytest.raises(OutputError, match="run the same command again: it goes on"):
        embed_dataset(images, out, endpoint=fake.endpoint, **FEW, observer=AtTheSecondShard(lambda: strike(out)))
    assert embed_dataset(images, out, endpoint=fake.endpoint, **FEW).succeeded == 6 * SHARD
    assert data(out) == expected and verify(out).complete


def test_an_output_that_becomes_read_only_in_the_middle_is_said_and_goes_on_later(tmp_path, fake, small_disk):
    images, out = make_images(tmp_path / "in", 6 * SHARD), small_disk / "out"
    expected = whole(images, tmp_path / "whole", fake.endpoint)

    def mount(*arguments):
        subprocess.run(["mount", *arguments, str(small_disk)], check=True)

    def strike():
        mount("--bind", str(small_disk))
        mount("-o", "remount,bind,ro")

    mount("-o", "remount,size=64m")
    try:
        for observer in (AtTheSecondShard(strike), None):
            with pytest.raises(OutputError, match="Read-only file system; see to the disk and run the same command"):
                embed_dataset(images, out, endpoint=fake.endpoint, **FEW, observer=observer)
    finally:
        subprocess.run(["umount", "--lazy", str(small_disk)], check=True)
    assert 1 < verify(out).done_shards < 6
    assert embed_dataset(images, out, endpoint=fake.endpoint, **FEW).succeeded == 6 * SHARD
    assert data(out) == expected and verify(out).complete
