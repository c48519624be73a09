"""MindSpore Serving behind the gateway, killed, stopped and hung: calls are answered, and it comes back."""

import signal
import subprocess
import time
from pathlib import Path

import grpc
import psutil
import pytest

from metric_learn_client import wire
from tests.patience import patient

from .conftest import ONE_SIZE, REPOSITORY, free_port, start, stop
from .load import OPTIONS, Load, predict_on, request_of
from .processes import (
    assert_nothing_left,
    master_of,
    noticing_hangs_soon,
    running,
    segments,
    server_in,
    tree_of,
    wait_until,
    worker_of,
)

READY_AGAIN_S = 30
QUICK = (ONE_SIZE, "log.backend_max_mb=1", "supervision.stable_s=1", "readiness.interval_s=1")


def run_dir_of(server):
    return Path(next(part for part in server.process.args if part.startswith("server.run_dir=")).partition("=")[2])


@pytest.fixture(scope="module")
def supervised(versions, tmp_path_factory):
    before = segments()
    run_dir = tmp_path_factory.mktemp("run")
    with server_in(run_dir, *noticing_hangs_soon(*QUICK)) as server:
        assert server.ready_line.startswith("ready"), server.said()
        yield server
        assert stop(server) == 0
        assert_nothing_left(run_dir, before)


@pytest.mark.parametrize(
    ("target", "number"),
    [
        pytest.param("worker", signal.SIGKILL, id="kill-worker"),
        pytest.param("worker", signal.SIGSTOP, id="stop-worker", marks=pytest.mark.long),
        pytest.param("master", signal.SIGKILL, id="kill-master", marks=pytest.mark.long),
        pytest.param("master", signal.SIGSTOP, id="stop-master"),
    ],
)
def test_calls_are_answered_and_service_returns_after(supervised, target, number):
    with Load(supervised.endpoint, threads=3) as load:
        load.wait_for_good(5, time.monotonic(), 20)
        victim = {"worker": worker_of, "master": master_of}[target](supervised)
        master = master_of(supervised)
        at = time.monotonic()
        victim.send_signal(number)
        wait_until(lambda: not running([master]), 25, "the hung or killed MindSpore Serving is replaced")
        seconds = load.wait_for_good(5, at + 0.5, READY_AGAIN_S)
    print(f"{number.name} on {target}: serving again after {seconds:.1f} s; {load.summary()}")
    assert not load.failures(), load.failures()[:3]
    assert len(load.answers) == load.sent
    assert supervised.process.poll() is None


def test_two_thousand_bad_images_leave_no_traceback_in_the_log(supervised):
    run_dir = run_dir_of(supervised)
    request = request_of([0] * 200)
    for instance in request.instances:
        instance.items[wire.ITEM_IMAGE].bytes_val[0] = b"\xff\xd8\xff no picture"
    before = sum(log.stat().st_size for log in run_dir.glob("mindspore_serving.log*"))
    with grpc.insecure_channel(supervised.endpoint, options=OPTIONS) as channel:
        for _ in range(10):
            reply = predict_on(channel)(request, timeout=60)
            assert all(error.error_msg.startswith(b"E_") for error in reply.error_msg)
    assert sum(log.stat().st_size for log in run_dir.glob("mindspore_serving.log*")) - before <= 2**20
    assert all(log.is_symlink() for log in run_dir.rglob("serving_logs/*"))


@pytest.mark.long
def test_giving_up_ends_with_4_and_the_reason(versions, tmp_path):
    """A MindSpore Serving that cannot stay up, restarted once, then given up."""
    with server_in(tmp_path, ONE_SIZE, "supervision.max_failures=1", "supervision.stable_s=600") as server:
        tree = tree_of(server)
        master_of(server).kill()
        wait_until(lambda: master_of(server).pid not in [process.pid for process in tree], 60, "the first restart")
        wait_until(lambda: not running(tree[1:]), 10, "the first one's end")
        master_of(server).kill()
        assert server.process.wait(patient(60)) == 4
        message = server.said()
        stop(server)
        assert "giving up" in message and "exit code -9" in message


def test_a_terminated_server_finishes_calls_in_flight(versions, tmp_path):
    with server_in(tmp_path, ONE_SIZE) as server:
        with Load(server.endpoint, threads=4, images=4) as load:
            load.wait_for_good(8, time.monotonic(), 30)
            at = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(patient(30)) == 0
            ended = time.monotonic()
        assert ended - at < patient(15)
        in_flight = [answer for answer in load.answers if answer.began < at - 0.05 and answer.ended > at]
        assert in_flight and all(answer.status is None for answer in in_flight), in_flight
        # gRPC itself cancels a call that arrives as its server closes; clients send such a call to another endpoint.
        late = {id(a) for a in load.answers if a.status is grpc.StatusCode.CANCELLED and a.began > at}
        failures = [answer for answer in load.failures() if id(answer) not in late]
        assert not failures, failures[:3]
        stop(server)


def test_a_second_sigterm_ends_at_once(versions, tmp_path):
    with server_in(tmp_path, ONE_SIZE) as server:
        tree = tree_of(server)
        worker_of(server).send_signal(signal.SIGSTOP)  # a call in flight will not come back
        with Load(server.endpoint, threads=2, deadline_s=30) as load:
            wait_until(lambda: load.sent >= 2, 5, "calls")
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(psutil.TimeoutExpired):
                psutil.Process(server.process.pid).wait(2)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(patient(8)) == 143
        stop(server)
        assert not running(tree)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_while_it_starts_ends_it_and_leaves_nothing(versions, tmp_path, number, code):
    before = segments()
    command = [str(REPOSITORY / ".venv" / "server" / "bin" / "python"), "-m", "servable.serving_server"]
    for setting in (
        f"server.address=127.0.0.1:{free_port()}",
        f"server.http_address=127.0.0.1:{free_port()}",
        "server.api_address=127.0.0.1:0",
        f"server.run_dir={tmp_path}",
        f"model.directory={versions}",
    ):
        command += ["--set", setting]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    wait_until(lambda: psutil.Process(process.pid).children(recursive=True)[1], 20, "a worker")
    process.send_signal(number)
    assert process.wait(patient(20)) == code
    assert_nothing_left(tmp_path, before)


@pytest.mark.long
def test_what_a_killed_server_left_is_cleaned_at_the_next_start(versions, tmp_path):
    before = segments()
    with server_in(tmp_path) as first:
        worker = worker_of(first)
        worker.send_signal(signal.SIGSTOP)  # does not notice that its parents are gone
        first.process.kill()
        stop(first, signal.SIGKILL)
        assert running([worker])
        with server_in(tmp_path) as second:
            assert second.ready_line.startswith("ready")
            assert not running([worker])
            assert stop(second) == 0
            assert_nothing_left(tmp_path, before)


def test_a_second_server_in_the_same_run_directory_is_refused(supervised):
    run_dir = str(run_dir_of(supervised))
    other = start(run_dir)
    message = other.said()
    assert stop(other) == 4
    assert len(message.splitlines()) == 1 and run_dir in message and "another server" in message
    assert running([worker_of(supervised)])
