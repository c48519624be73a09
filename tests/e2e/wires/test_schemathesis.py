"""/openapi.json as schemathesis reads it: requests by its schemas, good and wrong, and replies held against it."""

import re
import subprocess
from pathlib import Path

import pytest

COMMAND = Path(__file__).parents[3] / ".venv" / "wires" / "bin" / "schemathesis"
REQUEST_S = 120  # the schemas let a call carry 256 pictures, which is 20 s of the real network
SETTINGS = Path(__file__).parent / "schemathesis.toml"


def check(server, folder, phases, examples, seed=1):
    """`folder`: where schemathesis keeps what it found.

    Raises where a reply is not described, or has a status of 500 and more other than 503 and 504.
    """
    command = [COMMAND, "--config-file", SETTINGS, "run", f"http://{server.api_endpoint}/openapi.json"]
    options = {"phases": phases, "max-examples": examples, "seed": seed, "request-timeout": REQUEST_S}
    command += [f"--{name}={value}" for name, value in options.items()]
    command += ["--generation-database=none", "--no-color"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:]
    assert re.search(r"Selected: (\d\d)/\1\s+Tested: \1\n", done.stdout), done.stdout[-8000:]


def test_replies_are_as_described_whatever_is_sent(server, tmp_path):
    check(server, tmp_path, "examples,fuzzing", 8)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("phases", "seed"), [("examples,coverage", 1), *(("fuzzing", seed) for seed in range(2, 8))])
def test_replies_are_as_described_whatever_is_sent_for_long(server, tmp_path, phases, seed):
    check(server, tmp_path, phases, 50, seed)
