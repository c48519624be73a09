"""Shares of a connection, and that nothing is kept of those that are gone."""

import grpc
import pytest

from servable.gateway.errors import CallError
from servable.gateway.limits.share import Share


def test_a_connection_gets_its_share_and_all_together_the_total():
    share = Share("calls", total=3, each=2)
    share.take("a")
    share.take("a")
    with pytest.raises(CallError, match="2 are the most for one connection") as caught:
        share.take("a")
    assert caught.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED and caught.value.retry_after_ms
    share.take("b")
    with pytest.raises(CallError, match=r"calls: 3 are the most$"):
        share.take("b")
    share.give_back("a")
    share.take("b")


def test_beyond_the_total_there_is_as_much_again_for_connections_that_hold_nothing():
    share = Share("calls", total=2, each=2)
    share.take("a")
    share.take("a")
    for newcomer in "bc":
        share.take(newcomer)
        with pytest.raises(CallError, match=r"2 are the most$"):
            share.take(newcomer)
    with pytest.raises(CallError, match=r"2 are the most$"):
        share.take("d")


def test_nothing_is_kept_of_a_connection_that_holds_nothing():
    share = Share("bytes", total=10, each=5)
    for number in range(100):
        share.check(f"connection {number}")
        share.add(f"connection {number}", 3)
        share.give_back(f"connection {number}", 3)
    assert not share._held and not share._sum
