"""For every tier and environment: what a test's children inherit; and the real server that e2e and ascend share."""

import signal

import pytest


def pytest_configure():
    """A shell's background jobs ignore SIGINT, and so would every command under test that is to be interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def versions():
    """Stand-in weights as version 1."""
    from tests.e2e.conftest import exported_versions

    return exported_versions()


@pytest.fixture(scope="session")
def server(versions, tmp_path_factory):
    """On a CPU, as configs/cpu.yaml has it, on free ports: started once a session."""
    from tests.e2e.conftest import start, stop

    started = start(tmp_path_factory.mktemp("run"))
    assert started.ready_line.startswith("ready"), started.said()
    yield started
    stop(started)
