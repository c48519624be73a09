import pytest

from servable.gateway.limits.turns import MOST_KNOWN, Turns, address_of, host_of

GOOD, BAD = "ipv4:10.0.0.1:1000", "ipv4:10.0.0.2:{}"


def taken(turns):
    return [turns.take() for _ in range(len(turns))]


def test_one_connection_keeps_its_order():
    turns = Turns(10)
    for number in range(5):
        turns.add(GOOD, number)
    assert taken(turns) == [0, 1, 2, 3, 4]


def test_a_thousand_new_connections_of_one_address_have_one_turn_against_another_address():
    turns = Turns(2000)
    for port in range(1000):
        turns.add(BAD.format(port), "bad")
    turns.add(GOOD, "good")
    assert [turns.take(), turns.take()] == ["bad", "good"]


def test_a_connection_that_had_an_answer_has_a_line_of_its_own_beside_new_ones_of_its_address():
    turns = Turns(2000)
    known = BAD.format(1)
    turns.answered(known)
    for port in range(2, 1000):
        turns.add(BAD.format(port), "bad")
    turns.add(known, "known")
    assert [turns.take(), turns.take()] == ["bad", "known"]


def test_beyond_the_most_the_longest_line_loses_its_latest():
    turns = Turns(3)
    assert turns.add(GOOD, "good") is None
    assert turns.add(BAD.format(1), "bad 1") is None
    assert turns.add(BAD.format(2), "bad 2") is None
    assert turns.add(BAD.format(3), "bad 3") == "bad 3"
    assert turns.add(GOOD, "good 2") in ("good 2", "bad 2")
    assert len(turns) == 3


def test_those_that_were_answered_longest_ago_are_forgotten():
    turns = Turns(10)
    turns.answered(GOOD)
    for port in range(MOST_KNOWN):
        turns.answered(BAD.format(port))
    assert len(turns._known) == MOST_KNOWN and GOOD not in turns._known


def test_nobody_is_taken_from_an_empty_line():
    assert Turns(1).take() is None


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
