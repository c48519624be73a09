"""AIPP's configuration says what the exported graph does otherwise."""

import re

import numpy as np
import pytest

from export.aipp import aipp_config
from export.facts import model_facts


@pytest.mark.parametrize("channel", range(3))
def test_each_channel_is_normalised_as_in_the_graph(channel):
    facts = model_facts()
    said = dict(re.findall(r"(\w+): (\S+)", aipp_config(facts)))
    pixels = np.arange(256, dtype=np.float64)
    made = (pixels - float(said[f"mean_chn_{channel}"]) - float(said[f"min_chn_{channel}"])) * float(
        said[f"var_reci_chn_{channel}"]
    )
    assert np.abs(made - (pixels / 255 - facts.mean[channel]) / facts.std[channel]).max() < 1e-7
