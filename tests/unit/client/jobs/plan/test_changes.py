"""Generations of changed and gone rows."""

import numpy as np

from metric_learn_client.jobs.plan.changes import Changes


def rows(*numbers):
    return np.array(numbers, np.int64)


TWICE = Changes.none().and_then(1, rows(7, 2), rows(5)).and_then(2, rows(2), rows(7, 9))


def test_a_row_has_the_last_of_its_changes():
    assert TWICE.rows.tolist() == [2, 5, 7, 9]
    assert TWICE.generations.tolist() == [2, 1, 2, 2]
    assert TWICE.gone.tolist() == [False, True, True, True]


def test_what_a_shard_of_an_older_generation_lacks_is_known():
    assert TWICE.gone_by(0).tolist() == [] and TWICE.gone_by(1).tolist() == [5]
    assert TWICE.gone_by(2).tolist() == [5, 7, 9]
    assert TWICE.changed_since(0).tolist() == [2] and TWICE.changed_since(2).tolist() == []


def test_a_shard_sees_its_own_rows_only_by_their_places_in_it():
    assert TWICE.between(5, 3).rows.tolist() == [0, 2]
    assert TWICE.between(10, 5).rows.tolist() == []


def test_what_is_saved_is_what_is_loaded(tmp_path):
    TWICE.save(tmp_path / "changes.arrow")
    loaded = Changes.load(tmp_path / "changes.arrow")
    for name in ("rows", "generations", "gone"):
        assert (getattr(loaded, name) == getattr(TWICE, name)).all()
