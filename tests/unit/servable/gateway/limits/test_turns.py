import pytest

from servable.gateway.limits.taken_back import MOST
from servable.gateway.limits.turns import ASIDE_S, EARNED, MOST_KNOWN, Turns, address_of, host_of
from tests.clock import Clock

GOOD, BAD = "ipv4:10.0.0.1:1000", "ipv4:10.0.0.2:{}"
STREAMS = 8


@pytest.fixture
def clock():
    return Clock(100.0)


@pytest.fixture
def turns(clock):
    """In which BAD's first connection stands aside, with one item: the call after which it does so."""
    turns = Turns(1000, STREAMS, clock)
    for number in range(STREAMS + MOST):
        turns.add(BAD.format(1), number)
        turns.take()
    assert not turns.stands_aside(BAD.format(1))
    turns.add(BAD.format(1), "bad")
    return turns


def taken(turns):
    return [turns.take() for _ in range(len(turns))]


def test_one_connection_keeps_its_order():
    turns = Turns(10, STREAMS)
    for number in range(5):
        turns.add(GOOD, number)
    assert taken(turns) == [0, 1, 2, 3, 4]


def test_a_thousand_new_connections_of_one_address_have_one_turn_against_another_address():
    turns = Turns(2000, STREAMS)
    for port in range(1000):
        turns.add(BAD.format(port), "bad")
    turns.add(GOOD, "good")
    assert [turns.take(), turns.take()] == ["bad", "good"]


def test_a_connection_that_had_an_answer_has_a_line_of_its_own_beside_new_ones_of_its_address():
    turns = Turns(2000, STREAMS)
    known = BAD.format(1)
    turns.answered(known, True)
    for port in range(2, 1000):
        turns.add(BAD.format(port), "bad")
    turns.add(known, "known")
    assert [turns.take(), turns.take()] == ["bad", "known"]


def test_beyond_the_most_the_longest_line_loses_its_latest():
    turns = Turns(3, STREAMS)
    assert turns.add(GOOD, "good") is None
    assert turns.add(BAD.format(1), "bad 1") is None
    assert turns.add(BAD.format(2), "bad 2") is None
    assert turns.add(BAD.format(3), "bad 3") == (address_of(BAD), "bad 3")
    assert turns.add(GOOD, "good 2") in ((address_of(GOOD), "good 2"), (address_of(BAD), "bad 2"))
    assert len(turns) == 3


def test_those_that_were_answered_longest_ago_are_forgotten():
    turns = Turns(10, STREAMS)
    turns.answered(GOOD, True)
    for port in range(MOST_KNOWN):
        turns.answered(BAD.format(port), True)
    assert len(turns._known) == MOST_KNOWN and GOOD not in turns._known


def test_nobody_is_taken_from_an_empty_line():
    with pytest.raises(KeyError):
        Turns(1, STREAMS).take()


def test_of_a_connection_that_takes_back_its_calls_one_begins_now_and_then(turns, clock):
    clock.now += ASIDE_S
    for number in range(3):
        turns.add(BAD.format(1), number)
    assert turns.take() == 2, "the latest first: it may still be wanted"
    with pytest.raises(KeyError):
        turns.take()
    assert turns.delay_s() == pytest.approx(ASIDE_S)
    clock.now += ASIDE_S
    assert turns.delay_s() == 0.0
    assert turns.take() == 1


def test_others_do_not_wait_for_those_that_stand_aside(turns, clock):
    clock.now += ASIDE_S
    for number in range(3):
        turns.add(BAD.format(1), "bad")
        turns.add(GOOD, number)
    assert [turns.take() for _ in range(4)] == ["bad", 0, 1, 2]


def test_each_answer_lets_two_of_those_aside_begin_in_turn_with_others(turns, clock):
    for number in range(1, 4 * MOST):
        turns.add(BAD.format(1), number)
    clock.now += ASIDE_S
    turns.take()
    turns.answered(BAD.format(1), False)
    assert turns.delay_s() == 0.0
    for number in range(4):
        turns.add(GOOD, f"good {number}")
    began = [turns.take() for _ in range(4 + EARNED)]
    assert [each for each in began if str(each).startswith("good")] == [f"good {number}" for number in range(4)]
    assert str(began[0]).startswith("good") and not str(began[1]).startswith("good")
    with pytest.raises(KeyError):
        turns.take()


def test_a_connection_whose_calls_end_again_has_its_place_in_the_line_again(turns):
    turns.add(GOOD, "good")
    turns.answered(BAD.format(1), True)
    assert not turns.stands_aside(BAD.format(1))
    assert {turns.take(), turns.take()} == {"good", "bad"}


def test_those_that_stand_aside_lose_their_oldest():
    turns = Turns(3, STREAMS)
    for number in range(STREAMS + MOST):
        turns.add(GOOD, number)
        turns.take()
    assert [turns.add(GOOD, number) for number in range(5)] == [None, None, None, (GOOD, 0), (GOOD, 1)]


def test_on_a_unix_socket_nobody_stands_aside():
    turns = Turns(1000, STREAMS)
    for number in range(10 * MOST):
        turns.add("unix:", number)
    assert not turns.stands_aside("unix:") and turns.waiting("unix:") == 10 * MOST


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:1.2.3.4:5", "1.2.3.4"),
        ("ipv6:%5B2001:db8::1%5D:5", "2001:db8::1"),
        ("ipv6:[fe80::1%25eth0]:5", "fe80::1"),
    ],
)
def test_a_host_is_without_port_brackets_and_scope(peer, host):
    assert host_of(peer) == host


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ipv4:1.2.3.4:5", "ipv4:1.2.3.4:6", True),
        ("ipv4:1.2.3.4:5", "ipv4:1.2.3.5:5", False),
        ("ipv6:%5B2001:db8::1%5D:5", "ipv6:%5B2001:db8::2%5D:6", True),
        ("ipv6:%5B2001:db8::1%5D:5", "ipv6:%5B2001:db8:0:1::1%5D:5", False),
        ("ipv6:[2001:db8::1]:5", "ipv6:%5B2001:db8::2%5D:6", True),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", "ipv6:%5Bfe80::2%25eth0%5D:5", True),
        ("unix:", "unix:", True),
        ("ipv6:nonsense", "ipv6:other", False),
    ],
)
def test_an_address_is_a_host_of_ipv4_or_a_network_of_ipv6(one, other, same):
    assert (address_of(one) == address_of(other)) is same
