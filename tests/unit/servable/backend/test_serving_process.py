"""Which workers run when /proc cannot be read. A process with a child stands for MindSpore Serving's master."""

import contextlib
import resource
import subprocess
import sys

import numpy as np
import psutil
import pytest

from servable.backend import serving_process as backend_module
from servable.backend.launcher import Child
from servable.gateway.backends import BackendFacts, Golden

WORKER = "import time; print('up', flush=True); time.sleep(600)"
MASTER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', {worker!r}, 'start_worker.py'], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def without_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def master():
    """(process, process id of its worker)."""
    started = subprocess.Popen([sys.executable, "-c", MASTER.format(worker=WORKER)], stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(started.stdout.readline()))
    yield started, worker
    for each in (worker, started):
        with contextlib.suppress(psutil.Error):
            each.kill()
    started.wait()
    started.stdout.close()


def child_of(master, tmp_path):
    backend = backend_module.ServingProcess.__new__(
        backend_module.ServingProcess
    )  # as __init__ leaves it, without MindSpore Serving
    backend.process, backend._workers = master, []
    facts = BackendFacts(1, "f", "unix:/x", 48, 16, 2048, "w", "p", Golden(b"", np.zeros(1, np.float32)))
    return Child(backend, None, facts, tmp_path / "serving-1-1")


def test_while_proc_cannot_be_read_what_was_known_last_holds(master, tmp_path):
    process, worker = master
    child = child_of(process, tmp_path)
    assert child.workers_alive() == 1
    child.expected_workers = 1
    with without_descriptors():
        assert child.workers_alive() == 1
    worker.kill()
    with without_descriptors():
        assert child.workers_alive() == 1
    psutil.wait_procs([worker], 5)
    assert child.workers_alive() == 0


def test_before_anything_is_known_a_worker_counts_as_running(master, tmp_path):
    child = child_of(master[0], tmp_path)
    with without_descriptors():
        assert child.workers_alive() == 1
