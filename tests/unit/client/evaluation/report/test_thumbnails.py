"""Pictures on pages: found where people say they are, and counted where they are not."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from metric_learn_client.evaluation.report.thumbnails import Pictures
from metric_learn_client.printable import escaped


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder `photos` of two classes, one folder below the working directory."""
    monkeypatch.chdir(tmp_path)
    for label in ("a", "photos"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "photos" / label / "1.jpg"), np.full((40, 60, 3), 90, np.uint8))
    return tmp_path / "photos"


@pytest.mark.parametrize("path", ["photos/a/1.jpg", "a/1.jpg", "photos/1.jpg", "photos/photos/1.jpg"])
def test_a_path_that_begins_with_the_name_of_the_root_is_found_as_well_as_one_that_does_not(photos, path):
    for root in (photos, photos.relative_to(photos.parent)):
        pictures = Pictures(root)
        assert pictures.thumbnail(path).startswith("data:image/jpeg;base64,") and pictures.missing() is None


def test_without_a_root_paths_begin_in_the_working_directory(photos):
    assert Pictures().thumbnail("photos/a/1.jpg") and Pictures().thumbnail(str(photos / "a" / "1.jpg"))


def test_the_root_may_be_the_working_directory(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert Pictures(Path(".")).thumbnail("photos/a/1.jpg")


def test_pictures_that_are_missing_are_counted_once_each_with_an_example(photos):
    pictures = Pictures(photos)
    os.mkfifo(photos / "pipe.jpg")
    (photos / "text.jpg").write_text("no picture")
    for path in ("a/1.jpg", "gone\n.jpg", "gone\n.jpg", "pipe.jpg", "text.jpg"):
        pictures.thumbnail(path)
    said = pictures.missing()
    assert said.startswith("3 of 4 pictures could not be shown, as gone\\n.jpg (") and "--image-root" in said
    assert "No such file" in said and "\n" not in said


def test_a_name_that_is_no_text_is_found_by_its_text(photos):
    os.rename(photos / "a" / "1.jpg", os.path.join(os.fsencode(photos), b"\xff.jpg"))
    assert Pictures(photos).thumbnail(escaped(b"\xff.jpg"))
