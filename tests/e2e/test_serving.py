"""Through the real server: MindSpore Serving, MindSpore Lite, the exported network."""

import re
import shutil
import signal
import subprocess
import time

import grpc
import numpy as np
import pytest

from metric_learn_client import EmbeddingClient, wire
from metric_learn_client.preprocess import preprocess
from tests.patience import patient

from .conftest import ONE_SIZE, REPOSITORY, start, stop
from .load import predict_on
from .processes import assert_nothing_left, running, segments, serving_in, tree_of

GOLDEN = REPOSITORY / "tests" / "golden"
REFERENCE = np.load(GOLDEN / "reference.npz")
IMAGES = [(GOLDEN / "images" / str(name)).read_bytes() for name in REFERENCE["names"]]


@pytest.fixture(scope="module")
def client(server):
    with EmbeddingClient(server.endpoint, deadline_s=120) as made:
        yield made


def distance(actual, expected):
    return np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)


def test_golden_pictures_give_the_reference_embeddings(client):
    embeddings = client.embed(IMAGES).embeddings
    assert distance(embeddings, REFERENCE["embeddings_f32"]).max() <= 1e-4
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_the_gate_sees_swapped_channels(client):
    """The comparison above can fail: pixels in RGB order are far off."""
    pixels = [preprocess(image)[:, :, ::-1].copy() for image in IMAGES[:4]]
    rows = client.embed_pixels(pixels).embeddings
    assert distance(rows, REFERENCE["embeddings_f32"][:4]).max() > 1e-2


def test_pixels_and_files_give_the_same_embeddings(client):
    rows = client.embed_pixels([preprocess(image) for image in IMAGES]).embeddings
    assert distance(rows, client.embed(IMAGES).embeddings).max() <= 1e-5


def test_a_picture_embeds_alike_alone_in_seven_and_in_forty(client):
    alone = client.embed([IMAGES[0]]).embeddings[0]
    for count in (7, 40):
        among = client.embed([IMAGES[index % len(IMAGES)] for index in range(count)]).embeddings
        for row in among[:: len(IMAGES)]:
            assert np.linalg.norm(row - alone) <= 1e-5


def test_one_corrupt_file_among_twenty_fails_alone(client):
    pictures = [IMAGES[index % len(IMAGES)] for index in range(20)]
    clean = client.embed(pictures).embeddings
    pictures[11] = pictures[0][:2000]
    result = client.embed(pictures, on_error="return")
    assert [(error.index, error.code) for error in result.errors] == [(11, "E_DECODE")]
    others = [index for index in range(20) if index != 11]
    assert np.isnan(result.embeddings[11]).all()
    assert np.abs(result.embeddings[others] - clean[others]).max() <= 1e-5


def test_all_corrupt_files_fail_each_with_its_code(client):
    result = client.embed([b"", b"nonsense", IMAGES[0][:500]] * 6, on_error="return")
    assert [error.code for error in result.errors] == ["E_EMPTY", "E_UNSUPPORTED", "E_DECODE"] * 6


def test_pixels_of_another_shape_are_refused(server):
    request = wire.PredictRequest()
    request.servable_spec.name, request.servable_spec.method_name = wire.SERVABLE_NAME, wire.METHOD_EMBED_PIXELS
    tensor = request.instances.add().items[wire.ITEM_PIXELS]
    tensor.dtype, tensor.data = wire.DataType.MS_UINT8, bytes(3 * 224 * 224)
    tensor.shape.dims.extend((3, 224, 224))
    with grpc.insecure_channel(server.endpoint) as channel:
        with pytest.raises(grpc.RpcError, match=r"INVALID_ARGUMENT.*pixels.*shape"):
            predict_on(channel)(request, timeout=60)


def test_the_command_writes_rows_in_the_order_given(server, tmp_path):
    command = str(REPOSITORY / ".venv" / "client" / "bin" / "metric-learn")
    output = tmp_path / "x.npy"
    names = [str(GOLDEN / "images" / str(name)) for name in REFERENCE["names"]]
    names.insert(3, str(tmp_path / "missing.jpg"))
    done = subprocess.run(
        [command, "embed", *names, "--endpoint", server.endpoint, "--output", str(output)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    assert "missing.jpg: E_READ" in done.stderr
    embeddings = np.load(output)
    assert embeddings.dtype == np.float32 and np.isnan(embeddings[3]).all()
    assert distance(np.delete(embeddings, 3, axis=0), REFERENCE["embeddings_f32"]).max() <= 1e-4


def test_the_stock_client_gets_the_same_embeddings(server, tmp_path):
    """mindspore_serving.client.Client from the wheel, in the export environment."""
    output = tmp_path / "stock.npy"
    script = (
        "import sys, numpy as np\n"
        "from mindspore_serving.client import Client\n"
        "client = Client(sys.argv[1], 'metric_learn', 'embed')\n"
        "result = client.infer([{'image': open(name, 'rb').read()} for name in sys.argv[3:]])\n"
        "np.save(sys.argv[2], np.stack([row['embedding'] for row in result]))\n"
    )
    names = [str(GOLDEN / "images" / str(name)) for name in REFERENCE["names"]]
    python = str(REPOSITORY / ".venv" / "export" / "bin" / "python")
    subprocess.run([python, "-c", script, server.endpoint, str(output), *names], check=True)
    assert distance(np.load(output), REFERENCE["embeddings_f32"]).max() <= 1e-4


def test_a_damaged_mindir_is_refused_before_anything_starts(versions, tmp_path):
    shutil.copytree(versions / "1", tmp_path / "versions" / "1")
    file = tmp_path / "versions" / "1" / "metric_learn_b4.mindir"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    server = start(tmp_path / "run", f"model.directory={tmp_path / 'versions'}")
    message = server.said()
    assert stop(server) == 2
    assert "metric_learn_b4.mindir" in message and "damaged" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_stopped_server_leaves_no_process_socket_or_segment(versions, tmp_path, number, code):
    before = segments()
    with serving_in(tmp_path, ONE_SIZE) as server:
        # 20 s on an idle machine
        assert float(re.search(r"after ([\d.]+) s", server.ready_line).group(1)) <= patient(40)
        children = tree_of(server)[1:]
        assert len(children) >= 2
        began = time.monotonic()
        assert stop(server, number) == code
        # Half a second. A worker that waits for a child of its own is killed by MindSpore Serving after 10 s.
        assert time.monotonic() - began < patient(8)
        assert not running(children)
        assert_nothing_left(tmp_path, before)


def test_an_unknown_method_is_rejected_by_name(server):
    request = wire.PredictRequest()
    request.servable_spec.name, request.servable_spec.method_name = "metric_learn", "nothing"
    request.instances.add().items["image"].bytes_val.append(b"x")
    with grpc.insecure_channel(server.endpoint) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(wire.PREDICT_PATH)(request.SerializeToString(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT and "method_name" in caught.value.details()
