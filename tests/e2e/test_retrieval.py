"""Retrieval through the real server: photo pairs, Recall@1 equal to the checkpoint's network, search, reports."""

import json
import os
import subprocess
from pathlib import Path

import cv2
import html5lib
import numpy as np
import pytest
import skimage.data

from metric_learn_client.evaluation.metrics import retrieval_metrics
from metric_learn_client.verification.golden import read_golden
from tests.patience import patient

from . import conftest
from .mistaken import command_line

PAIRS = 40


def photos():
    folder = Path(skimage.data.__file__).parent
    for path in sorted(each for each in folder.iterdir() if each.suffix in (".png", ".jpg", ".jpeg")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is not None and min(image.shape[:2]) >= 128:
            yield image


def regions():
    """Different pictures: each photo, and its quarters."""
    for image in photos():
        yield image
        height, width = image.shape[:2]
        if min(height, width) >= 300:
            for top in (0, height // 2):
                for left in (0, width // 2):
                    yield image[top : top + height // 2, left : left + width // 2]


def second_view(image, number):
    """The same picture, cropped, turned by a few degrees, and brighter or darker."""
    height, width = image.shape[:2]
    turned = cv2.warpAffine(
        image,
        cv2.getRotationMatrix2D((width / 2, height / 2), (-6, 4, 8)[number % 3], 1.15),
        (width, height),
        borderMode=cv2.BORDER_REFLECT,
    )
    margin = 8 + number % 12
    cropped = turned[height // margin : height - height // margin, width // margin : width - width // margin]
    return cv2.convertScaleAbs(cropped, alpha=(0.85, 1.15)[number % 2], beta=(-8, 12)[number % 2])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder of class folders with two pictures each."""
    folder = tmp_path_factory.mktemp("pairs")
    for number, image in zip(range(PAIRS), regions()):
        made = folder / f"class-{number:02d}"
        made.mkdir()
        cv2.imwrite(str(made / "a.jpg"), image)
        cv2.imwrite(str(made / "b.jpg"), second_view(image, number))
    assert len(list(folder.iterdir())) == PAIRS
    return folder


@pytest.fixture(scope="module")
def job(server, pairs, tmp_path_factory):
    """The pairs embedded by a job."""
    output = tmp_path_factory.mktemp("job") / "out"
    done = command_line("embed", pairs, "--output-dir", output, "--shard-size", 20, "--endpoint", server.endpoint)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def evaluated(job, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    done = command_line(
        "evaluate",
        job,
        "--label-from-folder",
        "--report",
        folder / "report.html",
        "--image-root",
        pairs,
        "--plots",
        folder / "plots",
        "--output",
        folder / "numbers.json",
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.timeout(900)  # 80 pictures through MindSpore on a busy machine
def test_the_served_recall_is_that_of_the_checkpoints_network(versions, pairs, evaluated, tmp_path):
    """The same files through the network in MindSpore, without the server; Recall@1 must be equal, not near."""
    files = sorted(pairs.rglob("*.jpg"))
    python = str(conftest.REPOSITORY / ".venv" / "export" / "bin" / "python")
    command = [python, "-m", "export", "golden", "--checkpoint", str(versions / "metric_learn_stand_in.ckpt")]
    environment = {**os.environ, "GLOG_v": "3"}
    command += ["--references-only", "--output", str(tmp_path / "set"), *map(str, files)]
    subprocess.run(command, cwd=conftest.REPOSITORY, env=environment, check=True)
    expected = retrieval_metrics(read_golden(tmp_path / "set").embeddings, [file.parent.name for file in files])
    measured = json.loads((evaluated[0] / "numbers.json").read_text())["metrics"]
    assert measured["queries"] == 2 * PAIRS
    assert 0.1 < measured["recall"]["1"] < 1  # neither chance (1 in 79) nor too easy to tell anything
    assert measured["recall"]["1"] == expected.recall[1]
    assert measured["recall"]["10"] == expected.recall[10]


def test_the_evaluation_names_its_protocol_and_judges_no_stand_in_weights(evaluated):
    folder, text = evaluated
    assert "query = gallery, each query left out" in text and "compared with nothing" in text
    numbers = json.loads((folder / "numbers.json").read_text())
    assert numbers["checks"] == [] and numbers["model"]["weights"] == "stand-in"
    assert {each.name for each in (folder / "plots").iterdir()} == {"recall.png", "similarity.png", "norms.png"}
    document = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse((folder / "report.html").read_text())
    assert len([e for e in document.iter("img")]) > 20


def test_embedding_on_the_way_gives_the_same_numbers(server, pairs, evaluated):
    done = command_line(
        "evaluate", "--images", pairs, "--endpoint", server.endpoint, "--deadline-s", patient(60), "--json"
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads((evaluated[0] / "numbers.json").read_text())["metrics"]
    on_the_way = json.loads(done.stdout)["metrics"]
    assert on_the_way == measured


def test_a_wanted_recall_that_is_not_reached_is_exit_5(job):
    done = command_line("evaluate", job, "--label-from-folder", "--min-recall-at-1", "1")
    assert done.returncode == 5 and "FAIL: Recall@1" in done.stdout


def test_a_served_picture_finds_itself_in_the_index_and_another_models_index_is_refused(server, job, pairs, tmp_path):
    assert command_line("index", "build", job, "--output", tmp_path / "index").returncode == 0
    query = pairs / "class-07" / "a.jpg"
    page = tmp_path / "page.html"
    done = command_line(
        "search",
        query,
        "--index",
        tmp_path / "index",
        "--endpoint",
        server.endpoint,
        "--k",
        3,
        "--json",
        "--html",
        page,
        "--image-root",
        pairs,
    )
    assert done.returncode == 0, done.stderr
    neighbours = json.loads(done.stdout)["neighbours"]
    assert neighbours[0]["path"].endswith("class-07/a.jpg") and abs(neighbours[0]["similarity"] - 1) < 1e-5
    document = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page.read_text())
    assert len([e for e in document.iter("img")]) == 4
    facts = tmp_path / "index" / "index.json"
    changed = json.loads(facts.read_text())
    facts.write_text(json.dumps({**changed, "fingerprint": "0" * 64}))
    refused = command_line("search", query, "--index", tmp_path / "index", "--endpoint", server.endpoint)
    assert refused.returncode == 2 and "another" not in refused.stdout and "0000" in refused.stderr


def test_searching_stored_images_needs_no_endpoint(job, tmp_path):
    assert command_line("index", "build", job, "--output", tmp_path / "index", "--kind", "hnsw").returncode == 0
    stored = json.loads((job / "stats" / "00000.json").read_text())["succeeded"]
    assert stored == 20
    import pyarrow.parquet as pq

    path = pq.read_table(job / "metadata" / "metadata_00001.parquet").column("image_path")[5].as_py()
    done = command_line("search", path, "--stored", "--index", tmp_path / "index", "--k", 1)
    assert done.returncode == 0 and path in done.stdout.splitlines()[1], done.stderr
    missing = command_line("search", "nothing.jpg", "--stored", "--index", tmp_path / "index")
    assert missing.returncode == 2 and "nothing.jpg" in missing.stderr


def test_copies_of_a_picture_are_reported_as_duplicates(server, pairs, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(6):
        image = (pairs / f"class-{number:02d}" / "a.jpg").read_bytes()
        (folder / f"{number}.jpg").write_bytes(image)
    (folder / "copy-of-2.jpg").write_bytes((folder / "2.jpg").read_bytes())
    output = tmp_path / "job"
    done = command_line("embed", folder, "--output-dir", output, "--endpoint", server.endpoint)
    assert done.returncode == 0, done.stderr
    found = command_line("index", "duplicates", output, "--threshold", "0.999999", "--json")
    groups = json.loads(found.stdout)["groups"]
    assert [[Path(path).name for path in group["paths"]] for group in groups] == [["2.jpg", "copy-of-2.jpg"]]


def test_rows_keep_their_pictures_when_recall_is_computed_over_shards(job):
    """The set that was read back has every picture once, in the job's order."""
    from metric_learn_client.evaluation.embedding_set import read_embedding_set

    found = read_embedding_set(job)
    assert len(found) == 2 * PAIRS and len(set(found.paths)) == 2 * PAIRS
    assert found.identity.fingerprint and np.allclose(np.linalg.norm(found.embeddings, axis=1), 1, atol=1e-5)
