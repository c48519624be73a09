"""Every file of tests/golden/hostile: its code and words, or the pixels of the sound picture that it is made from."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from metric_learn_client.preprocess import ImageError, decode, preprocess

HOSTILE = Path(__file__).parents[3] / "golden" / "hostile"
EXPECTED = json.loads((HOSTILE / "expected.json").read_text())
SOUND = sorted(path.name for path in (HOSTILE / "sound").iterdir())


@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_refused_with_its_code_or_read_as_what_it_is(name):
    data = (HOSTILE / name).read_bytes()
    code, words = EXPECTED[name]
    if code == "same as":
        assert np.array_equal(decode(data), decode((HOSTILE / "sound" / words).read_bytes()))
        return
    with pytest.raises(ImageError) as caught:
        preprocess(data)
    assert caught.value.code == code and words in caught.value.message
    assert re.fullmatch(r"[A-Za-z0-9 ,.;:_\-]{1,160}", caught.value.message)


def test_the_table_names_every_file():
    assert {path.name for path in HOSTILE.iterdir() if path.is_file()} == {*EXPECTED, "expected.json", "make.py"}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_picture_is_read(name):
    pixels = decode((HOSTILE / "sound" / name).read_bytes())
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.std() > 5
