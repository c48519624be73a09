"""backend.aipp: the chip normalises the pixels, here as the simulated one does. Off unless asked for."""

import hashlib
import json

import numpy as np
import pytest

from .test_offline import convert, copy_of
from .test_serving import ACL_UINT8, REFERENCE, SAME, embed, relative_distance

ON = ("backend.aipp=true", "backend.batch_sizes=[1]", "backend.workers=1")
FLOAT16 = 1e-3  # relative distance with AIPP's part alone in float16: 2.7e-4 measured


@pytest.mark.parametrize(
    ("float16", "limit"),
    [pytest.param("", SAME, id="float32"), pytest.param("1", FLOAT16, id="float16", marks=pytest.mark.long)],
)
def test_its_arithmetic_is_that_of_the_graph(host, versions, tmp_path, float16, limit):
    host.set(AIPP_FLOAT16=float16)
    with host.server(*ON) as server:
        assert server.ready_line.startswith("ready"), server.said()
        rows = embed(server.endpoint, tmp_path / "rows.npy")
    features = REFERENCE["features_f32"]
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = relative_distance(rows, expected).max()
    assert distance <= limit and (not float16 or distance > SAME)
    (built,) = host.records("build_model")
    assert built["options"]["ge.insertOpFile"].endswith("/1/aipp.cfg")
    assert built["input"] == [1, 3, 224, 224] and "Transpose" not in built["ops"] and built["input_type"] != ACL_UINT8
    assert {record["bytes_in"] for record in host.records("execute")} == {224 * 224 * 3}


@pytest.mark.long
def test_without_it_the_compiler_is_told_of_no_such_file(host, versions):
    host.set(NUMBERS="golden")
    with host.server(*ON[1:]) as server:
        assert server.ready_line.startswith("ready"), server.said()
    (built,) = host.records("build_model")
    assert "ge.insertOpFile" not in built["options"] and built["input_type"] == ACL_UINT8


@pytest.mark.long
def test_an_offline_model_has_it_inside(host, versions, tmp_path):
    own = copy_of(versions, tmp_path)
    done = convert(host, own, "--target", "ascend310", "--batch-size", "1", "--aipp")
    assert done.returncode == 0, done.stderr
    assert host.records("build_model")[0]["options"]["ge.insertOpFile"] == str(own / "1" / "aipp.cfg")
    with host.server(*ON, f"model.directory={own}") as server:
        assert server.ready_line.startswith("ready"), server.said()
    assert len(host.records("build_model")) == 1 and {each["bytes_in"] for each in host.records("execute")} == {150528}
    plain = host.check(f"model.directory={own}")
    assert plain.returncode == 0, "without backend.aipp the version is served as before"


def test_a_version_without_it_is_refused(host, versions, tmp_path):
    own = copy_of(versions, tmp_path)
    path = own / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["aipp"]
    path.unlink()
    path.write_text(json.dumps(manifest))
    done = host.check(f"model.directory={own}", "backend.aipp=true")
    assert done.returncode == 2 and "backend.aipp = True" in done.stderr and "--aipp" in done.stderr
    done = convert(host, own, "--target", "ascend310", "--aipp")
    assert done.returncode == 2 and "export it again with --aipp" in done.stderr


def test_a_wrong_constant_in_it_is_seen_before_anybody_is_answered(host, versions, tmp_path):
    own = copy_of(versions, tmp_path)
    path, config = own / "1" / "manifest.json", own / "1" / "aipp.cfg"
    text = config.read_text().replace("min_chn_0: 123.675", "min_chn_0: 103.53")
    manifest = json.loads(path.read_text())
    manifest["aipp"]["config"]["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    for file, content in ((config, text), (path, json.dumps(manifest))):
        file.unlink()
        file.write_text(content)
    with host.server(*ON, f"model.directory={own}") as server:
        said = server.said()
        assert not server.ready_line and server.process.returncode == 5 and "golden picture came back" in said, said
