"""Exit codes of every command; one table for client, jobs and gates."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    DONE = 0
    """Done; of a server, also ended by SIGTERM as it was asked to."""
    UNEXPECTED = 1
    """An error that no other code names: a full disk, a reply that does not fit, a mistake of ours.
    Do: read the line on stderr; where it asks for a report, `METRIC_LEARN_TRACEBACK=1` adds the place in the code."""
    USAGE = 2
    """Usage or configuration: an option, a key, a file or a token that cannot be, or a job that is another one.
    Do: what the line on stderr says. Nothing was begun."""
    SOME_FAILED = 3
    """Finished; some images failed, and are listed. Do: look at their image codes; a job does them again
    with `--retry-failed`."""
    NOT_REACHABLE = 4
    """The endpoint is not reachable, not ready or too busy, until the deadline or `--max-outage-s`.
    Do: `metric-learn status`, then the same command again: a job goes on where it was."""
    GATE_FAILED = 5
    """A parity or quality gate failed, or the model is not the expected one. Do: read the verdict; do not use the
    embeddings before it is explained."""
    INTERRUPTED = 130
    """SIGINT: Ctrl-C. Do: the same command again; a job goes on where it was."""
    TERMINATED = 143
    """SIGTERM. Do: as for 130."""
