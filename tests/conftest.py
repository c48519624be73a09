"""For every tier and environment: what a test's children inherit."""

import signal


def pytest_configure():
    """A shell's background jobs ignore SIGINT, and so would every command under test that is to be interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
