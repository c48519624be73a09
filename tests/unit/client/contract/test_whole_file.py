"""Folders that are whole or not there."""

import pytest

from metric_learn_client.contract.whole_file import whole_folder


def fill(folder, content):
    with whole_folder(folder) as aside:
        (aside / "file").write_text(content)
        if content == "half":
            raise KeyboardInterrupt


def test_a_folder_takes_the_place_of_one_that_is_there(tmp_path):
    for content in ("old", "new"):
        fill(tmp_path / "1", content)
    assert (tmp_path / "1" / "file").read_text() == "new" and list(tmp_path.iterdir()) == [tmp_path / "1"]


def test_a_folder_that_is_given_up_leaves_what_was_there(tmp_path):
    fill(tmp_path / "1", "old")
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "1", "half")
    assert (tmp_path / "1" / "file").read_text() == "old" and list(tmp_path.iterdir()) == [tmp_path / "1"]
