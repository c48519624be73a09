"""The unchanged product on a simulated device: from the unit's environment to embeddings."""

import subprocess
import sys

import numpy as np
import pytest

from tests.e2e.conftest import REPOSITORY, start, stop

from .simulated_host import SimulatedHost

GOLDEN = REPOSITORY / "tests" / "golden"
REFERENCE = np.load(GOLDEN / "reference.npz")
NAMES = [str(name) for name in REFERENCE["names"]]
METRIC_LEARN = [sys.executable, "-c", "from metric_learn_client.cli import main; main()"]
SAME = 1e-5  # relative distance; both compute in float32, in another order of additions


@pytest.fixture(scope="module")
def served(libraries, versions, tmp_path_factory):
    """A simulated 310 that computes the network itself, started as the unit starts it; and its host."""
    host = SimulatedHost(libraries, tmp_path_factory.mktemp("host"))
    with host.server("backend.batch_sizes=[1]") as server:
        assert server.ready_line.startswith("ready"), server.said()
        yield server, host


def embed(endpoint, output):
    pictures = [str(GOLDEN / "images" / name) for name in NAMES]
    command = [*METRIC_LEARN, "embed", *pictures, "--endpoint", endpoint, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return np.load(output)


def relative_distance(rows, expected):
    return np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)


def test_the_golden_pictures_have_the_embeddings_of_the_cpu_target(served, tmp_path):
    server, host = served
    rows = embed(server.endpoint, tmp_path / "device.npy")
    executed = host.records("execute")
    assert {record["device"] for record in executed} == {0} and len(executed) >= len(NAMES)
    plain = start(tmp_path / "run", "backend.batch_sizes=[1]")
    try:
        on_cpu = embed(plain.endpoint, tmp_path / "cpu.npy")
    finally:
        stop(plain)
    assert relative_distance(rows, on_cpu).max() <= SAME
