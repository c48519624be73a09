"""The gates of the export: each is seen to refuse."""

import contextlib
import csv
import dataclasses
import hashlib
import http.server
import json
import resource
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from export import network
from export.checkpoint import (
    Checkpoint,
    expected_shapes,
    read_checkpoint,
    stand_in_weights,
    weights_digest,
    write_checkpoint,
)
from export.errors import SourceUnreachableError, UnusableInputError
from export.facts import fingerprint_of, model_facts, weights_kind
from export.fetch import fetch
from export.mindir import build_graph
from export.verify import whole_manifest
from metric_learn_client.contract.distance import relative_distance

REPOSITORY = Path(__file__).parents[3]
GOLDEN = REPOSITORY / "tests" / "golden"
EXTRAS = model_facts().expected_extras


@pytest.fixture(scope="module")
def weights():
    return stand_in_weights()


def save(path, values):
    ms.save_checkpoint([{"name": name, "data": ms.Tensor(value)} for name, value in values.items()], str(path))
    return path


def export(*arguments, **more):
    command = [sys.executable, "-m", "export", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, **more)


def test_the_network_has_the_published_checkpoints_parameters():
    with (GOLDEN / "checkpoint_parameters.csv").open() as file:
        rows = {row["name"]: tuple(map(int, row["shape"].split("x"))) for row in csv.DictReader(file)}
    assert expected_shapes() == rows


def test_the_stand_in_is_recognised_as_such(weights):
    facts = model_facts()
    assert weights_digest(weights) == facts.stand_in_weights_sha256
    assert weights_kind(facts, "0" * 64, weights_digest(weights)) == "stand-in"
    assert weights_kind(facts, facts.published_sha256, "1" * 64) == "published"
    assert weights_kind(facts, "0" * 64, "1" * 64) == "custom"


@pytest.mark.parametrize("wrong", [None, "eps", "a bias"])
def test_folding_the_batch_norms_changes_nothing(weights, monkeypatch, wrong):
    """Against MindSpore's own BatchNorm; and a wrong eps or one wrong bias would show."""
    facts = model_facts()
    given = Checkpoint(weights, (), "0" * 64)
    pixels = ms.Tensor(np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8))
    expected = build_graph(given, facts)(pixels).asnumpy()
    if wrong == "eps":
        monkeypatch.setattr(network, "BATCH_NORM_EPS", 1e-2)
    folded = network.fold_batch_norms(weights)
    assert len(folded) == 2 * 53 and all(value.dtype == np.float32 for value in folded.values())
    if wrong == "a bias":
        folded["layer4.2.conv3.bias"] = folded["layer4.2.conv3.bias"] * 1.01
    monkeypatch.setattr(network, "fold_batch_norms", lambda _: folded)
    actual = build_graph(given, facts, folded=True)(pixels).asnumpy()
    assert (relative_distance(actual, expected).max() < 2e-6) == (wrong is None)


def test_the_fingerprint_follows_the_weights():
    facts = model_facts()
    assert fingerprint_of(facts, "a") == fingerprint_of(facts, "a") != fingerprint_of(facts, "b")


def test_a_checkpoint_comes_back_and_its_extras_are_listed(tmp_path, weights):
    extras = {"weight": np.zeros((2, 2), np.float32), "moments.conv1.weight": np.zeros(3, np.float32)}
    read = read_checkpoint(save(tmp_path / "c.ckpt", {**weights, **extras}), EXTRAS)
    assert read.skipped == ("moments.conv1.weight", "weight")
    assert weights_digest(read.weights) == weights_digest(weights)


@pytest.mark.parametrize("kind", ["missing", "shape", "dtype", "nan"])
def test_a_parameter_that_does_not_fit_is_named(tmp_path, weights, kind):
    values = dict(weights)
    name = "layer3.2.bn1.gamma"
    if kind == "missing":
        del values[name]
    elif kind == "shape":
        values[name] = values[name][:-1]
    elif kind == "dtype":
        values[name] = values[name].astype(np.float16)
    else:
        values[name] = np.full_like(values[name], np.nan)
    with pytest.raises(UnusableInputError, match=name):
        read_checkpoint(save(tmp_path / "c.ckpt", values), EXTRAS)


def test_a_negative_variance_is_refused(tmp_path, weights):
    name = "layer3.2.bn1.moving_variance"
    values = {**weights, name: weights[name] - 10}
    with pytest.raises(UnusableInputError, match=f"parameter {name} holds a negative value"):
        read_checkpoint(save(tmp_path / "c.ckpt", values), EXTRAS)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_digest_as_windows_writes_it_is_read(tmp_path, weights, encoding):
    path = tmp_path / "c.ckpt"
    write_checkpoint(weights, path)
    sidecar = tmp_path / "c.ckpt.sha256"
    sidecar.write_text(sidecar.read_text().upper(), encoding=encoding)
    assert read_checkpoint(path, EXTRAS).sha256
    sidecar.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UnusableInputError, match=r"c\.ckpt\.sha256 says"):
        read_checkpoint(path, EXTRAS)


def test_an_unknown_parameter_stops_it_unless_allowed(tmp_path, weights):
    path = save(tmp_path / "c.ckpt", {**weights, "surprise": np.zeros(1, np.float32)})
    with pytest.raises(UnusableInputError, match="surprise"):
        read_checkpoint(path, EXTRAS)
    assert read_checkpoint(path, EXTRAS, allow_extras=True).skipped == ("surprise",)


def test_one_flipped_byte_of_a_checkpoint_is_caught(tmp_path, weights):
    path = tmp_path / "c.ckpt"
    write_checkpoint(weights, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnusableInputError, match="damaged"):
        read_checkpoint(path, EXTRAS)


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "junk.ckpt").write_bytes(b"not a checkpoint" * 100)
    for given in (tmp_path, tmp_path / "nothing.ckpt", tmp_path / "junk.ckpt"):
        done = export("convert", "--checkpoint", given, "--version", 1, "--directory", tmp_path / "out")
        assert done.returncode == 2, done.stderr
        assert str(given) in done.stderr
        assert not (tmp_path / "out").exists()


def test_a_version_without_manifest_is_refused(tmp_path):
    with pytest.raises(UnusableInputError, match="convert"):
        whole_manifest(tmp_path / "1")


LISTED = {"file": "x", "sha256": hashlib.sha256(b"").hexdigest()}
WHOLE = {"mindir": [LISTED], "probe": LISTED, "golden": {}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"cut', "not JSON"),
        ("[]", "not a manifest"),
        (json.dumps({"probe": LISTED, "golden": {}}), "it has no 'mindir'"),
        (json.dumps({**WHOLE, "mindir": 3}), "it is not as `convert` writes it"),
        (json.dumps({**WHOLE, "probe": {**LISTED, "file": "../x"}}), "file '../x' is not beside it"),
    ],
    ids=["cut", "a list", "no mindir", "no list", "elsewhere"],
)
def test_a_broken_manifest_is_refused_with_the_remedy(tmp_path, content, says):
    (tmp_path / "manifest.json").write_text(content)
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(UnusableInputError) as caught:
        whole_manifest(tmp_path)
    assert f"{tmp_path / 'manifest.json'}: {says}" in str(caught.value) and "with --force" in str(caught.value)


def test_a_golden_set_that_no_folder_can_be_made_for_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file" / "golden", tmp_path / "file"):
        done = export("golden", tmp_path / "file", "--checkpoint", tmp_path / "none.ckpt", "--output", output)
        assert done.returncode == 2 and f"{tmp_path / 'file'}" in done.stderr and "none.ckpt" not in done.stderr


def test_the_golden_picture_is_one_that_the_zoo_preprocessed():
    """configs/golden is a picture of the golden data, with the zoo's own pixels."""
    facts = model_facts()
    reference = np.load(GOLDEN / "reference.npz")
    index = [str(name) for name in reference["names"]].index("coffee_exif6.jpg")
    assert facts.golden_image.read_bytes() == (GOLDEN / "images" / "coffee_exif6.jpg").read_bytes()
    with Image.open(facts.golden_pixels) as picture:
        assert np.array_equal(np.asarray(picture)[:, :, ::-1], reference["pixels_bgr_u8"][index])


def test_the_checkpoints_of_the_softmax_and_quadruplet_variants_are_read(tmp_path, weights):
    """Same backbone; softmax training leaves its head, both leave the optimizer's state, some of it not float32."""
    moments = {f"moments.{name}": np.zeros_like(value) for name, value in weights.items() if "moving" not in name}
    state = {"learning_rate": np.float32(0.1), "global_step": np.int32([7]), "momentum": np.float32(0.9)}
    head = {"weight": np.zeros((5184, 16), np.float32), "bias": np.zeros(5184, np.float32)}
    for extras in ({**head, **moments, **state}, {**moments, **state}, head):
        read = read_checkpoint(save(tmp_path / "c.ckpt", {**weights, **extras}), EXTRAS)
        assert set(read.skipped) == set(extras)
        assert weights_digest(read.weights) == weights_digest(weights)


def test_an_unreachable_host_is_one_line_with_the_way_by_hand_and_exit_code_4(tmp_path):
    output = tmp_path / "c.ckpt"
    done = export("fetch", "--url", "http://127.0.0.1:1/c.ckpt", "--output", output)
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1 and f"place it at {output}" in done.stderr


def test_a_download_with_another_digest_is_refused_and_nothing_stays(tmp_path):
    source = tmp_path / "source.ckpt"
    source.write_bytes(b"something else")
    output = tmp_path / "out" / "c.ckpt"
    done = export("fetch", "--url", source.as_uri(), "--output", output)
    assert done.returncode == 2, done.stderr
    assert "sha256" in done.stderr
    assert list(output.parent.iterdir()) == []


class _CutOff(http.server.BaseHTTPRequestHandler):
    """Serves `content`, but ends the connection after `most` bytes of each answer. Notes the ranges asked for."""

    content, most, ranges = b"", 0, []

    def do_GET(self):
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked[len("bytes=") : -1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : start + self.most])

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(content, most):
    handler: Any = type("Handler", (_CutOff,), {"content": content, "most": most, "ranges": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/c.ckpt", handler.ranges
        server.shutdown()
        thread.join()


def published(content):
    return dataclasses.replace(model_facts(), published_sha256=hashlib.sha256(content).hexdigest())


def test_a_download_that_is_cut_off_goes_on_where_it_ended(tmp_path):
    content = np.random.default_rng(0).bytes(300_000)
    output = tmp_path / "c.ckpt"
    with serving(content, 120_000) as (url, ranges):
        for have in (120_000, 240_000):
            with pytest.raises(SourceUnreachableError, match=f"{have} of 300000 bytes; fetch again: it resumes"):
                fetch(published(content), output, url)
            assert not output.exists()
        fetch(published(content), output, url)
    assert output.read_bytes() == content
    assert ranges == [None, "bytes=120000-", "bytes=240000-"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.ckpt", "c.ckpt.sha256"]


def test_a_download_that_stalls_is_no_full_disk_and_goes_on_another_time(tmp_path, monkeypatch):
    monkeypatch.setattr("export.fetch.TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:

        def stall():
            for sent in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nstart"):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(sent)
                    refused.acquire(timeout=10)

        refused = threading.Semaphore(0)
        stalled = thread.submit(stall)
        for _ in range(2):  # before the answer, and in the middle of it
            with pytest.raises(SourceUnreachableError, match="timed out"):
                fetch(published(b""), tmp_path / "c.ckpt", f"http://127.0.0.1:{server.getsockname()[1]}/c.ckpt")
            refused.release()
        stalled.result(20)
    assert (tmp_path / "c.ckpt.partial").exists()


def test_an_url_that_is_none_is_one_line_and_exit_code_2(tmp_path):
    done = export("fetch", "--url", "example.com/c.ckpt", "--output", tmp_path / "c.ckpt")
    assert done.returncode == 2 and "example.com/c.ckpt" in done.stderr and len(done.stderr.splitlines()) == 1


def no_large_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


def test_no_space_for_a_download_is_one_line_with_the_remedy(tmp_path):
    source = tmp_path / "source.ckpt"
    source.write_bytes(bytes(2_000_000))
    done = export("fetch", "--url", source.as_uri(), "--output", tmp_path / "c.ckpt", preexec_fn=no_large_files)
    assert done.returncode == 1
    assert "free space" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


@pytest.mark.parametrize("what", ["version", "checkpoint"])
def test_no_space_leaves_nothing_that_is_not_whole(tmp_path, weights, what):
    checkpoint, folder = tmp_path / "c.ckpt", tmp_path / "out"
    write_checkpoint(weights, checkpoint)
    convert = ("convert", "--checkpoint", checkpoint, "--version", 1, "--directory", folder)
    command = convert if what == "version" else ("stand-in", "--output", folder / "c.ckpt")
    done = export(*command, preexec_fn=no_large_files)
    assert done.returncode == 1, done.stderr
    assert "free space" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert list(folder.iterdir()) == []
