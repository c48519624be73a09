"""What a connection may cost: with a clock of the test's own."""

import pytest

from servable.gateway.limits.allowance import BURST_US, CREDIT_US, US_PER_S, Allowance
from tests.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def allowance(clock):
    return Allowance(clock)


def test_a_burst_is_free(allowance):
    allowance.spend(BURST_US - 1)
    assert allowance.delay_s() == 0.0


def test_who_spends_more_waits_until_the_rest_is_earned(allowance, clock):
    allowance.spend(BURST_US + US_PER_S)
    assert allowance.delay_s() == pytest.approx(1.0)
    clock.now += 0.75
    assert allowance.delay_s() == pytest.approx(0.25)
    clock.now += 0.26
    assert allowance.delay_s() == 0.0


def test_answered_calls_pay_for_others(allowance):
    allowance.spend(BURST_US + 100)
    allowance.earn(101)
    assert allowance.delay_s() == 0.0


def test_nobody_saves_more_than_a_burst(allowance):
    allowance.earn(10 * BURST_US)
    allowance.spend(BURST_US + US_PER_S)
    assert allowance.delay_s() > 0.0


def test_answered_calls_give_a_credit_that_idle_time_does_not(allowance, clock):
    clock.now += 1000
    assert allowance.spent_us() == 0.0
    allowance.earn(10 * CREDIT_US)
    assert allowance.spent_us() == -CREDIT_US


def test_what_pays_for_itself_gives_no_credit(allowance):
    allowance.spend(-1000.0)
    assert allowance.spent_us() == 0.0
