"""The core without a socket: the test is the shell, with a clock of its own."""

import dataclasses
import threading

import grpc
import pytest

from metric_learn_client import errors, wire
from metric_learn_client._client.core.calling import Core, TooLargeError, call
from metric_learn_client._client.core.embedding import wait_ready
from metric_learn_client._client.core.pool import Pool
from metric_learn_client._client.core.retry import Budget, Remedy, hint_s, pause_s, remedy_of
from metric_learn_client._client.core.steps import Failure, Reply, Resolve, Send, Sleep, WaitForTicket
from metric_learn_client._client.core.window import CallWindow
from metric_learn_client._client.daemon_threads import Workers
from metric_learn_client.options import ClientOptions
from tests.clock import Clock


def core_of(*endpoints, **changes):
    options = {"deadline_s": 10.0, "retries": 3, **changes}
    core = Core(ClientOptions(endpoints, **options), now=Clock(1000.0))
    core.dice = lambda: 0.0
    return core


def drive(core, answers, deadline_s=10.0, images=1):
    """Runs one call; answers(send) says what a Send gets and may move the clock. Returns (value, steps)."""
    taken = []
    steps = call(core, "/path", b"body", core.deadline(deadline_s), lambda reply, target: reply.body, images)
    answer = None
    try:
        while True:
            step = steps.send(answer)
            taken.append(step)
            answer = None
            if isinstance(step, Send):
                answer = answers(step)
            elif isinstance(step, Sleep):
                core.now.now += step.seconds
            elif isinstance(step, Resolve):
                answer = ["10.0.0.1", "10.0.0.2"]
    except StopIteration as end:
        return end.value, taken


def failure(code, details="", **trailing):
    return Failure(code, details, {key.replace("_", "-"): value for key, value in trailing.items()})


GOOD = Reply(b"good", {})


def test_a_good_reply_takes_one_step_and_leaves_the_window_empty():
    core = core_of("a:1")
    core.pool.resolved("a:1", ())
    value, steps = drive(core, lambda send: GOOD)
    assert value == b"good" and [type(step) for step in steps] == [Resolve, Send]
    assert core.window._in_flight == 0


def test_attempts_never_exceed_what_is_left_of_the_deadline():
    core = core_of("127.0.0.1:1")
    timeouts = []

    def answers(send):
        timeouts.append(send.timeout_s)
        core.now.now += 2.0
        return failure("UNAVAILABLE")

    with pytest.raises(errors.UnreachableError):
        drive(core, answers, deadline_s=5.0)
    assert core.now.now <= 1005.0 + 2.0 and timeouts[0] == 5.0
    assert all(earlier > later_ for earlier, later_ in zip(timeouts, timeouts[1:]))


def test_pauses_double_and_never_fall_below_the_servers_hint():
    core = core_of("127.0.0.1:1", retries=5)
    sleeps = []

    def answers(_send):
        sleeps.append(core.now.now)
        return Failure("RESOURCE_EXHAUSTED", "", {wire.METADATA_RETRY_AFTER_MS: "700"})

    with pytest.raises(errors.OverloadedError):
        drive(core, answers)
    gaps = [later - earlier for earlier, later in zip(sleeps, sleeps[1:])]
    assert min(gaps) >= 0.7 and max(gaps) <= 2.1
    assert [pause_s(n, 0.0, lambda: 0.0) for n in (1, 2, 3, 6, 60)] == [0.1, 0.2, 0.4, 2.0, 2.0]
    assert pause_s(1, 0.0, lambda: 1.0) == 0.05
    assert hint_s({}) == hint_s({wire.METADATA_RETRY_AFTER_MS: "soon"}) == 0.0


def test_another_target_takes_over_at_once():
    core = core_of("127.0.0.1:1", "127.0.0.1:2")
    for _ in range(2):  # one of the two goes to the dead one first
        value, steps = drive(core, lambda send: GOOD if send.target.address[-1] == "2" else failure("UNAVAILABLE"))
        assert value == b"good" and not any(isinstance(step, Sleep) for step in steps)
    for _ in range(5):  # and the dead one is left out
        _, steps = drive(core, lambda send: GOOD)
        assert [step.target.address for step in steps] == ["127.0.0.1:2"]


def test_a_target_on_trial_gets_a_health_check_before_a_call():
    core = core_of("127.0.0.1:1", "127.0.0.1:2")
    dead = {"127.0.0.1:1"}
    paths = []

    def answers(send):
        paths.append((send.target.address[-1], send.path))
        if send.target.address in dead:
            return failure("UNAVAILABLE")
        serving = wire.HealthCheckResponse(status=wire.ServingStatus.SERVING).SerializeToString()
        return Reply(serving, {}) if send.path == wire.HEALTH_CHECK_PATH else GOOD

    while ("1", "/path") not in paths:
        drive(core, answers)
    paths.clear()
    core.now.now += 0.6
    for _ in range(2):
        drive(core, answers)
    assert ("1", wire.HEALTH_CHECK_PATH) in paths and ("1", "/path") not in paths
    dead.clear()
    paths.clear()
    core.now.now += 1.1
    for _ in range(4):
        drive(core, answers)
    assert paths.count(("1", wire.HEALTH_CHECK_PATH)) == 1 and ("1", "/path") in paths


def test_an_attempt_is_cut_short_only_where_another_target_could_take_over():
    pool = Pool(["127.0.0.1:1"])
    assert pool.attempt_s(9.0, 1, other=False) == 9.0
    assert pool.attempt_s(9.0, 1, other=True) == 3.0
    pool.answered(pool.targets[0], 0.001)  # a health check says nothing of how long embedding takes
    assert pool.attempt_s(9.0, 1, other=True) == 3.0
    pool.answered(pool.targets[0], 0.05, 1)
    assert pool.attempt_s(30.0, 1, other=True) == 2.0
    assert pool.attempt_s(30.0, 32, other=True) == pytest.approx(8 * 32 * 0.05)  # a batch is no single image
    pool.answered(pool.targets[0], 1.0, 32)
    assert pool.attempt_s(30.0, 1, other=True) == 8.0
    assert remedy_of("DEADLINE_EXCEEDED", "", over=False) is Remedy.ELSEWHERE
    assert remedy_of("DEADLINE_EXCEEDED", "", over=True) is Remedy.FATAL


@pytest.mark.parametrize("code", [code.name for code in grpc.StatusCode])
def test_every_status_says_whether_to_go_elsewhere_wait_or_give_up(code):
    expected = {
        "CANCELLED": Remedy.ELSEWHERE,
        "UNAVAILABLE": Remedy.ELSEWHERE,
        "DEADLINE_EXCEEDED": Remedy.ELSEWHERE,
    }
    expected |= {"RESOURCE_EXHAUSTED": Remedy.LATER, "ABORTED": Remedy.LATER}
    assert remedy_of(code, "", over=False) is expected.get(code, Remedy.FATAL)


def test_a_target_is_left_out_longer_with_every_failure_and_a_burst_counts_once():
    pool = Pool(["127.0.0.1:1", "127.0.0.1:2"])
    first = pool.targets[0]
    for _ in range(8):
        pool.failed(first, 0.0)
    assert not pool.has_other(0.4, pool.targets[1:]) and pool.has_other(0.5, pool.targets[1:])
    pool.failed(first, 0.5)
    assert not pool.has_other(1.4, pool.targets[1:]) and pool.has_other(1.5, pool.targets[1:])


def test_a_message_too_large_is_no_overload():
    core = core_of("127.0.0.1:1")
    with pytest.raises(TooLargeError):
        drive(core, lambda send: failure("RESOURCE_EXHAUSTED", "Sent message larger than max (9 vs. 4)"))
    assert core.window.size == 8


def test_a_message_without_images_cannot_be_made_smaller():
    with pytest.raises(errors.ServerError, match="413"):
        drive(core_of("127.0.0.1:1"), lambda send: failure("UNKNOWN", "http2 header with status: 413"), images=0)


def test_a_refused_certificate_is_said_at_once():
    core = core_of("127.0.0.1:1")
    sent = []

    def answers(send):
        sent.append(send)
        return failure("UNAVAILABLE", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED")

    with pytest.raises(errors.AuthenticationError, match="ca_file"):
        drive(core, answers)
    assert len(sent) == 1


def refuse(send):
    return failure("UNAVAILABLE", f"Ssl handshake failed at {send.target}: CERTIFICATE_VERIFY_FAILED")


def test_a_target_whose_certificate_is_refused_is_left_out_while_another_answers():
    core = core_of("127.0.0.1:1", "127.0.0.1:2")
    sent = []

    def answers(send):
        sent.append(send.target.address)
        return GOOD if send.target.address == "127.0.0.1:2" else refuse(send)

    for _ in range(6):
        assert drive(core, answers)[0] == b"good"
    assert sent.count("127.0.0.1:1") == 1


def test_certificates_that_are_refused_by_all_are_said_after_one_attempt_each_also_on_trial():
    core = core_of("127.0.0.1:1", "127.0.0.1:2")
    for path in ("/path", wire.HEALTH_CHECK_PATH):
        sent = []

        def answers(send, sent=sent):
            sent.append((send.target.address, send.path))
            return refuse(send)

        with pytest.raises(errors.AuthenticationError, match="ca_file"):
            drive(core, answers)
        assert sorted(sent) == [("127.0.0.1:1", path), ("127.0.0.1:2", path)]
        core.now.now += 0.6


def test_where_one_certificate_is_refused_and_the_other_target_is_down_the_call_is_unreachable():
    core = core_of("127.0.0.1:1", "127.0.0.1:2")
    for _ in range(2):
        with pytest.raises(errors.UnreachableError, match=r"nothing serves at 127.0.0.1:2: "):
            drive(core, lambda send: refuse(send) if send.target.address == "127.0.0.1:1" else failure("UNAVAILABLE"))


def test_every_attempt_of_a_call_has_one_request_id_and_every_call_its_own():
    core = core_of("127.0.0.1:1", token="secret")
    seen = []

    def answers(send):
        seen.append(dict(send.metadata))
        return GOOD if len(seen) % 2 == 0 else failure("ABORTED")

    drive(core, answers)
    drive(core, answers)
    ids = [each[wire.METADATA_REQUEST_ID] for each in seen]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert all(each[wire.METADATA_AUTHORIZATION] == "Bearer secret" for each in seen)


def test_retries_are_rationed_and_wait_for_their_ration():
    clock = Clock()
    budget = Budget(1, clock)
    waits = [budget.spend() for _ in range(30)]
    assert waits[:10] == [0.0] * 10 and waits[10] == pytest.approx(0.1) and waits[29] == pytest.approx(2.0)
    clock.now += 100
    assert budget.spend() == 0.0
    for _ in range(9):
        budget.spend()
    for _ in range(5):
        budget.answered()
    assert [budget.spend(), budget.spend()] == [0.0, pytest.approx(0.1)]


def test_an_abandoned_call_gives_its_place_back():
    core = core_of("127.0.0.1:1", max_in_flight=1)
    steps = call(core, "/path", b"", core.deadline(None), lambda reply, target: reply)
    assert isinstance(next(steps), Send)
    waiting = call(core, "/path", b"", core.deadline(None), lambda reply, target: reply)
    assert isinstance(next(waiting), WaitForTicket)
    waiting.close()
    steps.close()
    assert core.window._in_flight == 0 and not core.window._queue
    assert core.pool._states[core.pool.targets[0]].in_flight == 0


def test_waiting_for_a_place_ends_with_the_deadline():
    core = core_of("127.0.0.1:1", max_in_flight=1)
    holder = call(core, "/path", b"", core.deadline(None), lambda reply, target: reply)
    next(holder)
    waiting = call(core, "/path", b"", core.deadline(2.0), lambda reply, target: reply)
    assert next(waiting).timeout_s == 2.0
    core.now.now += 2.0
    with pytest.raises(errors.DeadlineError, match="max_in_flight=1"):
        waiting.send(None)


def test_the_window_halves_once_for_calls_of_one_generation_and_opens_slowly():
    window = CallWindow(8)
    tickets = [window.enter() for _ in range(8)]
    for ticket in tickets:
        window.overloaded(ticket)
        window.leave(ticket)
    assert window.size == 4
    for _ in range(3):
        ticket = window.enter()
        window.overloaded(ticket)
        window.leave(ticket)
    assert window.size == 1
    for _ in range(100):
        ticket = window.enter()
        window.answered()
        window.leave(ticket)
    assert window.size == 8


def test_the_gate_serves_in_order_and_never_lets_in_too_many():
    window = CallWindow(2)
    order = []
    tickets = [window.enter() for _ in range(5)]
    for number, ticket in enumerate(tickets):
        window.when_granted(ticket, lambda number=number: order.append(number))
    assert order == [0, 1]
    window.leave(tickets[3])  # gave up waiting
    window.leave(tickets[0])
    window.leave(tickets[1])
    assert order == [0, 1, 2, 4]


def test_workers_are_as_few_as_needed_and_end():
    workers = Workers(3)
    seen = set()
    for _ in range(50):
        done = threading.Event()
        workers.submit(lambda done=done: (seen.add(threading.current_thread().name), done.set()))
        done.wait(5)
    barrier = threading.Barrier(3)
    finished = threading.Semaphore(0)
    for _ in range(3):
        workers.submit(lambda: (barrier.wait(5), finished.release()))
    assert all(finished.acquire(timeout=5) for _ in range(3))
    threads = list(workers._threads)
    assert len(threads) == 3
    workers.close()
    assert not any(thread.is_alive() for thread in threads)
    with pytest.raises(RuntimeError):
        workers.submit(lambda: None)


def test_a_forked_childs_core_keeps_the_model_and_shares_no_lock():
    core = core_of("127.0.0.1:1")
    core.guard.check("f", "x")
    child = core.for_child()
    assert child.window is not core.window and child.pool is not core.pool
    with pytest.raises(errors.IdentityError):
        child.guard.check("g", "x")
    assert dataclasses.asdict(child.options) == dataclasses.asdict(core.options)


def test_the_reason_why_nobody_is_ready_is_not_lost_to_a_last_look_that_is_cut_short():
    core = core_of("127.0.0.1:1")
    looks = iter([Reply(wire.HealthCheckResponse(status=2).SerializeToString(), {}), failure("DEADLINE_EXCEEDED")])

    def wait(steps):
        step = next(steps)
        while True:
            core.now.now += step.seconds if isinstance(step, Sleep) else 0.0
            step = steps.send(next(looks) if isinstance(step, Send) else None)

    with pytest.raises(errors.UnreachableError, match=r"within timeout_s=0\.15: .* says it is not serving yet"):
        wait(wait_ready(core, 0.15))
