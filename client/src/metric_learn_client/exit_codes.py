"""Exit codes of every command; one table for client, jobs and gates."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    DONE = 0
    UNEXPECTED = 1
    USAGE = 2  # usage or configuration
    SOME_FAILED = 3  # finished; some items failed, and are listed
    NOT_REACHABLE = 4  # endpoint not reachable or not ready
    GATE_FAILED = 5  # a parity or quality gate failed
    INTERRUPTED = 130  # SIGINT
    TERMINATED = 143  # SIGTERM
