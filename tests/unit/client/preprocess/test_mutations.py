"""Thousands of damaged pictures through `preprocess`, in a process of its own: no crash, no surprise, not a word."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[4]
PROGRAM = """
import re, sys
from collections import Counter
from metric_learn_client.preprocess import ImageError, preprocess
from tests.unit.client.preprocess.mutations import mutations

def outcome(data):
    try:
        return preprocess(data).tobytes()
    except ImageError as error:
        assert re.fullmatch(r"[A-Za-z0-9 ,.;:_\\\\-]{1,160}", error.message), error.message
        return str(error)

codes = Counter()
for name, data in mutations(int(sys.argv[1]), int(sys.argv[2])):
    first = outcome(data)
    assert outcome(data) == first, name
    codes[first.partition(":")[0] if isinstance(first, str) else "read"] += 1
print(*sorted(codes))
"""


def run(seed, count):
    # OpenCV's own log: a line for run lengths of a BMP that end early. libpng and libjpeg do not heed it.
    environment = {**os.environ, "OPENCV_LOG_LEVEL": "OFF"}
    command = [sys.executable, "-c", PROGRAM, str(seed), str(count)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["E_DECODE", "E_EMPTY", "E_TOO_LARGE", "E_UNSUPPORTED", "read"]


def test_four_thousand_mutations_are_read_the_same_twice_or_refused():
    run(20261126, 4000)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_thousand_mutations_are_read_the_same_twice_or_refused(seed):
    run(seed, 25_000)
