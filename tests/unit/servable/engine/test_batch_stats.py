"""The counters that workers leave in the run directory."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from servable.engine.batch_stats import BatchStats, Counts, read, take_ended

REPOSITORY = Path(__file__).parents[4]


def test_runs_and_images_add_up_by_batch_size(tmp_path):
    stats = BatchStats(tmp_path, (1, 4, 16))
    stats.count(16, images=16)
    stats.count(16, images=9)
    stats.count(1, images=1)
    assert read(tmp_path).runs == {1: (1, 1), 4: (0, 0), 16: (2, 25)}


def test_another_process_is_read_while_it_runs_and_after_it_was_killed(tmp_path):
    program = (
        "import sys, pathlib; from servable.engine.batch_stats import BatchStats\n"
        "BatchStats(pathlib.Path(sys.argv[1]), (1, 4)).count(4, images=3); print(flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    mine = BatchStats(tmp_path, (1, 4))
    mine.count(4, images=4)
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        worker.stdout.readline()
        assert read(tmp_path).runs[4] == (2, 7)
        worker.kill()
        worker.wait()
    assert read(tmp_path).runs[4] == (2, 7)


def test_what_ended_workers_counted_is_kept_without_their_files(tmp_path):
    program = (
        "import sys, pathlib; from servable.engine.batch_stats import BatchStats\n"
        "stats = BatchStats(pathlib.Path(sys.argv[1]), (1, 4)); stats.count(4, images=3)\n"
        "stats.count_decoder_restarts(2)\n"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=REPOSITORY, check=True)
    BatchStats(tmp_path, (1, 4)).count(4, images=4)
    before = read(tmp_path)
    ended = take_ended(tmp_path, Counts())
    assert len(list(tmp_path.iterdir())) == 1
    assert read(tmp_path, ended) == before == Counts({1: (0, 0), 4: (4, 13)}, 6)
    assert take_ended(tmp_path, ended) == ended


def test_a_directory_that_cannot_be_read_is_no_empty_one(tmp_path, monkeypatch):
    def listdir(_path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(OSError, match="Too many"):
        read(tmp_path)
    assert take_ended(tmp_path, Counts()) == Counts()


@pytest.mark.parametrize("content", [b"", b"short", bytes(24), bytes(30)])
def test_a_file_that_is_being_made_counts_as_nothing(tmp_path, content):
    (tmp_path / "batch-stats-1-2.bin").write_bytes(content)
    assert read(tmp_path) == Counts()


def test_a_directory_without_counts_or_that_is_gone_has_none(tmp_path):
    assert read(tmp_path) == Counts() == read(tmp_path / "gone")


def test_a_size_that_was_never_declared_is_an_error(tmp_path):
    with pytest.raises(KeyError):
        BatchStats(tmp_path, (1, 4)).count(8, images=8)
