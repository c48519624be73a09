"""Files that ended a decoder: remembered for a while, and no more of them than fit."""

import numpy as np

from metric_learn_client.preprocess import ImageError
from metric_learn_client.preprocess.sandbox.crashed_files import REMEMBERED, REMEMBERED_S, CrashedFiles

ERROR = ImageError("E_CRASH", "decoding it ended the decoder: SIGSEGV")


def test_the_same_bytes_are_refused_with_the_same_error_in_whatever_they_come():
    files = CrashedFiles()
    files.add(b"bad", ERROR)
    assert files.error_of(b"bad") is ERROR and files.error_of(np.frombuffer(b"bad", np.uint8)) is ERROR


def test_another_file_of_the_same_size_is_not_refused():
    files = CrashedFiles()
    files.add(b"bad", ERROR)
    assert files.error_of(b"dab") is None


def test_a_file_is_tried_again_after_its_time():
    now = [0.0]
    files = CrashedFiles(lambda: now[0])
    files.add(b"bad", ERROR)
    now[0] = REMEMBERED_S - 1
    assert files.error_of(b"bad") is ERROR
    now[0] = REMEMBERED_S
    assert files.error_of(b"bad") is None


def test_of_more_files_than_are_remembered_the_oldest_is_forgotten():
    files = CrashedFiles()
    for number in range(REMEMBERED + 1):
        files.add(b"%d" % number, ERROR)
    assert files.error_of(b"0") is None and files.error_of(b"1") is ERROR
