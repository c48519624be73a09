"""Outages are waited for, one bad image is found among good ones, and the clock decides when it is enough."""

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from metric_learn_client.errors import (
    AuthenticationError,
    DeadlineError,
    IdentityError,
    ImageFailure,
    OverloadedError,
    RejectedError,
    ServerError,
    UnreachableError,
    from_status,
)
from metric_learn_client.jobs.errors import OutageError, RefusedError, RowError, Stopped
from metric_learn_client.jobs.work.sender import Patience, Sender
from tests.clock import Clock


@dataclass
class Result:
    embeddings: np.ndarray
    errors: tuple = ()
    fingerprint: str = "f"


@dataclass
class Service:
    """Answers by its script: an exception to raise, or None to embed; then embeds. poison: images that end a call."""

    script: list = field(default_factory=list)
    poison: frozenset = frozenset()
    error: Exception = ServerError("it broke", "INTERNAL")
    calls: list = field(default_factory=list)

    def embed(self, images, on_error):
        assert on_error == "return"
        self.calls.append(len(images))
        if self.script and (raised := self.script.pop(0)) is not None:
            raise raised
        if self.poison & set(images):
            raise self.error
        rows = np.array([[float(image)] * 2048 for image in images], np.float32)
        failed = tuple(
            ImageFailure(index, "E_INTERNAL", "broken") for index, image in enumerate(images) if image == b"99"
        )
        return Result(rows, failed)


class Waits(Clock):
    """Time passes by waiting alone."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds
        return False

    def is_set(self):
        return False


def sender(service, max_outage_s=100.0):
    clock = Waits()
    patience = Patience(max_outage_s, clock, clock=clock)
    return Sender(service, patience, "f"), clock


def images(*numbers):
    return [str(number).encode() for number in numbers]


def test_rows_and_failures_keep_their_places():
    send, _ = sender(Service())
    sent = send.send([RowError("E_READ", "no"), *images(1, 2), RowError("E_NOT_FOUND", "gone")])
    assert list(sent.succeeded) == [1, 2]
    assert sent.embeddings[:, 0].tolist() == [1.0, 2.0]
    assert sent.failures == [(0, "E_READ", "no"), (3, "E_NOT_FOUND", "gone")]


def test_nothing_is_sent_where_no_row_has_an_image():
    service = Service()
    sent = sender(service)[0].send([RowError("E_READ", "no")])
    assert service.calls == [] and len(sent.succeeded) == 0 and len(sent.failures) == 1


@pytest.mark.parametrize("error", [UnreachableError("a", "UNAVAILABLE"), OverloadedError("b", "RESOURCE_EXHAUSTED")])
def test_an_outage_is_waited_for_longer_each_time(error):
    service = Service(script=[error] * 8)
    send, clock = sender(service)
    assert len(send.send(images(1, 2, 3)).succeeded) == 3
    assert service.calls == [3] * 9  # the same call, never halved: nobody is to blame
    assert len(clock.waits) == 8 and clock.waits[7] > 4 * clock.waits[0] and max(clock.waits) <= 10.0


def test_an_outage_beyond_the_limit_is_an_error_with_the_figure():
    service = Service(script=[UnreachableError("nothing serves at x", "UNAVAILABLE")] * 1000)
    send, clock = sender(service, max_outage_s=30.0)
    with pytest.raises(OutageError, match=r"no call worked for 30 s \(--max-outage-s 30\): nothing serves at x"):
        send.send(images(1))
    assert clock.now == pytest.approx(30.0, abs=1e-6)


@pytest.mark.parametrize("error", [ServerError("it broke", "INTERNAL"), DeadlineError("late", "DEADLINE_EXCEEDED")])
def test_an_image_that_ends_every_call_fails_alone_and_the_others_do_not(error):
    service = Service(poison=frozenset(images(5)), error=error)
    send, _ = sender(service)
    send.send(images(100))
    sent = send.send(images(*range(8)))
    assert [row for row, _, _ in sent.failures] == [5] and sent.failures[0][1] == "E_CALL"
    assert list(sent.succeeded) == [0, 1, 2, 3, 4, 6, 7]


def test_a_server_that_always_breaks_is_an_outage_and_no_failure_of_images():
    service = Service(script=[ServerError("it broke", "INTERNAL")] * 10_000)
    send, _ = sender(service, max_outage_s=30.0)
    with pytest.raises(OutageError):
        send.send(images(1, 2, 3))


def test_a_call_that_is_refused_for_one_image_is_halved_and_a_wrong_token_is_not():
    refused = RejectedError("no", "INVALID_ARGUMENT", "the image is odd")
    send, _ = sender(Service(poison=frozenset(images(1)), error=refused))
    assert send.send(images(0, 1, 2, 3)).failures == [(1, "E_REJECTED", "the image is odd")]
    send, _ = sender(Service(script=[from_status("UNAUTHENTICATED", "no", "x:1", 1.0)]))
    with pytest.raises(RejectedError):
        send.send(images(0))


def test_a_certificate_that_is_not_taken_any_more_ends_the_job_and_fails_no_image():
    refused = from_status("UNAVAILABLE", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", "x:1", 1.0)
    service = Service()
    send, clock = sender(service)
    send.send(images(1))
    service.script = [refused]
    with pytest.raises(AuthenticationError, match="no TLS connection to x:1"):
        send.send(images(2, 3))
    assert service.calls == [1, 2] and not clock.waits


def test_an_internal_error_of_one_image_is_tried_again_before_it_counts():
    service = Service()
    sent = sender(service)[0].send(images(1, 99, 2))
    assert [row for row, _, _ in sent.failures] == [1] and service.calls == [3, 1, 1]


def test_another_model_ends_the_job():
    send, _ = sender(Service(script=[IdentityError("now beef")]))
    with pytest.raises(RefusedError, match="now beef; this job's model is f"):
        send.send(images(1))


def test_a_run_that_ends_stops_waiting_at_once():
    stop = threading.Event()
    service = Service(script=[UnreachableError("a", "UNAVAILABLE")] * 100)
    send = Sender(service, Patience(100.0, stop), "f")
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Stopped):
        send.send(images(1))
