"""What the benchmarks put into a copy of the servable's code goes with that code as it is."""

import subprocess
import sys

import pytest

from tests.benchmarks.no_network import copy_without_network


@pytest.mark.parametrize("decode", [True, False], ids=["decoding", "nothing decoded"])
def test_every_name_in_the_servable_without_its_network_is_there(tmp_path, decode):
    stages = copy_without_network(tmp_path / "metric_learn", decode) / "stages.py"
    unknown = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", str(stages)]
    done = subprocess.run(unknown, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
