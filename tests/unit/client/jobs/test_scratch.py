"""Folders in the temporary directory: a dead process's go with the next one, a living one's never."""

import os
import signal
import subprocess
import sys

import pytest

from metric_learn_client.jobs.scratch import Scratch

HOLD = """
import sys
from metric_learn_client.jobs.scratch import Scratch
scratch = Scratch()
(scratch.folder / "copy").write_bytes(b"x")
print(scratch.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def folders(temporary):
    return {str(path) for path in temporary.iterdir()}


def test_what_a_killed_process_left_goes_with_the_next_and_what_others_hold_stays(temporary):
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        dead, alive = (process.stdout.readline().strip() for process in processes)
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        assert folders(temporary) == {dead, alive}
        own = Scratch()
        assert folders(temporary) == {alive, str(own.folder)}
        more = Scratch()
        assert folders(temporary) == {alive, str(own.folder), str(more.folder)}
    finally:
        for process in processes:
            process.communicate()
    own.close()
    more.close()
    assert folders(temporary) == set()


@pytest.mark.parametrize("time_s", [0, 15_000_000_000], ids=["1970", "2445"])
def test_age_says_nothing_of_a_folder_whatever_the_clock_was(temporary, time_s):
    held, left = Scratch(), temporary / "metric-learn-job-left"
    left.mkdir()
    for folder in (held.folder, left):
        os.utime(folder, (time_s, time_s))
    Scratch().close()
    assert folders(temporary) == {str(held.folder)}
    held.close()


def test_a_folder_that_is_not_one_of_ours_is_left_alone(temporary):
    (temporary / "elsewhere").mkdir()
    (temporary / "metric-learn-job-link").symlink_to("elsewhere")
    (temporary / "metric-learn-job-file").write_bytes(b"")
    (temporary / "metric-learn-jobs").mkdir()
    before = folders(temporary)
    Scratch().close()
    assert folders(temporary) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user needs root")
def test_another_users_folder_is_left_alone(temporary):
    (temporary / "metric-learn-job-other").mkdir()
    os.chown(temporary / "metric-learn-job-other", 65534, 65534)
    Scratch().close()
    assert folders(temporary) == {str(temporary / "metric-learn-job-other")}


def test_a_folder_that_is_taken_for_a_dead_ones_before_it_is_locked_is_made_again(temporary, monkeypatch):
    made, real = [], os.open

    def meanwhile(path, *rest, **named):
        if not made and "metric-learn-job-" in str(path):
            made.append(path)
            os.rmdir(path)
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", meanwhile)
    scratch = Scratch()
    assert scratch.folder.is_dir() and scratch.folder != made[0]
    scratch.close()


def test_a_folder_goes_when_nothing_refers_to_it(temporary):
    Scratch()
    assert folders(temporary) == set()
