"""10,000 seeded random bodies through the gateway: each gets a status, and a good call in between succeeds."""

import random
from collections import Counter, deque

import grpc
import numpy as np

from tests.integration.servable.gateway.fake_serving import embedding_of
from tests.integration.servable.gateway.harness import Harness, predict, predict_future, request, rows

COUNT, IN_FLIGHT = 10_000, 100


def bodies(chance):
    good = [
        request(bytes(range(150)), b"ghi").SerializeToString(),
        request(b"x", version=1).SerializeToString(),
        request().SerializeToString() + b"\x12\x00",
    ]
    while True:
        kind = chance.randrange(6)
        body = bytearray(chance.choice(good))
        if kind == 0:
            yield chance.randbytes(chance.randint(0, 120))
            continue
        for _ in range(chance.randint(1, 4)):
            where = chance.randrange(len(body))
            if kind == 1:
                del body[where : where + chance.randint(1, 5)]
                body = body or bytearray(1)
            elif kind == 2:
                body[where:where] = chance.randbytes(chance.randint(1, 6))
            elif kind == 3:
                body[where:where] = body[where : where + chance.randint(1, 40)]
            else:
                body[where] = chance.randrange(256)
        yield bytes(body)


def test_10000_random_bodies_each_get_a_status_and_nothing_stays_in_flight(tmp_path):
    codes = Counter()

    def settle(future):
        codes[future.code() if future.exception(10) is not None else grpc.StatusCode.OK] += 1

    with Harness(tmp_path) as harness, harness.channel() as channel:
        pending = deque()
        for number, body in zip(range(COUNT), bodies(random.Random(20261124))):
            pending.append(predict_future(channel, body))
            if len(pending) > IN_FLIGHT:
                settle(pending.popleft())
            if number % 1000 == 0:
                reply, _ = predict(channel, request(b"good"))
                assert np.array_equal(rows(reply), [embedding_of(b"good")])
        for future in pending:
            settle(future)
        admission = harness.gateway._admission
        assert (admission.calls, admission.images, admission.bytes) == (0, 0, 0)
        assert not harness.unhealthy
    assert sum(codes.values()) == COUNT
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}, codes
    assert codes[grpc.StatusCode.OK] > 500  # payload bytes may be anything
