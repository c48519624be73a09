"""Two versions at once, the move from one to the other and back under load, and a bad one that never gets a call."""

import json
import re
import signal
import subprocess
import time

import grpc
import numpy as np
import pytest

from metric_learn_client import wire

from .conftest import ONE_SIZE, REPOSITORY, stop
from .load import EXPECTED, IMAGES, OPTIONS, Load, predict_on, request_of
from .processes import assert_nothing_left, masters_of, segments, server_in, wait_until
from .second_version import copy_version, two_versions

SERVER_PYTHON = str(REPOSITORY / ".venv" / "server" / "bin" / "python")


@pytest.fixture(scope="module")
def directory(versions):
    return two_versions()


@pytest.fixture(scope="module")
def fingerprints(directory):
    return {
        number: json.loads((directory / number / "manifest.json").read_text())["fingerprint"] for number in ("1", "2")
    }


def order(run_dir, *arguments, timeout=120):
    command = [SERVER_PYTHON, "-m", "servable.serving_server", "--config", "configs/cpu.yaml"]
    command += ["--set", f"server.run_dir={run_dir}", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout)


def embeddings_of(endpoint, version):
    with grpc.insecure_channel(endpoint, options=OPTIONS) as channel:
        reply = predict_on(channel)(request_of(range(len(IMAGES)), version), timeout=60)
    return np.stack([np.frombuffer(one.items[wire.ITEM_EMBEDDING].data, np.float32) for one in reply.instances])


def assert_no_call_failed(load, fingerprints):
    """Every call was answered right, and every answer names the version and fingerprint that made it."""
    bad = [answer for answer in load.answers if answer.status is not None]
    assert not bad, (load.summary(), bad[:3])
    assert len(load.answers) == load.sent
    assert all(fingerprints[answer.version] == answer.fingerprint for answer in load.answers)


@pytest.mark.long
def test_two_versions_at_once_each_by_its_number(directory, fingerprints, tmp_path):
    before = segments()
    with server_in(tmp_path, f"model.directory={directory}", "model.versions=[1, 2]", "model.version=1") as server:
        assert " version 1 " in server.ready_line
        first, second = (embeddings_of(server.endpoint, version) for version in (1, 2))
        assert np.abs(first - EXPECTED).max() <= 1e-4
        assert np.linalg.norm(first - second, axis=1).min() > 0.05  # other weights, another space
        for version in (1, 2):
            with Load(server.endpoint, version=version, threads=1, expected=(first, second)[version - 1]) as load:
                load.wait_for_good(2, time.monotonic(), 30)
            assert_no_call_failed(load, fingerprints)
            assert {answer.version for answer in load.answers} == {str(version)}
        status = order(tmp_path, "--status")
        assert re.search(r"version 1 +serving +default", status.stdout)
        assert re.search(r"version 2 +serving +process", status.stdout)
        with pytest.raises(grpc.RpcError) as caught:
            embeddings_of(server.endpoint, 3)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert stop(server) == 0
        assert_nothing_left(tmp_path, before)


def test_switch_and_roll_back_under_load_without_a_failed_call(directory, fingerprints, tmp_path):
    before = segments()
    with server_in(tmp_path, f"model.directory={directory}", "model.version=1", ONE_SIZE) as server:
        by_version = {}
        with Load(server.endpoint, threads=3, expected=None) as load:
            for target in ("2", "1"):
                load.wait_for_good(10, time.monotonic(), 30)
                began = time.monotonic()
                done = order(tmp_path, "--switch-version", target)
                assert done.returncode == 0, done.stderr
                assert f"version {target} is the default" in done.stdout
                print(f"switched to {target} in {time.monotonic() - began:.1f} s")
                load.wait_for_good(5, time.monotonic(), 30)
                after = [answer for answer in load.answers if answer.began > time.monotonic() - 0.3]
                assert {answer.version for answer in after} <= {target}
                assert len(masters_of(server)) == 1  # the old one has ended
                by_version[target] = embeddings_of(server.endpoint, 0)
        assert_no_call_failed(load, fingerprints)
        assert {answer.version for answer in load.answers} == {"1", "2"}
        assert not load.rows_unlike(by_version)
        assert stop(server) == 0
        assert_nothing_left(tmp_path, before)


@pytest.mark.long
def test_sighup_reads_the_configurations_versions_again(directory, fingerprints, tmp_path):
    config = tmp_path / "server.yaml"
    config.write_text("model: {version: 1}\n")
    with server_in(tmp_path / "run", f"model.directory={directory}", config=config) as server:
        with Load(server.endpoint, threads=2, expected=None) as load:
            load.wait_for_good(4, time.monotonic(), 30)
            config.write_text("model: {versions: [1, 2], version: 2}\n")
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: any(answer.version == "2" for answer in load.answers), 60, "version 2 answers")
            assert len(masters_of(server)) == 2
            config.write_text("model: {version: 9}\n")  # not there: nothing changes
            server.process.send_signal(signal.SIGHUP)
            load.wait_for_good(5, time.monotonic(), 30)
        assert_no_call_failed(load, fingerprints)
        assert load.answers[-1].version == "2"
        server.process.send_signal(signal.SIGTERM)
        assert "version 9 is not exported" in server.said()
        assert stop(server) == 0


@pytest.mark.parametrize("damage", [pytest.param("bytes", marks=pytest.mark.long), "embedding"])
def test_a_bad_new_version_never_takes_traffic(directory, fingerprints, tmp_path, damage):
    """Damaged files are found before a start; a network that is not the exported one, by the golden picture."""
    versions = tmp_path / "versions"
    copy_version(directory / "1", versions, 1)
    bad = copy_version(directory / "2", versions, 2)
    golden = np.load(bad / "golden.npy")
    (bad / "golden.npy").unlink()
    np.save(bad / "golden.npy", np.roll(golden, 1))
    if damage == "embedding":
        import hashlib

        manifest = json.loads((bad / "manifest.json").read_text())
        manifest["golden"]["embedding"]["sha256"] = hashlib.sha256((bad / "golden.npy").read_bytes()).hexdigest()
        (bad / "manifest.json").write_text(json.dumps(manifest))
    with server_in(tmp_path / "run", f"model.directory={versions}", "model.version=1", ONE_SIZE) as server:
        with Load(server.endpoint, threads=2) as load:
            load.wait_for_good(4, time.monotonic(), 30)
            done = order(tmp_path / "run", "--switch-version", "2")
            assert done.returncode == {"bytes": 2, "embedding": 5}[damage], done.stderr
            assert len(done.stderr.splitlines()) == 1
            assert {"bytes": "damaged", "embedding": "golden picture"}[damage] in done.stderr
            load.wait_for_good(4, time.monotonic(), 30)
        assert_no_call_failed(load, fingerprints)
        assert {answer.version for answer in load.answers} == {"1"}
        assert len(masters_of(server)) == 1
        assert stop(server) == 0


def test_a_server_whose_only_version_is_wrong_does_not_start(directory, tmp_path):
    import hashlib

    versions = tmp_path / "versions"
    bad = copy_version(directory / "1", versions, 1)
    golden = np.load(bad / "golden.npy")
    (bad / "golden.npy").unlink()
    np.save(bad / "golden.npy", np.roll(golden, 1))
    manifest = json.loads((bad / "manifest.json").read_text())
    manifest["golden"]["embedding"]["sha256"] = hashlib.sha256((bad / "golden.npy").read_bytes()).hexdigest()
    (bad / "manifest.json").write_text(json.dumps(manifest))
    with server_in(tmp_path / "run", f"model.directory={versions}", ONE_SIZE) as server:
        assert stop(server) == 5
        assert not server.ready_line


def test_orders_to_no_server_end_with_4(tmp_path):
    done = order(tmp_path, "--status")
    assert done.returncode == 4 and str(tmp_path) in done.stderr and len(done.stderr.splitlines()) == 1
