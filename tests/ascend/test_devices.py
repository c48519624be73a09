"""Several simulated devices, and one of them with a fault: it never answers wrong, and the others serve on."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from metric_learn_client import EmbeddingClient
from tests.e2e.processes import wait_until

PIXELS = [np.full((224, 224, 3), value, np.uint8) for value in range(64)]
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
    with urllib.request.urlopen(f"http://{server.http_endpoint}/{path}", timeout=10) as reply:
        return reply.read().decode()


def missing(server):
    return 'metric_learn_missing_workers{version="1"} 1.0' in page(server, "metrics")


def test_each_of_two_devices_proves_itself_before_ready_and_both_work(host, golden):
    host.set(DEVICES=2, NUMBERS="golden")
    with host.server(*TWO[:2], "backend.batch_sizes=[1,16]") as server:
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
    with host.server("backend.workers=1", "backend.batch_sizes=[1,16]") as server:
        with ThreadPoolExecutor(4) as callers:
            list(callers.map(lambda _: embed(server, golden, calls=2), range(4)))
    assert max(record["copied_meanwhile"] for record in host.records("execute")) >= 16 * 224 * 224 * 3


def test_a_device_with_wrong_numbers_never_answers_and_its_loss_is_seen(host, golden):
    host.set(DEVICES=2, NUMBERS="golden", FAULT="wrong:1")
    with host.server(*TWO) as server:
        assert server.ready_line.startswith("ready"), server.said()
        embed(server, golden, calls=4)
        wait_until(lambda: missing(server), 20, "the loss in the metrics")
        assert page(server, "readyz") == "ready, but 1 worker(s) are lost\n"
        # Of device 1 nothing but its proof was asked: the golden picture and its negative.
        assert len([record for record in host.records("execute") if record["device"] == 1]) == 2
    assert "WrongEmbeddingError" in (host.run_dir / "mindspore_serving.log").read_text()


@pytest.mark.parametrize(
    ("fault", "says"),
    [("execute:1:6", "DeviceError: a run of 1 images failed"), ("hang:1:6", "device 1 hangs")],
)
def test_a_device_that_fails_or_hangs_while_it_serves_loses_no_image(host, golden, fault, says):
    host.set(DEVICES=2, NUMBERS="golden", FAULT=fault)
    with host.server(*TWO) as server:
        assert server.ready_line.startswith("ready"), server.said()
        embed(server, golden, calls=6)
        server.process.terminate()
        said = server.said() + (host.run_dir / "mindspore_serving.log").read_text()
    assert says in said


def test_a_device_that_is_dead_at_the_start_is_left_out_and_its_loss_is_seen(host, golden):
    host.set(DEVICES=2, NUMBERS="golden", FAULT="setdevice:1")
    with host.server(*TWO) as server:
        assert server.ready_line.startswith("ready"), server.said()
        embed(server, golden, calls=2)
        wait_until(lambda: missing(server), 20, "the loss in the metrics")
        assert page(server, "readyz") == "ready, but 1 worker(s) are lost\n"
        assert {record["device"] for record in host.records("execute")} == {0}
        server.process.terminate()
        assert "device 1 cannot be opened (aclrtSetDevice gives error 107001): it is left out" in server.said()


def test_a_server_all_of_whose_devices_are_dead_ends_with_the_reason(host, versions):
    host.set(DEVICES=2, NUMBERS="golden", FAULT="setdevice:0,setdevice:1")
    with host.server(*TWO) as server:
        assert not server.ready_line and server.process.wait(30) == 4
        assert "no device can be opened: 0: aclrtSetDevice gives error 107001; 1: " in server.said()


def test_a_server_whose_only_device_is_wrong_ends_with_the_reason(host, versions):
    host.set(NUMBERS="golden", FAULT="wrong:0")
    with host.server("backend.batch_sizes=[1]", "backend.workers=1") as server:
        said = server.said()
        assert not server.ready_line and server.process.returncode == 5, said
        assert "the golden image came back" in said
