"""The commands verify, golden, evaluate, index and search against an in-process server: output and exit codes."""

import json
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from metric_learn_client.cli import cli
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.preprocess import preprocess
from metric_learn_client.testing import FakeServable
from tests.unit.client.search.test_index import clustered, sharded, write_job
from tests.unit.client.verification import small_network as network

GOLDEN = Path(__file__).parents[3] / "golden"
PIXELS_BYTES = 224 * 224 * 3


def served(change=lambda pixels: pixels, scale=1.0):
    """A servable's function: files or pixels -> rows, with a mistake for files alone."""

    def embed(images):
        made = []
        for image in images:
            if len(image) == PIXELS_BYTES:
                made.append(np.frombuffer(bytes(image), np.uint8).reshape(224, 224, 3))
            else:
                made.append(change(preprocess(bytes(image))))
        return network.embed_pixels(np.stack(made)) * np.float32(scale)

    return embed


def run(*arguments):
    """(exit code or exception, stdout, stderr)."""
    result = CliRunner().invoke(cli, [str(each) for each in arguments], standalone_mode=False)
    if result.exception is not None and not isinstance(result.exception, (SystemExit, click.UsageError)):
        raise result.exception
    code = result.return_value if result.exception is None else result.exception
    return code, result.stdout, result.stderr


@pytest.fixture
def golden(tmp_path):
    with FakeServable(embed=served()) as server:
        code, out, _ = run(
            "golden", "record", GOLDEN / "images", "--output", tmp_path / "set", "--endpoint", server.endpoint
        )
        assert code == ExitCode.DONE and "recorded 18 pictures" in out
    return tmp_path / "set"


def test_verify_passes_with_the_recording_servers_embeddings(golden, tmp_path):
    with FakeServable(embed=served()) as server:
        code, out, _ = run("verify", "--golden", golden, "--endpoint", server.endpoint, "--output", tmp_path / "v.json")
    assert code == ExitCode.DONE and "PASS: all 18 pictures" in out
    verdict = json.loads((tmp_path / "v.json").read_text())
    assert verdict["passed"] and len(verdict["references"]["rows"]) == 18


def test_verify_fails_with_exit_5_and_names_the_mistake(golden):
    with FakeServable(embed=served(lambda pixels: pixels[:, :, ::-1])) as server:
        code, out, _ = run("verify", "--golden", golden, "--endpoint", server.endpoint)
        assert code == ExitCode.GATE_FAILED
        assert "FAIL: 1" in out and "diagnosis: channels in RGB order" in out
        code, out, _ = run("verify", "--golden", golden, "--endpoint", server.endpoint, "--no-diagnosis", "--json")
        assert code == ExitCode.GATE_FAILED and json.loads(out)["diagnosis"] == []


def test_a_half_right_precision_is_seen_through_ready_made_pixels(golden):
    """One level brighter is inside float16's tolerance against references; against pixels it is not."""

    def brighter(pixels):
        return np.clip(pixels.astype(int) + 1, 0, 255).astype(np.uint8)

    with FakeServable(embed=served(brighter)) as server:
        code, out, _ = run(
            "verify", "--golden", golden, "--endpoint", server.endpoint, "--precision", "float16", "--json"
        )
    verdict = json.loads(out)
    assert verdict["references"]["worst"] < 2e-2 and verdict["references"]["passed"]
    assert code == ExitCode.GATE_FAILED and not verdict["preprocessing"]["passed"]


def test_a_network_that_is_off_by_a_thousandth_fails(golden):
    def nearly(images):
        rows = served()(images)
        wobble = np.random.default_rng(0).standard_normal(rows.shape[1]).astype(np.float32)
        return network.unit(rows + np.float32(1e-3) * wobble / np.linalg.norm(wobble))

    with FakeServable(embed=nearly) as server:
        code, out, _ = run("verify", "--golden", golden, "--endpoint", server.endpoint)
    assert code == ExitCode.GATE_FAILED and "FAIL: 18 of 18" in out
    assert "diagnosis: ready-made pixels embed wrong, too" in out


def test_recording_nothing_where_a_picture_fails(tmp_path):
    broken = tmp_path / "corrupt.jpg"
    broken.write_bytes(b"corrupt")
    with FakeServable() as server:
        code, _, err = run("golden", "record", broken, "--output", tmp_path / "set", "--endpoint", server.endpoint)
    assert code == ExitCode.SOME_FAILED and "E_DECODE" in err and not (tmp_path / "set").exists()


@pytest.fixture
def job(tmp_path):
    embeddings, labels = clustered(300, 2048, 30)
    shards, paths = sharded(embeddings, labels, 3)
    return write_job(tmp_path / "job", shards), paths


def test_evaluate_writes_numbers_plots_and_a_report(job, tmp_path):
    code, out, _ = run(
        *("evaluate", job[0], "--report", tmp_path / "r.html", "--plots", tmp_path / "p"),
        *("--output", tmp_path / "n.json", "--k", 1, "--k", 5),
    )
    assert code == ExitCode.DONE and "Recall@1 " in out and "each query left out" in out
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert set(numbers["metrics"]["recall"]) == {"1", "5"} and numbers["model"]["fingerprint"] == "a" * 64
    assert (tmp_path / "r.html").stat().st_size > 10_000 and len(list((tmp_path / "p").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate"], "give EMBEDDINGS"),
        (["evaluate", "JOB", "--label-column", "nothing"], "no column 'nothing'"),
        (["evaluate", "JOB", "--protocol", "sop-half"], "go together"),
        (["evaluate", "nowhere"], "no such file"),
        (["index", "build", "nowhere", "--output", "OUT"], "no such file"),
        (["index", "duplicates", "nowhere"], "no such file"),
        (["search", "x.jpg", "--index", "nowhere"], "not an index"),
        (["verify", "--golden", "nowhere"], "not a golden set"),
    ],
)
def test_a_wrong_use_is_one_line_with_the_value(job, tmp_path, arguments, said):
    places = {"JOB": job[0], "OUT": tmp_path / "out"}
    code, _, _ = run(*[places.get(each, each) for each in arguments])
    assert isinstance(code, click.UsageError) and said in code.message and "\n" not in code.message


def test_a_query_file_that_is_missing_does_not_stop_the_others(tmp_path):
    pictures = []
    rng = np.random.default_rng(0)
    for number in range(4):
        pictures.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(pictures[-1]), rng.integers(0, 255, (240, 240, 3), dtype=np.uint8))
    rows = network.embed([picture.read_bytes() for picture in pictures])
    with FakeServable(embed=served()) as server:
        source = write_job(tmp_path / "job", [(rows, [str(p) for p in pictures])], fingerprint=server.fingerprint)
        assert run("index", "build", source, "--output", tmp_path / "index")[0] == ExitCode.DONE
        code, out, err = run(
            *("search", pictures[2], tmp_path / "missing.png", pictures[0], "--index", tmp_path / "index", "--k", 2),
            *("--endpoint", server.endpoint, "--json", "--html", tmp_path / "page.html"),
        )
    assert code == ExitCode.SOME_FAILED and "missing.png: E_READ" in err
    found = [json.loads(line) for line in out.splitlines()]
    assert [each["neighbours"][0]["path"] for each in found] == [str(pictures[2]), str(pictures[0])]
    assert (tmp_path / "page.html").read_text().count("<img") == 6


def test_an_index_of_another_model_is_refused(job, tmp_path):
    assert run("index", "build", job[0], "--output", tmp_path / "index")[0] == ExitCode.DONE
    with FakeServable(embed=served()) as server:
        code, _, _ = run(
            "search", GOLDEN / "images" / "coffee_rgb.png", "--index", tmp_path / "index", "--endpoint", server.endpoint
        )
    assert isinstance(code, click.UsageError) and "the index holds embeddings of model aaaa" in code.message


def test_an_approximate_index_below_its_target_is_exit_5(tmp_path):
    rows = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
    source = write_job(tmp_path / "job", [(rows, [f"{n}.jpg" for n in range(3000)])])
    code, out, _ = run("index", "build", source, "--output", tmp_path / "i", "--kind", "hnsw", "--json")
    assert code == ExitCode.DONE and json.loads(out)["recall_at_10"] >= 0.95
    code, _, err = run("index", "build", source, "--output", tmp_path / "i2", "--kind", "ivf", "--target-recall", 1)
    assert code in (ExitCode.DONE, ExitCode.GATE_FAILED)
    assert (code == ExitCode.GATE_FAILED) == ("below --target-recall" in err)
