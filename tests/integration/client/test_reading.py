"""Files that do not answer: a pipe without a writer, a mount that hangs. The deadline holds for reading, too."""

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from metric_learn_client import DeadlineError
from metric_learn_client.preprocess import PREPROCESSING_ID
from metric_learn_client.testing import FakeServable, fake_embeddings

from .commands import run


class Hanging:
    """A file whose read never returns, as on a mount whose server is gone; `release` lets its thread end."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.release = threading.Event()

    def read(self, _size):
        self.begun.release()
        self.release.wait(60)
        return b""


@pytest.fixture
def hanging():
    file = Hanging()
    yield file
    file.release.set()


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    return tmp_path / "pipe.jpg"


@pytest.fixture
def client(make_client, fake):
    with make_client(fake.endpoint, deadline_s=1.0) as made:
        yield made


def test_a_named_pipe_is_an_unreadable_image_and_its_neighbours_are_embedded(client, pipe):
    result = client.embed([b"a", pipe, b"b"], on_error="return")
    assert [(error.index, error.code) for error in result.errors] == [(1, "E_READ")]
    assert result.errors[0].message == f"{pipe}: it is not a regular file"
    assert (result.embeddings[[0, 2]] == fake_embeddings([b"a", b"b"])).all()


def test_embed_ends_at_its_deadline_while_a_file_hangs_and_names_the_image(client, hanging):
    started = time.monotonic()
    with pytest.raises(DeadlineError, match=r"deadline_s=0.5 was over while image 41 \(Hanging\) was read"):
        client.embed([*[b"a"] * 41, hanging, b"b"], deadline_s=0.5)
    assert time.monotonic() - started < 5


def test_a_stream_ends_at_its_deadline_while_a_file_hangs(client, hanging):
    with pytest.raises(DeadlineError, match="image 1"):
        list(client.embed_iter([b"a", hanging]))


def test_a_client_works_on_after_files_that_hang(make_client, fake, hanging):
    with make_client(fake.endpoint, deadline_s=20) as client:
        for _ in range(5):  # more than the asynchronous one has threads to read with
            with pytest.raises(DeadlineError):
                client.embed([hanging], deadline_s=0.1)
        assert client.embed([b"a", bytearray(b"b")]).ok.all()


def test_a_call_whose_picture_is_resized_here_ends_in_time_while_other_calls_read_files_that_hang(make_client, hanging):
    """The asynchronous client decodes in the threads that it reads with; the blocking one in the caller's own."""
    picture = cv2.imencode(".png", np.zeros((300, 300, 3), np.uint8))[1].tobytes()

    def read(used):
        with pytest.raises(DeadlineError, match="was read"):
            used.embed([hanging], deadline_s=3.0)

    with FakeServable() as server, ThreadPoolExecutor(4) as callers:
        server.preprocessing = PREPROCESSING_ID
        with make_client(server.endpoint, resize="server-exact") as client:
            client.embed([picture])
            reading = [callers.submit(read, client) for _ in range(4)]  # as many as there are threads to read with
            for _ in reading:
                assert hanging.begun.acquire(timeout=10)
            started = time.monotonic()
            with contextlib.suppress(DeadlineError):
                client.embed([picture], deadline_s=0.5)
            assert time.monotonic() - started < 2
            for each in reading:
                each.result(20)
            assert client.embed([picture]).ok.all()


def test_the_command_names_a_pipe_and_goes_on(fake, pipe):
    (pipe.parent / "good.jpg").write_bytes(b"good")
    done = run("embed", "--endpoint", fake.endpoint, pipe, pipe.parent / "good.jpg", "--output", pipe.parent / "x.npy")
    assert done.returncode == 3 and f"{pipe}: E_READ: it is not a regular file" in done.stderr
