"""Faults of a device that are no wrong numbers: it aborts, is slow, hangs before it serves, goes away."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from metric_learn_client import EmbeddingClient, EndpointError
from tests.e2e.processes import assert_nothing_left, segments, wait_until
from tests.patience import patient

from .test_devices import PIXELS, SIZES, TWO, embed, golden, missing, page, wait_until_the_loss_is_seen

__all__ = ["golden"]
WAIT = "server.when_down=wait"


def aborts(host):
    return [record for record in host.records("fault") if record["kind"] == "abort"]


@pytest.mark.long
def test_an_abort_in_a_run_accuses_no_picture_and_every_image_is_answered(host, golden):
    broken = host.folder / "broken"
    host.set(NUMBERS="golden", FAULT="abort:0:20", FAULT_FROM=broken)  # 20 runs of each worker, its proof among them
    with host.server("backend.workers=1", TWO[2], WAIT, "supervision.stable_s=3600") as server:
        assert server.ready_line.startswith("ready"), server.said()
        broken.touch()
        with EmbeddingClient(server.endpoint, deadline_s=120) as client:
            rows = client.embed(PIXELS[:32]).embeddings  # raises where a picture has an error
        assert abs(rows - golden).max() < 1e-6
        told, ended = page(server, "metrics"), len(aborts(host))
        assert ended > 1 and f'backend_restarts_total{{version="1"}} {ended}.0' in told
        assert 'suspect_images_total{result="failed",version="1"} 0.0' in told
        server.process.terminate()
        said = server.said()
    assert f"({ended} of 5)" in said and "E_CRASH" not in said


@pytest.mark.long
def test_a_device_that_aborts_again_and_again_is_given_up_with_the_reason(host, golden):
    broken = host.folder / "broken"
    host.set(NUMBERS="golden", FAULT="abort:0:20", FAULT_FROM=broken)
    settings = ("supervision.stable_s=3600", "supervision.max_failures=2")
    with host.server("backend.workers=1", TWO[2], WAIT, *settings) as server:
        broken.touch()
        with EmbeddingClient(server.endpoint, deadline_s=90, retries=0) as client, pytest.raises(EndpointError):
            client.embed(PIXELS)
        assert server.process.wait(patient(60)) == 4 and len(aborts(host)) == 3
        assert "giving up" in server.said()


@pytest.mark.long
def test_a_device_that_becomes_a_hundred_times_slower_is_taken_out_and_the_other_serves_on(host, golden):
    host.set(DEVICES=2, NUMBERS="golden", RUN_MS="1:4,16:4", FAULT="slow:1", FAULT_FROM=host.folder / "slow")
    with host.server(*TWO[:2], SIZES, "supervision.device_check_s=1") as server:
        assert server.ready_line.startswith("ready"), server.said()
        embed(server, golden, calls=4)
        (host.folder / "slow").touch()

        def lost():
            embed(server, golden, calls=1)
            return missing(server)

        wait_until(lost, 40, "the loss in the metrics")
        began = time.monotonic()
        embed(server, golden, calls=8)  # of 4 batches each, half of which took 0.4 s on the slow one
        assert time.monotonic() - began < patient(6)
        assert 'backend_restarts_total{version="1"} 0.0' in page(server, "metrics")
    assert "DeviceError: a run of 16 images takes 0.4" in (host.run_dir / "mindspore_serving.log").read_text()


@pytest.mark.long
def test_a_load_that_hangs_ends_the_start_in_time_with_what_was_seen_last(host, versions):
    before = segments()
    host.set(NUMBERS="golden", FAULT="hang_load:0:1")
    with host.server("backend.workers=1", SIZES, "backend.start_timeout_s=10") as server:
        assert not server.ready_line and server.process.wait(patient(30)) == 4
        said = server.said()
        assert "backend.start_timeout_s = 10, and was last seen compiling model" in said
    assert [record["batch"] for record in host.records("load")] == [1], "the next one hangs"
    assert_nothing_left(host.run_dir, before)


def test_a_device_node_that_goes_away_while_it_serves_costs_nothing_until_its_worker_ends(host, golden):
    host.set(DEVICES=2, NUMBERS="golden")
    with host.server(*TWO) as server:
        assert server.ready_line.startswith("ready"), server.said()
        inside = ["nsenter", "-m", "-t", str(server.process.pid)]
        subprocess.run([*inside, "rm", "/dev/davinci1"], check=True)
        embed(server, golden, calls=2)
        (pid,) = {record["pid"] for record in host.records("execute") if record["device"] == 1}
        psutil.Process(pid).kill()
        embed(server, golden, calls=4)
        wait_until_the_loss_is_seen(server)
        embed(server, golden, calls=2)


def kill_the_compiling_worker(host):
    """MindSpore Lite compiles in a forked copy of the worker."""
    wait_until(lambda: host.records("build_initialize"), 40, "a compile")
    psutil.Process(host.records("build_initialize")[0]["pid"]).parent().kill()


def test_a_worker_that_is_killed_while_it_compiles_ends_the_start_with_the_reason(host, versions):
    before = segments()
    host.set(NUMBERS="golden", COMPILE_S=30)
    with ThreadPoolExecutor(1) as beside:
        killing = beside.submit(kill_the_compiling_worker, host)
        with host.server("backend.workers=1", TWO[2]) as server:
            killing.result()
            assert not server.ready_line and server.process.wait(patient(30)) == 4
            assert "before version 1 served: RuntimeError: Fail to start workers because of death" in server.said()
    assert_nothing_left(host.run_dir, before)
