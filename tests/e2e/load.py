"""Steady calls from several threads, each answer judged: right, retryable, or a failure. Raw gRPC, no retries."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Optional

import grpc
import numpy as np

from metric_learn_client import wire
from tests.patience import patient

from .conftest import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "golden"
REFERENCE = np.load(GOLDEN / "reference.npz")
EXPECTED = REFERENCE["embeddings_f32"]
IMAGES = [(GOLDEN / "images" / str(name)).read_bytes() for name in REFERENCE["names"]]
# What a client sends again: the server is away, starting again, or full.
RETRYABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
]


def request_of(indices, version=0):
    request = wire.PredictRequest()
    request.servable_spec.name = wire.SERVABLE_NAME
    request.servable_spec.method_name = wire.METHOD_EMBED
    request.servable_spec.version_number = version
    for index in indices:
        tensor = request.instances.add().items[wire.ITEM_IMAGE]
        tensor.dtype = wire.DataType.MS_BYTES
        tensor.shape.dims.append(1)
        tensor.bytes_val.append(IMAGES[index])
    return request


def predict_on(channel):
    return channel.unary_unary(
        wire.PREDICT_PATH,
        request_serializer=wire.PredictRequest.SerializeToString,
        response_deserializer=wire.PredictReply.FromString,
    )


def wrong_rows(reply, indices, expected):
    """Positions of a reply that do not hold the reference embedding of their own image."""
    if len(reply.instances) != len(indices) or any(error.error_code for error in reply.error_msg):
        return list(range(len(indices)))
    if expected is None:
        return []
    rows = zip(rows_of(reply), indices)
    return [position for position, (row, index) in enumerate(rows) if distance(row, expected[index]) > 1e-4]


def rows_of(reply):
    return [np.frombuffer(instance.items[wire.ITEM_EMBEDDING].data, np.float32) for instance in reply.instances]


def distance(row, expected):
    return float(np.linalg.norm(row - expected)) if row.shape == expected.shape else float("inf")


@dataclass
class Answer:
    """began and ended: time.monotonic(). status None: answered right. fingerprint and version: trailing metadata."""

    began: float
    ended: float
    status: object
    problem: str
    version: str = ""
    fingerprint: str = ""
    retry_after_ms: str = ""
    rows: tuple = ()  # (image, embedding) pairs, where they are judged later


@dataclass
class Load:
    """`with Load(endpoint) as load:` sends until the end of the block. Every call is answered once, or counted open."""

    endpoint: str
    threads: int = 4
    images: int = 1
    deadline_s: float = 60.0
    version: int = 0
    pause_s: float = 0.0
    expected: Optional[np.ndarray] = field(default_factory=lambda: EXPECTED)  # None: rows are kept, to be judged later
    answers: list = field(default_factory=list)

    def __enter__(self):
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.sent = 0
        self._threads = [threading.Thread(target=self._send, args=(seed,)) for seed in range(self.threads)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join(self.deadline_s + 10)
        assert not any(thread.is_alive() for thread in self._threads), "a call outlived its deadline"

    def _send(self, seed):
        random = np.random.default_rng(seed)
        with grpc.insecure_channel(self.endpoint, options=OPTIONS) as channel:
            predict = predict_on(channel)
            while not self._stop.is_set():
                indices = random.integers(0, len(IMAGES), self.images).tolist()
                with self._lock:
                    self.sent += 1
                answer = self._call(predict, indices)
                with self._lock:
                    self.answers.append(answer)
                self._stop.wait(self.pause_s if answer.status is None else max(self.pause_s, 0.1))

    def _call(self, predict, indices):
        began = time.monotonic()
        try:
            reply, call = predict.with_call(request_of(indices, self.version), timeout=self.deadline_s)
        except grpc.RpcError as error:
            metadata = dict(error.trailing_metadata() or ())
            retry = metadata.get(wire.METADATA_RETRY_AFTER_MS, "")
            return Answer(began, time.monotonic(), error.code(), error.details(), retry_after_ms=retry)
        wrong = wrong_rows(reply, indices, self.expected)
        metadata = dict(call.trailing_metadata())
        return Answer(
            began,
            time.monotonic(),
            "WRONG" if wrong else None,
            str(reply.error_msg)[:200] if wrong else "",
            metadata.get(wire.METADATA_VERSION, ""),
            metadata.get(wire.METADATA_FINGERPRINT, ""),
            rows=tuple(zip(indices, rows_of(reply))) if self.expected is None else (),
        )

    def good(self, since=0.0):
        with self._lock:
            return sum(answer.status is None and answer.began >= since for answer in self.answers)

    def wait_for_good(self, count, since, timeout_s):
        """Seconds from `since` until `count` calls begun after it were answered right."""
        while self.good(since) < count:
            seconds = time.monotonic() - since
            assert seconds < patient(timeout_s), f"not {count} good answers {seconds:.0f} s later: {self.summary()}"
            time.sleep(0.05)
        return time.monotonic() - since

    def rows_unlike(self, expected_by_version):
        """Kept rows that are not what the version named in their answer gives."""
        return [
            (answer.version, index)
            for answer in self.answers
            for index, row in answer.rows
            if distance(row, expected_by_version[answer.version][index]) > 1e-4
        ]

    def failures(self):
        """Answers that are neither right nor retryable."""
        return [answer for answer in self.answers if answer.status is not None and answer.status not in RETRYABLE]

    def summary(self):
        return dict(Counter(str(answer.status) for answer in self.answers))
