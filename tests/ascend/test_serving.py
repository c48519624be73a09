"""The unchanged product on a simulated device: from the unit's environment to embeddings."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.e2e.conftest import REPOSITORY
from tests.e2e.processes import assert_nothing_left, segments
from tests.patience import patient

from .simulated_host import SimulatedHost

GOLDEN = REPOSITORY / "tests" / "golden"
REFERENCE = np.load(GOLDEN / "reference.npz")
NAMES = [str(name) for name in REFERENCE["names"]]
METRIC_LEARN = [sys.executable, "-c", "from metric_learn_client.cli import main; main()"]
ACL_UINT8 = 4  # aclDataType of CANN's public interface
SAME = 1e-5  # relative distance; both compute in float32, in another order of additions


# The chip, its configuration, and one of the precision modes (the fourth: a test below). Each way is the same for all.
CHIPS = [
    ("Ascend310", "ascend310", "force_fp16"),
    ("Ascend310P3", "ascend310", "must_keep_origin_dtype"),
    ("Ascend910A", "ascend910", "allow_fp32_to_fp16"),
]


# What follows from right embeddings, which each chip is asked for: the others' turn comes with the long tests.
by_one_chip = pytest.mark.parametrize(
    "served",
    [CHIPS[0], *(pytest.param(chip, marks=pytest.mark.long) for chip in CHIPS[1:])],
    ids=lambda chip: chip[0],
    indirect=True,
)


@pytest.fixture(scope="module", params=CHIPS, ids=lambda chip: chip[0])
def served(request, libraries, versions, tmp_path_factory):
    """A simulated chip that computes the network itself, started as the unit starts it; and its host.

    At the end SIGTERM stops it in order. `--check` of the same chips: test_check.py.
    """
    soc, config, mode = request.param
    host = SimulatedHost(libraries, tmp_path_factory.mktemp("host")).set(SOC=soc)
    flags = ("backend.batch_sizes=[1]", f"backend.precision_mode={mode}")
    with host.server(*flags, config=f"configs/{config}.yaml") as server:
        assert server.ready_line.startswith("ready"), server.said()
        yield server, host, mode
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(patient(30)) == 0, server.said()


@pytest.fixture(scope="module")
def on_cpu(server, tmp_path_factory):
    """The golden pictures' rows of the CPU target."""
    return embed(server.endpoint, tmp_path_factory.mktemp("cpu") / "cpu.npy")


def embed(endpoint, output):
    pictures = [str(GOLDEN / "images" / name) for name in NAMES]
    command = [*METRIC_LEARN, "embed", *pictures, "--endpoint", endpoint, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return np.load(output)


def relative_distance(rows, expected):
    return np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)


def test_the_golden_pictures_have_the_embeddings_of_the_cpu_target(served, on_cpu, tmp_path):
    server, host, _ = served
    rows = embed(server.endpoint, tmp_path / "device.npy")
    executed = host.records("execute")
    assert {record["device"] for record in executed} == {0} and len(executed) >= len(NAMES)
    assert relative_distance(rows, on_cpu).max() <= SAME


def command(*arguments):
    return subprocess.run([*METRIC_LEARN, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@by_one_chip
def test_the_parity_gate_passes_at_its_limit_for_float32(served):
    server, _, _ = served
    done = command("verify", "--endpoint", server.endpoint, "--golden", GOLDEN, "--json")
    assert done.returncode == 0, done.stderr + done.stdout


@by_one_chip
def test_a_batch_job_embeds_a_folder(served, tmp_path):
    server, _, _ = served
    done = command("embed", GOLDEN / "images", "--output-dir", tmp_path, "--endpoint", server.endpoint, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["succeeded"] == len(NAMES)
    done = command("job", "verify", tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_compiler_gets_the_whole_graph_for_the_chip_and_pixels_as_bytes(served):
    _, host, _ = served
    (built,) = host.records("build_model")
    assert built["input"] == [1, 224, 224, 3] and built["input_type"] == ACL_UINT8
    assert built["ops"]["Conv2D"] == 53 and built["ops"]["ReduceMean"] == 1
    initialized = host.records("build_initialize")
    assert {record["options"]["ge.socVersion"] for record in initialized} == {host.settings["SOC"]}


def reached(host, mode):
    (built,) = host.records("build_model")
    refused = "can not support" in (host.run_dir / "mindspore_serving.log").read_text()
    return built["options"]["ge.exec.precision_mode"] == mode and not refused


def test_the_precision_mode_reaches_the_compiler(served):
    _, host, mode = served
    assert reached(host, mode)


@pytest.fixture(scope="module")
def compiled(libraries, versions, tmp_path_factory):
    """(host, what the server said): a start whose compile takes its time, and an end in order."""
    host = SimulatedHost(libraries, tmp_path_factory.mktemp("compiled")).set(NUMBERS="golden", COMPILE_S=2)
    before = segments()
    with host.server("backend.batch_sizes=[1]", "backend.precision_mode=allow_mix_precision") as server:
        assert server.ready_line.startswith("ready"), server.said()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(patient(30)) == 0
        said = server.said()
    assert_nothing_left(host.run_dir, before)
    return host, said


def test_mixed_precision_reaches_it_too(compiled):
    assert reached(compiled[0], "allow_mix_precision")


def test_a_start_that_compiles_says_how_far_it_is(compiled):
    assert "version 1: compiling model 1 of 1 for the device" in compiled[1]


def test_the_reason_of_a_failed_start_is_said_whole(host, versions):
    host.set(FAULT="setdevice:0", NUMBERS="golden")
    with host.server("backend.batch_sizes=[1]") as server:
        assert not server.ready_line and server.process.wait(patient(30)) == 4
        assert "before version 1 served: RuntimeError: " in server.said()
