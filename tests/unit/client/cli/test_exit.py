"""A signalled command ends, whatever its threads wait for."""

import subprocess
import sys

import pytest

from metric_learn_client import cli, errors

STUCK = """
import threading
from concurrent.futures import ThreadPoolExecutor
from metric_learn_client import cli
from metric_learn_client.cli.shared import signals

pool = ThreadPoolExecutor(1)
pool.submit(threading.Event().wait)  # a thread that the interpreter would join for ever
signals.END_S = 0.5
cli.cli = lambda arguments, standalone_mode: (_ for _ in ()).throw({what})
print("said", end="")
cli.main()
"""


@pytest.mark.parametrize(("what", "code"), [("KeyboardInterrupt", 130), ("signals.TerminatedError", 143)])
def test_a_thread_that_never_ends_does_not_hold_up_the_end(what, code):
    command = [sys.executable, "-c", STUCK.format(what=what)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (code, "said"), done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UnreachableError("", "UNAVAILABLE"), 4),
        (errors.DeadlineError("", "DEADLINE_EXCEEDED"), 4),
        (errors.OverloadedError("", "RESOURCE_EXHAUSTED"), 4),
        (errors.RejectedError("", "INVALID_ARGUMENT"), 2),
        (errors.IdentityError(""), 5),
        (OSError("disk full"), 1),
    ],
)
def test_what_a_command_raises_is_its_exit_code(error, code):
    assert cli.exit_code_of(error) == code
