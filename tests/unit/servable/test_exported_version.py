"""Exported versions: those of a former preprocessing are served and told apart, not broken."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from metric_learn_client import wire
from servable.config import ConfigError
from servable.exported_version import MODEL_FACTS, open_version

(FORMER,) = wire.FORMER_PREPROCESSING_IDS
FACTS = yaml.safe_load(MODEL_FACTS.read_text())


def fingerprint(preprocessing, weights="w" * 64, **changes):
    """Worked out here from what the first release wrote, so that no change of the product's rule goes unseen."""
    decides = {
        "weights": weights,
        "network": FACTS["model"]["network"],
        "preprocessing": preprocessing,
        **FACTS["normalisation"],
        **changes,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def exported(tmp_path):
    """Writes version 1 as an export did; None leaves a key out."""

    def write(preprocessing, **changes):
        folder = tmp_path / "1"
        folder.mkdir()
        golden = np.zeros(2048, np.float32)
        golden[0] = 1
        np.save(folder / "golden.npy", golden)
        (folder / "golden.jpg").write_bytes(b"a picture")
        (folder / "b1.mindir").write_bytes(b"a network")
        manifest = {
            "schema_version": 1,
            "model": "metric_learn",
            "version": 1,
            "weights": "custom",
            "weights_sha256": "w" * 64,
            "network": FACTS["model"]["network"],
            "fingerprint": fingerprint(preprocessing),
            "preprocessing": preprocessing,
            "embedding_dim": 2048,
            "mindir": [{"file": "b1.mindir", "batch_size": 1, "sha256": digest(folder / "b1.mindir")}],
            "golden": {
                "image": {"file": "golden.jpg", "sha256": digest(folder / "golden.jpg")},
                "embedding": {"file": "golden.npy", "sha256": digest(folder / "golden.npy")},
            },
            **changes,
        }
        manifest = {key: value for key, value in manifest.items() if value is not None}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return write


def test_a_version_of_the_present_preprocessing_keeps_its_fingerprint(exported):
    version = open_version(exported(wire.PREPROCESSING_ID))
    assert version.fingerprint == fingerprint(wire.PREPROCESSING_ID)
    assert version.exported_for == version.preprocessing == wire.PREPROCESSING_ID


def test_a_version_of_the_former_preprocessing_is_served_as_a_new_export_of_it_would_be(exported):
    version = open_version(exported(FORMER))
    assert version.fingerprint == fingerprint(wire.PREPROCESSING_ID) != fingerprint(FORMER)
    assert (version.preprocessing, version.exported_for) == (wire.PREPROCESSING_ID, FORMER)


def test_the_manifests_own_normalisation_counts_before_this_checkouts(exported):
    other = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    folder = exported(FORMER, normalisation=other, fingerprint=fingerprint(FORMER, **other))
    assert open_version(folder).fingerprint == fingerprint(wire.PREPROCESSING_ID, **other)


@pytest.mark.parametrize(
    "changes",
    [{"weights_sha256": None}, {"network": None}, {"weights_sha256": "v" * 64}, {"fingerprint": "f" * 64}],
    ids=["without weights", "without network", "other weights", "other fingerprint"],
)
def test_a_former_version_whose_parts_cannot_be_proved_is_refused_with_the_remedy(exported, changes):
    with pytest.raises(ConfigError, match="cannot be proved; export version 1 again with --force"):
        open_version(exported(FORMER, **changes))


def test_a_version_of_an_unknown_preprocessing_is_refused(exported):
    with pytest.raises(ConfigError, match="preprocessing = 'rgb': this server takes 'bgr-upright"):
        open_version(exported("rgb"))


def test_a_device_loads_the_model_of_the_largest_batches_twice(exported):
    version = open_version(exported(wire.PREPROCESSING_ID))
    assert version.device_models == {1: 1}
    assert replace(version, batch_sizes=(1, 4, 16)).device_models == {1: 1, 4: 1, 16: 2}
