"""2,000 pictures of which 60 are bad in every way: each is one failure with its code, and can be repaired alone."""

import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

cv2 = pytest.importorskip("cv2")

from metric_learn_client.exit_codes import ExitCode  # noqa: E402
from metric_learn_client.jobs import verify  # noqa: E402
from metric_learn_client.preprocess import PREPROCESSING_ID, preprocess  # noqa: E402
from metric_learn_client.testing import fake_embeddings  # noqa: E402
from tests.integration.client.jobs.conftest import Job, data, until  # noqa: E402

COUNT = 2000


def jpeg(seed, width=48, height=40):
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(pixels, (width, height)))[1].tobytes()


def png_bomb():
    """A PNG header that claims 60,000 x 60,000 pixels."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def write(content):
    return lambda path: path.write_bytes(content)


def truncated(path):
    path.write_bytes(jpeg(1)[:-200])


def folder(path):
    path.mkdir()


def dangling(path):
    path.symlink_to("nothing")


def forbidden(path):
    path.write_bytes(jpeg(2))
    path.chmod(0)


BAD = {
    "empty": (write(b""), "E_EMPTY"),
    "truncated": (truncated, "E_DECODE"),
    "folder": (folder, "E_READ"),
    "forbidden": (forbidden, "E_PERMISSION"),
    "dangling": (dangling, "E_NOT_FOUND"),
    "link to itself": (lambda path: path.symlink_to(path.name), "E_READ"),
    "bomb": (write(png_bomb()), "E_TOO_LARGE"),
    "text": (write(b"this is no picture"), "E_UNSUPPORTED"),
    "gif": (write(b"GIF89a" + bytes(100)), "E_UNSUPPORTED"),
    "half a header": (write(b"\xff\xd8\xff\xe0\x00"), "E_DECODE"),
    "wrong bytes": (write(b"\xff\xd8\xff" + bytes(range(256)) * 8), "E_DECODE"),
    "pipe": (os.mkfifo, "E_READ"),
    "too thin": (write(cv2.imencode(".png", np.zeros((1, 5000, 3), np.uint8))[1].tobytes()), "E_TOO_LARGE"),
    "deleted": (write(jpeg(3)), "E_NOT_FOUND"),  # while the job runs
}

# A root user may read everything; the job must be one that may not.
UNPRIVILEGED = (
    ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps=-all") if os.geteuid() == 0 else ()
)


def test_each_of_sixty_bad_images_is_one_failure_and_five_repaired_ones_are_five_more_rows(tmp_path, fake):
    if UNPRIVILEGED and shutil.which("setpriv") is None:
        pytest.skip("the test is run by root and there is no setpriv to give that up")
    images = tmp_path / "in"
    images.mkdir()
    good = [jpeg(seed) for seed in range(20)]
    names = list(BAD)
    kinds = {COUNT // 60 * number + 1: names[number % len(BAD)] for number in range(60)}
    # Reading is ahead of sending by 16 batches of 32: only later files can be deleted before they are read.
    kinds = {index: "empty" if kind == "deleted" and index < 1000 else kind for index, kind in kinds.items()}
    assert len(kinds) == 60 and set(kinds.values()) == set(BAD)
    for index in range(COUNT):
        path = images / f"{index:05d}.jpg"
        if index in kinds:
            BAD[kinds[index]][0](path)
        else:
            path.write_bytes(good[index % 20])
    fake.preprocessing = PREPROCESSING_ID
    flags = ("--preprocess", "local", "--shard-size", 300)
    job = Job(images, tmp_path / "out", fake.endpoint, *flags)
    fake.faults.delay_s = 3.0  # nothing is answered, and so nothing more is read, while files are deleted
    process = job.start(prefix=UNPRIVILEGED)
    until(process, "started")
    for index, kind in kinds.items():
        if kind == "deleted":
            (images / f"{index:05d}.jpg").unlink()
    fake.faults.delay_s = 0.0
    _out, err = process.communicate(timeout=100)
    assert process.returncode == ExitCode.SOME_FAILED, err

    failures = pq.read_table(tmp_path / "out/failures", partitioning=None).to_pylist()
    found = {int(os.path.basename(each["image_path"])[:5]): each["code"] for each in failures}
    assert len(failures) == len(found)
    assert found == {index: BAD[kind][1] for index, kind in kinds.items()}
    assert verify(tmp_path / "out").problems == ()

    repaired = [index for index, kind in kinds.items() if kind in ("truncated", "text")][:5]
    for index in repaired:
        (images / f"{index:05d}.jpg").write_bytes(jpeg(100 + index))
    assert len(repaired) == 5
    before = data(tmp_path / "out")
    sent = fake.images
    code, events, err = job.run("--retry-failed", prefix=UNPRIVILEGED)
    assert code == ExitCode.SOME_FAILED, err
    assert events[-1]["failed"] == len(kinds) - len(repaired)
    assert fake.images - sent == len(repaired)
    metadata = pq.read_table(tmp_path / "out/metadata", partitioning=None)
    assert metadata.num_rows == COUNT - len(kinds) + len(repaired)
    rows = metadata["row"].to_pylist()
    assert rows == sorted(rows)
    embeddings = np.concatenate([np.load(path) for path in sorted((tmp_path / "out/img_emb").iterdir())])
    for index in repaired:
        expected = fake_embeddings([preprocess(jpeg(100 + index))])[0]
        np.testing.assert_array_equal(embeddings[rows.index(index)], expected)
    assert verify(tmp_path / "out").problems == ()
    changed = {name for name, digest in data(tmp_path / "out").items() if before[name] != digest}
    shards = {f"{index // 300:05d}" for index in repaired}
    assert {name.rsplit(".", 1)[0][-5:] for name in changed} == shards


def test_pictures_prepared_in_a_sandbox_give_the_same_files_as_without(tmp_path, fake):
    images = tmp_path / "images"
    images.mkdir()
    for index in range(40):
        (images / f"{index:05d}.jpg").write_bytes(b"not a picture" if index == 17 else jpeg(index))
    fake.preprocessing = PREPROCESSING_ID
    outputs = []
    for name, flags in (("here", ()), ("sandbox", ("--sandbox",))):
        job = Job(images, tmp_path / name, fake.endpoint, "--preprocess", "local", *flags)
        assert job.run()[0] == ExitCode.SOME_FAILED
        (failure,) = pq.read_table(tmp_path / name / "failures", partitioning=None).to_pylist()
        assert failure["code"] == "E_UNSUPPORTED"
        outputs.append(np.load(tmp_path / name / "img_emb" / "img_emb_00000.npy"))
    np.testing.assert_array_equal(*outputs)


def test_a_sandbox_without_local_preprocessing_is_refused(tmp_path, fake):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(jpeg(1))
    code, _, err = Job(images, tmp_path / "out", fake.endpoint, "--sandbox").run()
    assert code == ExitCode.USAGE and "--sandbox" in err
