from servable.gateway.limits.taken_back import MOST, MOST_KNOWN, REMEMBERED, TakenBack

STREAMS = 256
PEER = "ipv4:10.0.0.1:1000"


def counted(calls, *, end_every=0):
    """A connection's calls, of which every so many-th ended; 0: none."""
    found = TakenBack(STREAMS)
    for number in range(1, calls + 1):
        found.came(PEER)
        if end_every and number % end_every == 0:
            found.ended(PEER)
    return found


def test_as_many_as_may_be_in_flight_and_some_more_may_be_taken_back():
    assert not counted(STREAMS + MOST).too_many(PEER)


def test_more_are_too_many():
    assert counted(STREAMS + MOST + 1).too_many(PEER)


def test_who_takes_back_every_other_call_for_ever_never_has_too_many():
    found = TakenBack(STREAMS)
    for _ in range(20 * REMEMBERED):
        found.came(PEER)
        found.came(PEER)
        found.ended(PEER)
        assert not found.too_many(PEER)


def test_who_lets_one_of_ten_end_has_too_many():
    assert counted(10 * REMEMBERED, end_every=10).too_many(PEER)


def test_after_a_long_time_without_an_answer_as_many_good_calls_as_are_remembered_suffice():
    found = counted(100 * REMEMBERED)
    for _ in range(REMEMBERED):
        found.came(PEER)
        found.ended(PEER)
    assert not found.too_many(PEER)


def test_a_job_that_stops_with_all_its_calls_in_flight_after_good_ones_has_not_too_many():
    found = counted(10 * REMEMBERED, end_every=1)
    for _ in range(STREAMS):
        found.came(PEER)
    assert not found.too_many(PEER)


def test_no_more_connections_than_that_are_remembered():
    found = counted(STREAMS + MOST + 1)
    for port in range(MOST_KNOWN):
        found.came(f"ipv4:10.0.0.2:{port}")
    assert not found.too_many(PEER) and len(found._counts) == MOST_KNOWN
