"""How long a wrong token takes says nothing of how much of it was right."""

import contextlib
import statistics
import time

import pytest

from servable.config.sections import Config, SecuritySection
from servable.gateway.errors import CallError
from servable.gateway.security.tokens import Tokens, load_tokens

TOKEN = "a" * 64
WRONG = {"all but the last": "a" * 63 + "b", "nothing": "b" * 64}


def seconds_of(tokens, value):
    began = time.perf_counter()
    with contextlib.suppress(CallError):
        tokens.check(value)
    return time.perf_counter() - began


@pytest.mark.long
def test_the_time_of_100000_refusals_does_not_tell_how_much_of_a_token_was_right(tmp_path):
    """Medians of interleaved samples: what an attacker could average out. A tenth of a microsecond is their noise."""
    file = tmp_path / "tokens"
    file.write_text(f"{TOKEN}\n" + "".join(f"{'c' * 62}{number:02d}\n" for number in range(20)))
    file.chmod(0o600)
    config = Config(security=SecuritySection(tokens_file=file))
    tokens = Tokens(config, load_tokens(config))
    samples = {name: [] for name in WRONG}
    for _ in range(50_000):
        for name, token in WRONG.items():
            samples[name].append(seconds_of(tokens, f"Bearer {token}"))
    medians = {name: statistics.median(each) for name, each in samples.items()}
    print(medians)
    close, far = medians.values()
    assert abs(close - far) < max(0.02 * far, 1e-7)
