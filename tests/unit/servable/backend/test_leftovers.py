"""What a killed server left is found by its mark and removed; what is not ours stays."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from servable.backend import leftovers
from servable.backend.leftovers import MARKER, clean, marked_processes, note_workers, remove_segments

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


@pytest.fixture
def process():
    """Starts sleepers with an environment; ends them."""
    started = []

    def start(**environment):
        one = subprocess.Popen(SLEEPER, env={**os.environ, **environment}, stdout=subprocess.PIPE)
        one.stdout.readline()
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()
        one.wait()
        one.stdout.close()


@pytest.fixture
def shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", tmp_path / "shm")
    (tmp_path / "shm").mkdir()
    return tmp_path / "shm"


def segment(folder, pid):
    path = folder / f"metric_learn_b4.mindir_subgraph0_input0_pid{pid}_0"
    path.write_bytes(b"x")
    return path


def dead_pid():
    one = subprocess.Popen([sys.executable, "-c", ""])
    one.wait()
    return one.pid


def test_processes_of_this_run_directory_end_and_others_live(tmp_path, process, shared_memory):
    ours = process(**{MARKER: str(tmp_path)})
    others = process(**{MARKER: str(tmp_path / "another")}), process()
    assert [one.pid for one in marked_processes(tmp_path)] == [ours.pid]
    assert clean(tmp_path).processes == 1
    assert not psutil.pid_exists(ours.pid)
    assert all(other.poll() is None for other in others)


def test_a_stopped_process_ends_too(tmp_path, process, shared_memory):
    ours = process(**{MARKER: str(tmp_path)})
    psutil.Process(ours.pid).suspend()
    assert clean(tmp_path).processes == 1
    assert not psutil.pid_exists(ours.pid)


def test_this_process_is_never_one_of_them(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from servable.backend.leftovers import *; print(marked_processes(Path({str(tmp_path)!r})))",
        ],
        env={**os.environ, MARKER: str(tmp_path)},
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_only_segments_of_our_ended_workers_are_removed(tmp_path, shared_memory):
    gone, living, unknown = dead_pid(), os.getpid(), dead_pid()
    segments = {pid: segment(shared_memory, pid) for pid in (gone, living, unknown)}
    foreign = shared_memory / "somebody_elses"
    foreign.touch()
    note_workers(tmp_path, [gone, living])
    assert clean(tmp_path).segments == 1
    assert not segments[gone].exists()
    assert segments[living].exists() and segments[unknown].exists() and foreign.exists()
    assert remove_segments([unknown]) == 1


def test_directories_go_and_links_are_not_followed(tmp_path, shared_memory):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    run_dir = tmp_path / "run"
    (run_dir / "serving-1-1" / "servables").mkdir(parents=True)
    (run_dir / "serving-1-1" / "servables" / "1").symlink_to(precious)
    (run_dir / "serving-2-1").symlink_to(precious)
    (run_dir / "mindspore_serving.log").touch()
    assert clean(run_dir).directories == 1
    assert (precious / "file").exists()
    assert (run_dir / "mindspore_serving.log").exists()


def test_a_clean_directory_has_nothing_to_tell(tmp_path, shared_memory):
    assert not clean(tmp_path)


def test_a_damaged_note_of_workers_is_no_obstacle(tmp_path, shared_memory):
    (tmp_path / leftovers.WORKERS_FILE).write_text("12\nnonsense\n-3\n")
    began = time.monotonic()
    clean(tmp_path)
    assert time.monotonic() - began < 5


def test_without_a_free_descriptor_segments_stay_for_later_and_nothing_is_raised(shared_memory, process):
    ended = process()
    ended.kill()
    ended.wait()
    segment = shared_memory / f"metric_learn_b1_subgraph0_input0_pid{ended.pid}_0"
    segment.touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        assert remove_segments({ended.pid}) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert remove_segments({ended.pid}) == 1 and not segment.exists()
