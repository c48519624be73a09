"""How far embeddings are from their references."""

import numpy as np

from metric_learn_client.contract.distance import relative_distance


def test_relative_distance_sees_each_row_and_never_passes_nan():
    expected = np.ones((2, 4), np.float32)
    actual = expected.copy()
    actual[1, 0] = np.nan
    assert relative_distance(expected, expected).max() == 0
    assert relative_distance(actual, expected).tolist() == [0, np.inf]
