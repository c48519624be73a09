import math

from servable.gateway.limits.intake import BYTES_PER_S, MOST_BYTES, Intake
from servable.gateway.limits.sockets import endpoint_of, peer_of

ONE, OTHER = ("10.0.0.1", 1000), ("2001:db8::1", 2000)


def looked(*looks, explained=()):
    """Whom each look found, a second after the one before; of one connection's bytes since it began."""
    intake = Intake()
    intake.look({}, {}, 1.0)
    return [intake.look({ONE: count}, dict(explained), 1.0) for count in looks]


TOO_MUCH = BYTES_PER_S + MOST_BYTES + 1


def test_a_connection_that_brings_too_much_is_found_at_the_second_look():
    assert looked(TOO_MUCH, TOO_MUCH + BYTES_PER_S) == [[], [ONE]]


def test_what_is_beyond_passes_with_time():
    assert looked(TOO_MUCH, TOO_MUCH) == [[], []]
    assert looked(BYTES_PER_S, 2 * BYTES_PER_S, 100 * BYTES_PER_S) == [[], [], []]


def test_what_calls_explain_is_not_beyond():
    assert looked(10**9, 2 * 10**9, explained={ONE: math.inf}) == [[], []]
    assert looked(TOO_MUCH, TOO_MUCH + BYTES_PER_S, explained={ONE: 1.0}) == [[], []]
    assert looked(10**9, 2 * 10**9, explained={OTHER: math.inf}) == [[], [ONE]]


def test_megabytes_of_a_body_whose_call_begins_after_the_look_are_not_too_much():
    intake = Intake()
    intake.look({}, {}, 1.0)
    assert intake.look({ONE: 10 * TOO_MUCH}, {}, 1.0) == []
    assert intake.look({ONE: 20 * TOO_MUCH}, {ONE: math.inf}, 1.0) == []
    assert intake.look({ONE: 30 * TOO_MUCH}, {}, 1.0) == []


def test_the_first_look_finds_nobody_and_those_after_it_was_forgotten_begin_anew():
    intake = Intake()
    for first in (10**9, 10**10):
        assert intake.look({ONE: first}, {}, 1.0) == []
        assert intake.look({ONE: 2 * first}, {}, 1.0) == []
        intake.forget()


def test_an_endpoint_is_the_same_however_the_peer_is_written():
    assert endpoint_of("ipv6:%5B2001:db8::1%5D:2000") == endpoint_of(peer_of(OTHER)) == OTHER
    assert endpoint_of(peer_of(ONE)) == ONE
    assert endpoint_of("unix:") is None and endpoint_of("ipv4:10.0.0.1") is None
