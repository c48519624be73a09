"""A host with simulated Ascend devices: built once a checkout, private to each process tree that is started in it."""

import pytest

from .simulated_host import SimulatedHost, build, why_not


@pytest.fixture(scope="session")
def libraries():
    """The simulator's libraries. Skips, with the reason, where it cannot be built or entered."""
    reason = why_not()
    if reason:
        pytest.skip(f"no simulated Ascend device: {reason}")
    return build()


@pytest.fixture
def host(libraries, tmp_path):
    """One device, an Ascend 310 with CANN 6.3, until the test says otherwise."""
    return SimulatedHost(libraries, tmp_path)
