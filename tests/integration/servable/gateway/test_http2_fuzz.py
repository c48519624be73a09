"""Frames of any kind in any order, also damaged and cut anywhere, on the gRPC port, and a good caller beside them.

The server logs no error, ends whatever it does not take, serves the good caller, and keeps nothing.
"""

import contextlib
import logging
import random
import struct

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.integration.servable.gateway.harness import until
from tests.integration.servable.gateway.http2_peer import (
    CONTINUATION,
    END_HEADERS,
    FIRST_WINDOW,
    FRAME_BYTES,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    TABLE_SIZE,
    WITH_PRIORITY,
    Peer,
    Served,
    data,
    frame,
    message,
    reset,
    window,
)
from tests.integration.servable.gateway.http2_peer import settings as settings_frame

PATHS = ["/t/Echo", "/t/Big", "/t/Double", "/t/Count", "/t/Hold", "/t/Wait", "/t/Meta", "/t/No"]
BODIES = [b"", b"3", b"70000", b"x" * 300]
STREAMS = st.sampled_from([1, 3, 5, 7, 9, 11, 13, 15, 17, 101])
ANY_STREAM = st.one_of(STREAMS, st.sampled_from([0, 2, 2**31 - 1]))
NUMBERS = st.sampled_from([0, 1, 2, 5, 16_384, 65_535, 2**31 - 1])

good = st.one_of(
    st.tuples(st.just("head"), STREAMS, st.sampled_from(PATHS), st.booleans()),
    st.tuples(st.just("body"), STREAMS, st.sampled_from(BODIES), st.booleans()),
    st.tuples(st.just("body"), STREAMS, st.sampled_from(BODIES), st.booleans()),
    st.tuples(st.just("padded"), STREAMS, st.sampled_from(BODIES), st.integers(0, 255)),
    st.tuples(st.just("piece"), STREAMS, st.binary(max_size=20), st.booleans()),
    st.tuples(st.just("window"), ANY_STREAM, NUMBERS),
    st.tuples(st.just("reset"), STREAMS),
    st.tuples(st.just("ping"), st.booleans()),
    st.tuples(
        st.just("settings"),
        st.dictionaries(st.sampled_from([TABLE_SIZE, 2, 3, FIRST_WINDOW, FRAME_BYTES, 6, 99]), NUMBERS, max_size=3),
    ),
    st.tuples(st.just("continued"), STREAMS, st.sampled_from(PATHS), st.integers(1, 40)),
)
wild = st.one_of(
    good,
    st.tuples(st.just("frame"), st.integers(0, 12), st.integers(0, 255), ANY_STREAM, st.binary(max_size=64)),
    st.tuples(st.just("bytes"), st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("block"), STREAMS, st.binary(max_size=40)),
    st.tuples(st.just("raw head"), STREAMS, st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=4)),
)


def written(peer, step):
    kind, *values = step
    if kind == "head":
        stream, path, ends = values
        return peer.head(stream, path, ("x", path), ends=ends)
    if kind == "body":
        stream, body, ends = values
        return b"".join(
            data(stream, message(body)[at : at + 16_384], ends=ends and at + 16_384 >= len(body) + 5)
            for at in range(0, len(body) + 5, 16_384)
        )
    if kind == "padded":
        return data(values[0], message(values[1]), padding=values[2])
    if kind == "piece":
        return data(values[0], values[1], ends=values[2])
    if kind == "window":
        return window(*values)
    if kind == "reset":
        return reset(*values)
    if kind == "ping":
        return frame(PING, int(values[0]), 0, b"12345678")
    if kind == "settings":
        return settings_frame(values[0])
    if kind == "continued":
        stream, path, size = values
        block = peer.block(path)
        pieces = [block[at : at + size] for at in range(0, len(block), size)]
        parts = [frame(HEADERS, 0, stream, pieces[0]), *(frame(CONTINUATION, 0, stream, each) for each in pieces[1:])]
        return b"".join(parts) + frame(CONTINUATION, END_HEADERS, stream)
    if kind == "frame":
        return frame(*values)
    if kind == "bytes":
        return values[0]
    if kind == "block":
        return frame(HEADERS, END_HEADERS, *values)
    pairs = [(name.encode("utf-8", "replace"), value.encode("utf-8", "replace")) for name, value in values[1]]
    return peer.head(values[0], raw=pairs)


class Arena:
    """One server for all examples; after each it must be as it was."""

    def __init__(self, served):
        self.served = served
        self.good = served.peer()
        self.stream = 1
        self.logged: list[str] = []
        self.log = logging.Handler(logging.ERROR)
        self.log.emit = lambda record: self.logged.append(self.log.format(record))

    def play(self, steps, cuts, *, ends, greets=True):
        served = self.served
        with served.socket() as connected:
            peer = Peer(connected, greets=False)
            said = (PREFACE + settings_frame() if greets else b"") + b"".join(written(peer, step) for step in steps)
            points = sorted({min(len(said), cut) for cut in cuts})
            with contextlib.suppress(OSError):
                for begin, end in zip([0, *points], [*points, len(said)]):
                    peer.send(said[begin:end])
                    self.answered()
                if ends == "reads":
                    connected.settimeout(0.02)
                    with contextlib.suppress(EOFError, TimeoutError):
                        while True:
                            peer.read()
        self.rest()

    def rest(self):
        served = self.served
        self.answered()
        until(lambda: len(served.connections) == 1, "the end of the connection")
        until(lambda: served.handlers.begun == served.handlers.ended, "the end of its calls")
        until(lambda: all(context() is None for context in served.handlers.contexts), "nothing that is left")
        served.handlers.contexts.clear()
        until(lambda: not len(served.server.turns), "nobody in the line")
        assert not served.errors and not self.logged

    def answered(self):
        if self.stream > 2**20:
            self.good, self.stream = self.served.peer(), 1
        self.good.call(self.stream, "/t/Echo", b"good")
        assert self.good.reply(self.stream).messages == [b"good"]
        del self.good.replies[self.stream]
        self.good.seen.clear()
        self.stream += 2
        if self.stream % 1000 == 1:
            self.good.send(window(0, 20_000))


@pytest.fixture(scope="module")
def arena():
    with Served(max_request_bytes=100_000, max_image_bytes=1000, max_streams_per_connection=5) as served:
        arena = Arena(served)
        logging.getLogger().addHandler(arena.log)
        yield arena
        logging.getLogger().removeHandler(arena.log)


CUTS = st.lists(st.integers(0, 3000), max_size=3)
ENDS = st.sampled_from(["reads", "goes"])
QUIET = settings(
    max_examples=100,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@QUIET
@given(steps=st.lists(good, max_size=12), cuts=CUTS, ends=ENDS)
def test_frames_in_any_order_harm_nobody(arena, steps, cuts, ends):
    arena.play(steps, cuts, ends=ends)


@QUIET
@given(steps=st.lists(wild, max_size=12), cuts=CUTS, ends=ENDS, greets=st.sampled_from([True, True, True, False]))
def test_bytes_of_any_kind_harm_nobody(arena, steps, cuts, ends, greets):
    arena.play(steps, cuts, ends=ends, greets=greets)


def mutated(data_, rng):
    kind = rng.randrange(4)
    at = rng.randrange(len(data_) + 1)
    if kind == 0:
        return data_[:at] + bytes([rng.randrange(256)]) + data_[at + 1 :]
    if kind == 1:
        return data_[:at] + rng.randbytes(rng.randrange(1, 20)) + data_[at:]
    if kind == 2:
        return data_[:at] + data_[at + rng.randrange(1, 20) :]
    return data_[:at] + data_[max(0, at - rng.randrange(1, 40)) :]


def run_mutations(arena, seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        with arena.served.socket() as connected:
            peer = Peer(connected, greets=False)
            said = PREFACE + settings_frame({FIRST_WINDOW: rng.choice([0, 10, 65_535])})
            for stream in range(1, 2 * rng.randrange(1, 9), 2):
                body = message(rng.choice(BODIES))
                said += peer.head(stream, rng.choice(PATHS), ("k", "v"), ends=rng.random() < 0.2)
                said += data(stream, body[:16_384], ends=rng.random() < 0.7, padding=rng.choice([None, 0, 9]))
                said += rng.choice(
                    [b"", window(0, 100), window(stream, 5), reset(stream), frame(PRIORITY, 0, 3, bytes(5))]
                )
                said += rng.choice([b"", frame(GOAWAY, 0, 0, bytes(8)), frame(HEADERS, PADDED | WITH_PRIORITY, stream)])
            for _ in range(rng.randrange(3)):
                said = mutated(said, rng)
            with contextlib.suppress(OSError):
                while said:
                    size = rng.choice([1, 9, 100, len(said)])
                    connected.sendall(said[:size])
                    said = said[size:]
                    if rng.random() < 0.05:
                        arena.answered()
                connected.settimeout(0.01)
                with contextlib.suppress(EOFError, TimeoutError, struct.error, AssertionError):
                    while rng.random() < 0.9:
                        peer.read()
        arena.rest()


def test_damaged_calls_harm_nobody(arena):
    run_mutations(arena, 0, 100)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_thousands_of_damaged_calls_harm_nobody(arena, seed):
    run_mutations(arena, seed, 1000)


@pytest.mark.long
@settings(QUIET, max_examples=3000)
@given(steps=st.lists(wild, max_size=30), cuts=CUTS, ends=ENDS)
def test_thousands_of_frames_harm_nobody(arena, steps, cuts, ends):
    arena.play(steps, cuts, ends=ends)
