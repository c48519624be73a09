"""The unchanged product on a simulated device: from the unit's environment to embeddings."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.e2e.conftest import REPOSITORY, start, stop
from tests.e2e.processes import assert_nothing_left, segments

from .simulated_host import SimulatedHost

GOLDEN = REPOSITORY / "tests" / "golden"
REFERENCE = np.load(GOLDEN / "reference.npz")
NAMES = [str(name) for name in REFERENCE["names"]]
METRIC_LEARN = [sys.executable, "-c", "from metric_learn_client.cli import main; main()"]
ACL_UINT8 = 4  # aclDataType of CANN's public interface
SAME = 1e-5  # relative distance; both compute in float32, in another order of additions


# The others take the same way; test_check.py and the test of precision modes below meet them in every run.
CHIPS = [
    "Ascend310",
    pytest.param("Ascend310P3", marks=pytest.mark.long),
    pytest.param("Ascend910A", marks=pytest.mark.long),
]


@pytest.fixture(scope="module", params=CHIPS)
def served(request, libraries, versions, tmp_path_factory):
    """A simulated chip that computes the network itself, started as the unit starts it; and its host.

    It passes `--check` before, and at the end SIGTERM stops it in order.
    """
    host = SimulatedHost(libraries, tmp_path_factory.mktemp("host")).set(SOC=request.param)
    config = "configs/ascend910.yaml" if "910" in request.param else "configs/ascend310.yaml"
    checked = host.check(f"model.directory={versions}", config=config)
    assert checked.returncode == 0, checked.stderr
    with host.server("backend.batch_sizes=[1]", config=config) as server:
        assert server.ready_line.startswith("ready"), server.said()
        yield server, host
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0, server.said()


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


def command(*arguments):
    return subprocess.run([*METRIC_LEARN, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_the_parity_gate_passes_at_its_limit_for_float32(served):
    server, _ = served
    done = command("verify", "--endpoint", server.endpoint, "--golden", GOLDEN, "--json")
    assert done.returncode == 0, done.stderr + done.stdout


def test_a_batch_job_embeds_a_folder(served, tmp_path):
    server, _ = served
    done = command("embed", GOLDEN / "images", "--output-dir", tmp_path, "--endpoint", server.endpoint, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["succeeded"] == len(NAMES)
    done = command("job", "verify", tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_compiler_gets_the_whole_graph_for_the_chip_and_pixels_as_bytes(served):
    _, host = served
    (built,) = host.records("build_model")
    assert built["input"] == [1, 224, 224, 3] and built["input_type"] == ACL_UINT8
    assert built["ops"]["Conv2D"] == 53 and built["ops"]["ReduceMean"] == 1
    assert built["options"]["ge.exec.precision_mode"] == "force_fp16"
    initialized = host.records("build_initialize")
    assert {record["options"]["ge.socVersion"] for record in initialized} == {host.settings["SOC"]}


@pytest.mark.parametrize(
    ("mode", "config", "soc"),  # force_fp16, the default: the test before this one
    [
        ("allow_fp32_to_fp16", "ascend910", "Ascend910A"),
        ("must_keep_origin_dtype", "ascend310", "Ascend310P3"),
        ("allow_mix_precision", "ascend310", "Ascend310"),
    ],
)
def test_every_precision_mode_reaches_the_compiler_on_every_family_of_chips(host, versions, mode, config, soc):
    host.set(NUMBERS="golden", SOC=soc)
    flags = ("backend.batch_sizes=[1]", "backend.workers=1", f"backend.precision_mode={mode}")
    with host.server(*flags, config=f"configs/{config}.yaml") as server:
        assert server.ready_line.startswith("ready"), server.said()
        (built,) = host.records("build_model")
    assert built["options"]["ge.exec.precision_mode"] == mode
    assert {record["options"]["ge.socVersion"] for record in host.records("build_initialize")} == {soc}
    assert "can not support" not in (host.run_dir / "mindspore_serving.log").read_text()


def test_a_start_that_compiles_says_how_far_it_is_and_sigterm_ends_it_in_order(host, versions):
    host.set(NUMBERS="golden", COMPILE_S=2)
    segments_before = segments()
    with host.server(config="configs/ascend310.yaml") as server:
        assert server.ready_line.startswith("ready"), server.said()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        said = server.said()
    for number in (1, 2, 3):  # the largest twice
        assert f"version 1: compiling model {number} of 3 for the device" in said
    assert_nothing_left(host.run_dir, segments_before)


def test_the_reason_of_a_failed_start_is_said_whole(host, versions):
    host.set(FAULT="setdevice:0", NUMBERS="golden")
    with host.server("backend.batch_sizes=[1]") as server:
        assert not server.ready_line and server.process.wait(30) == 4
        assert "before version 1 served: RuntimeError: " in server.said()
