"""Several simulated devices, and one of them with a fault: it never answers wrong, and the others serve on."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from metric_learn_client import EmbeddingClient
from tests.e2e.processes import wait_until
from tests.e2e.test_jobs import make_pictures
from tests.patience import patient

from .test_serving import METRIC_LEARN

PIXELS = [np.full((224, 224, 3), value, np.uint8) for value in range(64)]
SIZES = "backend.batch_sizes=[1,16]"
TWO = ("backend.device_ids=[0,1]", "backend.workers=1", "backend.batch_sizes=[1]", "supervision.device_hang_s=2")


@pytest.fixture
def golden(versions):
    """What a device with golden numbers gives for every picture."""
    return np.load(versions / "1" / "golden.npy")


def embed(server, golden, calls):
    """Every call is answered in full and right."""
    with EmbeddingClient(server.endpoint) as client:
        for _ in range(calls):
            rows = client.embed(PIXELS).embeddings
            assert rows.shape == (len(PIXELS), 2048) and np.abs(rows - golden).max() < 1e-6


def page(server, path):
    """Its words, whatever its status: a version whose worker has just ended is not ready for a moment."""
    try:
        with urllib.request.urlopen(f"http://{server.http_endpoint}/{path}", timeout=10) as reply:
            return reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


def missing(server):
    return 'metric_learn_missing_workers{version="1"} 1.0' in page(server, "metrics")


def wait_until_the_loss_is_seen(server):
    """MindSpore Serving starts the worker again, and until that one has ended too there is no loss to be seen."""
    wait_until(
        lambda: missing(server) and page(server, "readyz") == "ready, but 1 worker(s) are lost\n",
        20,
        "the loss in the metrics and on the readiness page",
    )


def test_each_of_two_devices_proves_itself_before_ready_and_both_work(host, golden):
    host.set(DEVICES=2, NUMBERS="golden")
    with host.server(*TWO[:2], SIZES) as server:
        assert server.ready_line.startswith("ready"), server.said()
        for device in (0, 1):
            loaded = [record["batch"] for record in host.records("load") if record["device"] == device]
            assert sorted(loaded) == [1, 16, 16]
            sizes = {record["batch"] for record in host.records("execute") if record["device"] == device}
            assert sizes == {1, 16}
        embed(server, golden, calls=2)
        assert page(server, "readyz") == "ready\n" and not missing(server)


def test_the_next_batch_is_copied_to_a_device_while_it_runs(host, golden):
    host.set(NUMBERS="golden", RUN_MS="16:20")
    with host.server("backend.workers=1", SIZES) as server:
        with ThreadPoolExecutor(4) as callers:
            list(callers.map(lambda _: embed(server, golden, calls=2), range(4)))
    assert max(record["copied_meanwhile"] for record in host.records("execute")) >= 16 * 224 * 224 * 3


def test_a_device_with_wrong_numbers_never_answers_and_its_loss_is_seen(host, golden):
    host.set(DEVICES=2, NUMBERS="golden", FAULT="wrong:1")
    with host.server(*TWO) as server:
        assert server.ready_line.startswith("ready"), server.said()
        embed(server, golden, calls=4)
        wait_until_the_loss_is_seen(server)
        # Of device 1 no worker was asked more than its proof: the golden picture and its negative.
        proofs = Counter(record["pid"] for record in host.records("execute") if record["device"] == 1)
        assert set(proofs.values()) == {2}
    assert "WrongEmbeddingError" in (host.run_dir / "mindspore_serving.log").read_text()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("execute:1", "DeviceError: a run of 1 images failed"),
        ("nan:1", "WrongEmbeddingError: at batch size 1"),
        ("hang:1", "device 1 hangs"),
        pytest.param("execute:1:0:16", "DeviceError: a run of 16 images failed", marks=pytest.mark.long),
    ],
)
def test_a_device_that_goes_bad_while_it_serves_loses_no_image_and_the_other_serves_on(host, golden, fault, says):
    """Also when MindSpore Serving has started its worker again, which finds the device as it was."""
    kind, broken = fault.partition(":")[0], host.folder / "broken"
    host.set(DEVICES=2, NUMBERS="golden", FAULT=fault, FAULT_FROM=broken)
    with host.server(*TWO[:2], SIZES if fault.endswith("16") else TWO[2], TWO[3]) as server:
        assert server.ready_line.startswith("ready"), server.said()
        embed(server, golden, calls=1)
        broken.touch()

        def both_ended():
            embed(server, golden, calls=1)
            workers = {record["pid"] for record in host.records("fault") if record["kind"] == kind}
            return len(workers) > 1 and not any(map(psutil.pid_exists, workers))

        wait_until(both_ended, 40, "the ends of the worker and of its successor")
        embed(server, golden, calls=2)
        wait_until_the_loss_is_seen(server)
        assert 'backend_restarts_total{version="1"} 0.0' in page(server, "metrics")
        server.process.terminate()
        said = server.said() + (host.run_dir / "mindspore_serving.log").read_text()
    assert says in said


def wrong_rows(server, golden, seconds, images, after=lambda: None):
    """How many of all rows are wrong that two callers get in that time, at the begin of which `after` is called."""
    began, wrong = time.monotonic(), []

    def call():
        with EmbeddingClient(server.endpoint) as client:
            while time.monotonic() - began < seconds:
                rows = client.embed(PIXELS[:images]).embeddings
                wrong.append(int((np.abs(rows - golden).max(axis=1) > 1e-6).sum()))

    with ThreadPoolExecutor(2) as callers:
        running = [callers.submit(call) for _ in range(2)]
        wait_until(lambda: wrong, 10, "the first answer")
        after()
        for one in running:
            one.result()
    return sum(wrong)


@pytest.mark.parametrize(
    ("flags", "images"),
    [
        pytest.param(["supervision.device_row_check_s=0"], 64, id="asked for", marks=pytest.mark.long),
        pytest.param([], 6, id="a place is free"),  # one call's, or two calls', go in one run of 16
    ],
)
def test_where_every_run_holds_the_golden_row_no_row_is_ever_wrong(host, golden, flags, images):
    broken = host.folder / "broken"
    host.set(DEVICES=2, NUMBERS="golden", RUN_MS="1:1,16:4", FAULT="wrong:1", FAULT_FROM=broken)
    with host.server(*TWO[:2], SIZES, *flags) as server:
        assert server.ready_line.startswith("ready"), server.said()
        assert wrong_rows(server, golden, 2, images, after=broken.touch) == 0
        assert [record["kind"] for record in host.records("fault")][:1] == ["wrong"]
        server.process.terminate()
        # A lone picture before, and readiness's golden picture, may have gone without it.
        assert not flags or "may be wrong" not in server.said()


def test_full_batches_are_wrong_for_half_a_second_and_their_calls_are_named(host, golden):
    broken = host.folder / "broken"
    host.set(DEVICES=2, NUMBERS="golden", RUN_MS="1:1,16:4", FAULT="wrong:1", FAULT_FROM=broken)
    with host.server(*TWO[:2], SIZES, "log.format=json") as server:
        assert server.ready_line.startswith("ready"), server.said()
        wrong = wrong_rows(server, golden, 2, 64, after=broken.touch)
        embed(server, golden, calls=4)
        wait_until_the_loss_is_seen(server)
        server.process.terminate()
        lines = [json.loads(line) for line in server.said().splitlines() if "may be wrong" in line]
    faults = [record["at_ms"] for record in host.records("fault") if record["kind"] == "wrong"]
    first = host.records("fault")[0]["pid"]
    seconds = (max(each["at_ms"] for each in host.records("fault") if each["pid"] == first) - faults[0]) / 1000
    print(f"{wrong} wrong rows in {seconds:.2f} s; {[line['message'] for line in lines]}")
    assert seconds < patient(2), "0.5 s, and the run that was under way"
    assert all(line["request_ids"] for line in lines) and (lines or not wrong)


def job(server, pictures, output):
    command = [*METRIC_LEARN, "embed", pictures, "--output-dir", output, "--endpoint", server.endpoint, "--json"]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)


def written(output):
    """Every file of a job that another run of it must have byte for byte."""
    files = (path for path in output.rglob("*") if path.is_file() and path.relative_to(output).parts[0][0] != ".")
    return {str(path.relative_to(output)): path.read_bytes() for path in files if path.name != "runs.jsonl"}


def test_a_job_during_which_a_device_is_lost_has_the_rows_of_an_undisturbed_one(host, versions, tmp_path):
    pictures = make_pictures(tmp_path / "pictures", 24)
    host.set(DEVICES=2, FAULT="execute:1", FAULT_FROM=tmp_path / "lost")
    with host.server(*TWO[:3]) as server:  # the network is computed, on a busy machine perhaps for seconds
        assert server.ready_line.startswith("ready"), server.said()
        assert job(server, pictures, tmp_path / "undisturbed").wait(patient(60)) == 0
        of_device_1 = [record["device"] for record in host.records("execute")].count(1)
        disturbed = job(server, pictures, tmp_path / "disturbed")
        wait_until(lambda: [r["device"] for r in host.records("execute")].count(1) > of_device_1 + 4, 30, "runs on 1")
        (tmp_path / "lost").touch()
        assert disturbed.wait(patient(60)) == 0
        wait_until_the_loss_is_seen(server)
    assert written(tmp_path / "disturbed") == written(tmp_path / "undisturbed")


def test_a_device_that_is_dead_at_the_start_is_left_out_and_its_loss_is_seen(host, golden):
    host.set(DEVICES=2, NUMBERS="golden", FAULT="setdevice:1")
    with host.server(*TWO) as server:
        assert server.ready_line.startswith("ready"), server.said()
        embed(server, golden, calls=2)
        wait_until_the_loss_is_seen(server)
        assert {record["device"] for record in host.records("execute")} == {0}
        server.process.terminate()
        assert "device 1 cannot be opened (aclrtSetDevice gives error 107001): it is left out" in server.said()


def test_a_server_all_of_whose_devices_are_dead_ends_with_the_reason(host, versions):
    host.set(DEVICES=2, NUMBERS="golden", FAULT="setdevice:0,setdevice:1")
    with host.server(*TWO) as server:
        assert not server.ready_line and server.process.wait(patient(30)) == 4
        assert "no device can be opened: 0: aclrtSetDevice gives error 107001; 1: " in server.said()


@pytest.mark.parametrize(
    ("fault", "code", "says"), [("wrong:0", 5, "the golden picture came back"), ("hang:0", 4, "device 0 hangs")]
)
def test_a_server_whose_only_device_is_bad_ends_with_the_reason(host, versions, fault, code, says):
    host.set(NUMBERS="golden", FAULT=fault)
    with host.server(*TWO[1:]) as server:
        said = server.said()
        assert not server.ready_line and server.process.returncode == code and says in said.splitlines()[-1], said
