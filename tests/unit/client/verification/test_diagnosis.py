"""The gate's parts: distance, neighbours, golden sets, and the mistake that a wrong answer comes from."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from metric_learn_client.contract.distance import relative_distance
from metric_learn_client.preprocess import preprocess
from metric_learn_client.verification.diagnosis import diagnose
from metric_learn_client.verification.golden import GoldenError, GoldenSet, read_golden, safe_names, write_golden
from metric_learn_client.verification.parity import compare, neighbours_agree

from . import small_network as network

GOLDEN = Path(__file__).parents[3] / "golden"


@pytest.fixture(scope="module")
def golden():
    stored = read_golden(GOLDEN)
    wrong = {"missing_normalisation": network.embed_pixels(stored.pixels, shift=0.0)}
    embeddings = network.embed_pixels(stored.pixels)
    return GoldenSet(stored.names, stored.images, embeddings, stored.pixels, wrong, {"fingerprint": "a" * 64})


def decoded(image, flags=cv2.IMREAD_COLOR):
    return cv2.imdecode(np.frombuffer(image, np.uint8), flags)


def short_side(image, interpolation=cv2.INTER_LANCZOS4):
    factor = 224 / min(image.shape[:2])
    return cv2.resize(
        image, (round(image.shape[1] * factor), round(image.shape[0] * factor)), interpolation=interpolation
    )


def rgb(image):
    return preprocess(image)[:, :, ::-1]


def one_bilinear(image):
    return cv2.resize(decoded(image), (224, 224), interpolation=cv2.INTER_LINEAR)


def centre_crop(image):
    short = short_side(decoded(image))
    top, left = (short.shape[0] - 224) // 2, (short.shape[1] - 224) // 2
    return short[top : top + 224, left : left + 224]


def no_exif(image):
    turned = decoded(image, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.resize(short_side(turned), (224, 224), interpolation=cv2.INTER_LINEAR)


def pillow(image):
    from PIL import Image

    upright = decoded(image)
    factor = 224 / min(upright.shape[:2])
    size = (round(upright.shape[1] * factor), round(upright.shape[0] * factor))
    short = np.asarray(Image.fromarray(upright).resize(size, Image.Resampling.LANCZOS))
    return cv2.resize(short, (224, 224), interpolation=cv2.INTER_LINEAR)


def rgb_without_exif(image):
    return no_exif(image)[:, :, ::-1]


def find(golden, answered, **more):
    found = diagnose(
        golden,
        np.asarray(answered, np.float32),
        network.embed_pixels if "embed_pixels" not in more else more.pop("embed_pixels"),
        tolerance=1e-4,
        pixel_tolerance=1e-4,
        **more,
    )
    return found[0]


@pytest.mark.parametrize(
    ("make_pixels", "mistake"),
    [
        (rgb, "rgb"),
        (one_bilinear, "one-bilinear-resize"),
        (centre_crop, "centre-crop"),
        (no_exif, "exif-ignored"),
        (pillow, "pillow-lanczos"),
        (rgb_without_exif, "rgb+exif-ignored"),
    ],
)
def test_a_mistake_in_preprocessing_is_named(golden, make_pixels, mistake):
    finding = find(golden, network.embed(golden.images, make_pixels))
    assert (finding.mistake, finding.where, finding.certain) == (mistake, "preprocessing", True)


def test_an_output_that_is_not_normalised_is_named(golden):
    finding = find(golden, network.features(golden.pixels))
    assert (finding.mistake, finding.certain) == ("not-normalised", True)
    assert "l2_normalize" in finding.sentence


def test_missing_normalisation_is_named_from_the_recorded_answer(golden):
    def wrong(pixels):
        return network.embed_pixels(pixels, shift=0.0)

    finding = find(golden, wrong(golden.pixels), embed_pixels=wrong)
    assert (finding.mistake, finding.where, finding.certain) == ("missing-normalisation", "network", True)


def test_another_versions_weights_are_named_by_its_golden_set_or_by_the_fingerprint(golden):
    def wrong(pixels):
        return network.embed_pixels(pixels, weights=network._OTHER_WEIGHTS)

    other = replace(golden, embeddings=wrong(golden.pixels))
    finding = find(golden, wrong(golden.pixels), embed_pixels=wrong, other_sets={"golden-v2": other})
    assert finding.mistake == "wrong-version" and "golden-v2" in finding.sentence
    finding = find(golden, wrong(golden.pixels), embed_pixels=wrong, served_fingerprint="b" * 64)
    assert finding.mistake == "wrong-version" and "bbbb" in finding.sentence


def test_a_mistake_that_is_not_known_is_not_given_a_name(golden):
    def brighter(image):
        return cv2.add(preprocess(image), np.full(3, 20.0))

    finding = find(golden, network.embed(golden.images, brighter))
    assert finding.mistake is None and finding.where == "preprocessing"


def test_an_endpoint_that_embeds_nothing_is_said_to(golden):
    finding = find(golden, np.full((len(golden.names), 2048), np.nan))
    assert finding.mistake is None and "none of the pictures" in finding.sentence


def test_a_failed_picture_is_a_failed_row():
    rows = np.eye(3, 8, dtype=np.float32)
    answered = rows.copy()
    answered[1] = np.nan
    parity = compare(("a", "b", "c"), answered, rows, tolerance=1e-4, errors={1: "E_DECODE: broken"})
    assert [row.within for row in parity.rows] == [True, False, True]
    assert not parity.passed and parity.rows[1].error == "E_DECODE: broken"


def test_every_line_of_the_oracles_table_is_far_outside_the_tolerance():
    """Golden README: one level brighter is 2e-3 in the median; a tolerance of 1e-4 must see it."""
    stored = read_golden(GOLDEN)
    assert (relative_distance(stored.embeddings * np.float32(1.001), stored.embeddings) > 1e-4).all()
    assert (relative_distance(stored.embeddings, stored.embeddings) == 0).all()


def test_neighbours_disagree_when_two_pictures_change_places_and_agree_within_rounding():
    rng = np.random.default_rng(0)
    rows = network.unit(rng.standard_normal((40, 64)))
    assert neighbours_agree(rows.astype(np.float16).astype(np.float32), rows).all()
    swapped = rows.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert not neighbours_agree(swapped, rows).all()


def test_a_golden_set_reads_back_as_written(golden, tmp_path):
    write_golden(tmp_path / "set", golden)
    for path in (tmp_path / "set", tmp_path / "set" / "golden.json", tmp_path / "set" / "reference.npz"):
        again = read_golden(path)
        assert again.names == golden.names and again.images == golden.images
        assert (again.embeddings == golden.embeddings).all() and (again.pixels == golden.pixels).all()
        assert set(again.wrong) == {"missing_normalisation"} and again.fingerprint == "a" * 64
    with pytest.raises(GoldenError, match="exists"):
        write_golden(tmp_path / "set", golden)


@pytest.mark.parametrize("damage", ["no folder", "cut", "picture", "missing", "manifest", "outside", "text"])
def test_a_damaged_golden_set_is_refused_by_name(golden, tmp_path, damage):
    folder = tmp_path / "set"
    write_golden(folder, golden)
    reference, picture = folder / "reference.npz", folder / "images" / golden.names[2]
    if damage == "no folder":
        folder, said = tmp_path / "nothing", "not a golden set"
    elif damage == "cut":
        reference.write_bytes(reference.read_bytes()[: reference.stat().st_size // 2])
        said = "reference.npz"
    elif damage == "text":
        reference.write_text("hello")
        said = "reference.npz"
    elif damage == "picture":
        picture.write_bytes(b"another one")
        said = "sha256 differs"
    elif damage == "missing":
        picture.unlink()
        said = golden.names[2]
    elif damage == "manifest":
        (folder / "golden.json").write_text("[]")
        said = "schema_version"
    else:
        np.savez(reference, names=np.array(["../../etc/passwd"]), embeddings_f32=golden.embeddings[:1])
        said = "not a file name"
    with pytest.raises(GoldenError, match=said):
        read_golden(folder)


def test_names_of_pictures_become_plain_and_unique():
    hostile = [Path("a b.jpg"), Path("x/<script>.jpg"), Path("y/<script>.jpg"), Path("n" * 300), Path("\udcff.png")]
    names = safe_names(hostile)
    assert len(set(names)) == 5 and names[1] == "0001-_script_.jpg"
    assert all(name.isascii() and len(name) < 100 and "/" not in name for name in names)
