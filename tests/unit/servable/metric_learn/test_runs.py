"""The network's thread: what runs together, what waits, and who hears of a failure."""

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest

from servable.metric_learn import runs as module
from servable.metric_learn.runs import Runs

DIM = 3


class Network:
    """The row of a picture is its number. It waits before a run until it may."""

    def __init__(self):
        self.runs = []
        self.may = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.error = None

    def __call__(self, pictures):
        self.began.release()
        assert self.may.acquire(timeout=10)
        self.runs.append([int(picture) for picture in pictures])
        if self.error:
            raise self.error
        return [np.full(DIM, picture, np.float32) for picture in pictures]


@pytest.fixture
def network():
    return Network()


def runs_of(*networks, kept=100):
    return Runs(networks, lambda error: f"E_X: {error}", most=4, dim=DIM, kept=kept)


def numbers(*given):
    return [np.array(number) for number in given]


def test_batches_that_wait_while_the_network_runs_run_together_up_to_the_largest_size(network):
    runs = runs_of(network)
    tickets = [runs.submit(numbers(0))]
    assert network.began.acquire(timeout=10)
    tickets += [runs.submit(numbers(*batch)) for batch in ([1], [2, 3], [4], [5, 6, 7, 8], [9])]
    network.may.release(10)
    got = [runs.redeem(ticket)[0][:, 0].tolist() for ticket in tickets]
    assert got == [[0], [1], [2, 3], [4], [5, 6, 7, 8], [9]]
    assert network.runs == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]


def test_a_full_batch_does_not_wait_for_the_run_under_way_and_a_small_one_does(network):
    other = Network()
    runs = runs_of(network, other)
    tickets = [runs.submit(numbers(0))]
    first, second = (network, other) if network.began.acquire(timeout=1) else (other, network)
    tickets += [runs.submit(numbers(1)), runs.submit(numbers(2))]
    assert not second.began.acquire(blocking=False)
    tickets.append(runs.submit(numbers(3, 4)))
    assert second.began.acquire(timeout=10)  # four images together
    second.may.release()
    assert [runs.redeem(ticket)[0][:, 0].tolist() for ticket in tickets[1:]] == [[1], [2], [3, 4]]
    first.may.release()
    assert runs.redeem(tickets[0])[0][:, 0].tolist() == [0]


def holding_back(runs, ticket):
    thread = threading.Thread(target=runs.hold_back, args=(ticket,), daemon=True)
    thread.start()
    return thread


def test_a_ticket_is_held_back_until_the_batch_before_has_its_rows(network):
    runs = runs_of(network)
    first, second = runs.submit(numbers(0)), runs.submit(numbers(1, 2, 3, 4))
    held = holding_back(runs, second)
    held.join(0.2)
    assert held.is_alive()
    network.may.release()
    held.join(10)
    assert not held.is_alive()
    assert runs.redeem(first)[0][:, 0].tolist() == [0]


def test_a_ticket_is_not_held_back_where_rows_wait_for_the_thread(network):
    runs = runs_of(network)
    network.may.release()
    tickets = [runs.submit(numbers(0))]
    while not network.runs:
        time.sleep(0.01)
    tickets += [runs.submit(numbers(*four)) for four in ([1, 2, 3, 4], [5, 6, 7, 8])]
    held = holding_back(runs, tickets[2])
    held.join(5)  # the network waits for longer
    assert not held.is_alive()
    assert runs.redeem(tickets[0])[0][:, 0].tolist() == [0]


def test_a_ticket_whose_own_rows_are_there_is_not_held_back(network):
    network.may.release()
    runs, picture = runs_of(network), Future()
    runs.submit([picture])
    quick = runs.submit(numbers(1))
    holding_back(runs, quick).join(10)
    assert runs.redeem(quick)[0][:, 0].tolist() == [1]


def test_beside_long_runs_the_only_ticket_is_held_back_for_a_part_of_one(network):
    runs = runs_of(network)
    ticket = runs.submit(numbers(0))
    runs._run_s = 0.3
    began_at = time.monotonic()
    runs.hold_back(ticket)
    assert time.monotonic() - began_at >= 0.3 * module.LINGER - 0.01
    network.may.release()
    assert runs.redeem(ticket)[0][:, 0].tolist() == [0]


def test_it_is_held_back_no_longer_than_the_batch_takes(network):
    runs = runs_of(network)
    ticket = runs.submit(numbers(0))
    runs._run_s = 1e6
    held = holding_back(runs, ticket)
    network.may.release()
    held.join(10)
    assert not held.is_alive()


@pytest.mark.parametrize(("batches", "run_s"), [(1, 0.03), (2, 1e6)])
def test_beside_short_runs_or_another_batch_the_first_ticket_is_not_held_back(network, monkeypatch, batches, run_s):
    monkeypatch.setattr(module, "LINGER", 1e6)
    runs = runs_of(network)
    tickets = [runs.submit(numbers(index)) for index in range(batches)]
    runs._run_s = run_s
    held = holding_back(runs, tickets[0])  # would be there for ever: the network may not run
    held.join(10)
    assert not held.is_alive()
    network.may.release(batches)


def test_what_a_run_takes_is_counted_from_the_end_of_the_one_beside_it(network):
    other = Network()
    runs = runs_of(network, other)
    tickets = [runs.submit(numbers(*four)) for four in ([1, 2, 3, 4], [5, 6, 7, 8])]
    time.sleep(0.5)
    network.may.release()
    while not any(runs._batches[ticket].outcome.done() for ticket in tickets):
        time.sleep(0.01)
    time.sleep(0.05)
    other.may.release()
    for ticket in tickets:
        runs.redeem(ticket)
    while runs._running:
        time.sleep(0.01)
    assert runs._run_s < 0.4


def test_a_run_that_fails_ends_the_holding_back_and_a_lost_batch_is_not_waited_for(network):
    runs, network.error = runs_of(network), RuntimeError("lost")
    ticket = runs.submit(numbers(1))
    runs._run_s = 1e6
    network.may.release()
    runs.hold_back(ticket)
    with pytest.raises(RuntimeError, match="lost"):
        runs.redeem(ticket)
    runs._run_s = 1e6
    runs.hold_back(ticket)


def test_a_batch_that_is_decoded_later_does_not_hold_up_the_next_one(network):
    network.may.release(10)
    runs, picture = runs_of(network), Future()
    slow, quick = runs.submit([picture, *numbers(1)]), runs.submit(numbers(2))
    assert runs.redeem(quick)[0][:, 0].tolist() == [2]
    picture.set_result(np.array(0))
    assert runs.redeem(slow)[0][:, 0].tolist() == [0, 1]
    assert network.runs == [[2], [0, 1]]


def test_a_picture_that_fails_has_its_error_and_no_run(network):
    network.may.release(10)
    runs, picture = runs_of(network), Future()
    ticket = runs.submit([*numbers(1), picture, ValueError("b")])
    picture.set_exception(ValueError("a"))
    rows, errors = runs.redeem(ticket)
    assert errors == [None, "E_X: a", "E_X: b"] and rows[:, 0].tolist() == [1, 0, 0]
    assert network.runs == [[1]]


def test_a_run_that_fails_fails_what_was_in_it_and_no_more(network):
    network.may.release(10)
    runs, network.error = runs_of(network), RuntimeError("lost")
    with pytest.raises(RuntimeError, match="lost"):
        runs.redeem(runs.submit(numbers(1)))
    network.error = None
    assert runs.redeem(runs.submit(numbers(2)))[0][:, 0].tolist() == [2]


def test_batches_that_nobody_redeems_do_not_pile_up(network):
    network.may.release(100)
    runs = runs_of(network, kept=5)
    tickets = [runs.submit(numbers(index)) for index in range(20)]
    assert len(runs._batches) <= 5
    assert runs.redeem(tickets[-1])[0][:, 0].tolist() == [19]
    with pytest.raises(KeyError):
        runs.redeem(tickets[0])


def test_a_batch_that_was_dropped_long_ago_does_not_let_tickets_through(network, monkeypatch):
    monkeypatch.setattr(module, "RECENT", 2)
    network.may.release()
    runs = runs_of(network)
    runs._batches[runs.submit(numbers(0))].outcome.result(10)  # nobody redeems it
    network.may.release()
    runs.redeem(runs.submit(numbers(1)))
    tickets = [runs.submit(numbers(index)) for index in (2, 3)]
    held = holding_back(runs, tickets[1])
    held.join(0.2)
    assert held.is_alive()
    network.may.release(2)
    held.join(10)
    assert not held.is_alive()
