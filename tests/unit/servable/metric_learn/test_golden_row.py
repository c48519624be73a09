"""The golden picture as one more row of a run: rows go out beside its right one."""

import numpy as np
import pytest

from servable.metric_learn.golden_row import GoldenRow, WrongRow

PICTURE, EMBEDDING = np.full(4, 9, np.uint8), np.eye(1, 4)[0]


class Network:
    """The golden picture's row is its embedding, another's begins with its number."""

    def __init__(self):
        self.runs, self.wrong = [], False

    def call(self, instances):
        self.runs.append([int(picture[0]) for (picture,) in instances])
        rows = [EMBEDDING if picture is PICTURE else np.full(4, float(picture[0])) for (picture,) in instances]
        return [(-row if self.wrong else row,) for row in rows]


def call(model, instances):
    return model.call(instances)


def pictures(count):
    return [[np.full(4, number, np.uint8)] for number in range(count)]


def golden_row(every_s=60):
    one, four = Network(), Network()
    row = GoldenRow({1: [one], 4: [four]}, PICTURE, EMBEDDING, 1e-2, every_s)
    row.all_right()
    return row, one, four


def test_a_run_with_a_place_free_always_has_it_there_and_each_time_in_another():
    row, _, four = golden_row()
    for _ in range(4):
        rows = row.call(four, pictures(3), call)
        assert [each[0] for (each,) in rows] == [0, 1, 2]
    assert four.runs == [[9, 0, 1, 2], [0, 9, 1, 2], [0, 1, 9, 2], [0, 1, 2, 9]]


@pytest.mark.parametrize("count", [1, 3])
def test_rows_beside_a_wrong_one_never_go_out(count):
    row, _, four = golden_row()
    four.wrong = True
    with pytest.raises(WrongRow, match="at batch size 4 the golden picture came back 2 away"):
        row.call(four, pictures(count), call)
    assert row.unseen() == (0.0, 0)


def test_a_full_run_gives_up_a_place_when_it_is_due_and_not_before():
    row, one, four = golden_row()
    assert row.places(four) == 4 and row.places(one) == 1
    row.call(four, pictures(4), call)
    assert four.runs == [[0, 1, 2, 3]]
    due, _, four = golden_row(every_s=0)
    assert due.places(four) == 3


def test_a_run_of_one_that_is_due_is_followed_by_one_of_the_golden_picture():
    row, one, _ = golden_row(every_s=0)
    assert row.places(one) == 1 and len(row.call(one, pictures(1), call)) == 1
    assert one.runs == [[0], [9]]
    one.wrong = True
    with pytest.raises(WrongRow):
        row.call(one, pictures(1), call)


def test_rows_that_went_out_since_its_last_right_one_are_counted():
    row, one, four = golden_row()
    row.call(four, pictures(4), call)
    row.call(four, pictures(4), call)
    row.call(one, pictures(1), call)
    since, count = row.unseen()
    assert count == 9 and since > 0
    four.wrong = True
    with pytest.raises(WrongRow):
        row.call(four, pictures(1), call)
    assert row.unseen() == (since, 9)
    four.wrong = False
    row.call(four, pictures(1), call)
    assert row.unseen()[1] == 1, "those of the Model that gave it are right"
    row.all_right()
    assert row.unseen() == (0.0, 0)


def test_a_row_that_is_not_finite_is_wrong():
    row, _, _ = golden_row()
    with pytest.raises(WrongRow, match="nan away"):
        row.check(np.full(4, np.nan), 4)
