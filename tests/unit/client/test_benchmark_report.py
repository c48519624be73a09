"""What the benchmark sends, and what it makes of its measurements: ratios within a round, verdicts, files."""

import csv
import json

import pytest

from metric_learn_client.wire import PredictRequest
from tests.benchmarks import devices, report
from tests.benchmarks.rounds import Rounds

HOST = {"server": 1.0, "client": 0.1}
SPEED = {"images_per_s": 10.0, "cpu_ms": 100.0}
WORK = {
    "pictures with unequal pixels": 0,
    "cpu_ms": {"reference": 4.0, "product": 1.0, "decode alone": 0.5},
    "ratios": [0.25],
}


def host_rounds():
    names = ["no-network", "echo", "no-network 8 a call", "no-network 128 a call"]
    names += ["no-network 1 calls at a time", "no-network 32 calls at a time"]
    return [{name: dict(HOST) for name in names} for _ in range(3)]


def model_rounds():
    names = ("bare", "product", "product, pixels", "plain", "LitServe")
    each = {name: dict(SPEED) for name in names}
    each["plain"]["images_per_s"] = each["LitServe"]["images_per_s"] = 5.0
    each.update({"bare, alone": {"p50_ms": 40.0}, "product, alone": {"p50_ms": 44.0}})
    return [json.loads(json.dumps(each)) for _ in range(3)]


def facts():
    work = {size: WORK for size in ("0.2 Mpx", "1 Mpx", "12 Mpx")}
    return {"host_work": work, "equality": {"product": 0.0}, "memory_mb": {"product": 1}}


def test_ratios_are_taken_within_a_round():
    rounds = Rounds(2, [{"a": {"x": 1.0}, "b": {"x": 2.0}}, {"a": {"x": 30.0}, "b": {"x": 10.0}}])
    assert rounds.ratios("a", "b", "x") == [0.5, 3.0]
    assert rounds.median("a", "x") == 15.5


def test_a_form_that_costs_more_beside_predict_than_it_may_misses_its_target():
    cost = {"images_per_call": 8, "gateway_cpu_us_per_image": 100.0}
    cost.update({"openai_cpu_ratio": 1.5, "oip_cpu_ratio": 1.21, "embed_cpu_ratio": 0.9})
    rows = report.rows_of({**facts(), "gateway_cost": [cost]}, Rounds(3, host_rounds()), Rounds(3, model_rounds()))
    verdicts = {row.what.strip(): row.met for row in rows if row.what.endswith("8 a call") and "/ Predict" in row.what}
    assert verdicts == {
        "/v1/embeddings, base64 / Predict, 8 a call": True,
        "OIP, binary tensors / Predict, 8 a call": False,
        "/embed, npy / Predict, 8 a call": True,
    }


def test_every_slice_runs_once_a_round():
    ran = []
    rounds = Rounds(3)
    rounds.run({name: lambda name=name: ran.append(name) or {"x": 1.0} for name in "abc"})
    assert sorted(ran) == sorted("abc" * 3) and len(rounds.measured) == 3


def test_met_targets_give_0_and_the_files(tmp_path, capsys):
    assert report.write(tmp_path, facts(), Rounds(3, host_rounds()), Rounds(3, model_rounds())) == 0
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert rows[0]["what"] == "offline throughput: product / bare network" and float(rows[0]["value"]) == 1.0
    assert (tmp_path / "results.png").stat().st_size > 5000
    assert "MISSED" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("slice_", "quantity", "value"),
    [
        ("product", "images_per_s", 8.9),
        ("product, pixels", "images_per_s", 9.6),
        ("LitServe", "images_per_s", 8.0),
        ("product, alone", "p50_ms", 51.0),
    ],
)
def test_a_missed_target_gives_1(tmp_path, capsys, slice_, quantity, value):
    measured = model_rounds()
    for each in measured:
        each[slice_][quantity] = value
    assert report.write(tmp_path, facts(), Rounds(3, host_rounds()), Rounds(3, measured)) == 1
    assert capsys.readouterr().out.count("MISSED") >= 1


@pytest.mark.parametrize("change", [{"equality": {"product": 1e-4}}, {"unequal": 1}])
def test_an_unequal_result_is_a_missed_target(tmp_path, change):
    said = json.loads(json.dumps(facts()))
    said["equality"].update(change.get("equality", {}))
    said["host_work"]["1 Mpx"]["pictures with unequal pixels"] = change.get("unequal", 0)
    assert report.write(tmp_path, said, Rounds(3, host_rounds()), Rounds(3, model_rounds())) == 1


def test_an_earlier_run_is_reported_again(tmp_path, capsys):
    report.write(tmp_path, facts(), Rounds(3, host_rounds()), Rounds(3, model_rounds()))
    first = capsys.readouterr().out
    assert report.again(tmp_path) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("images", [1, 8, 32])
def test_a_load_of_pictures_has_as_many_in_each_call_as_were_asked_for(images):
    requests = devices.bodies(images, files=True)
    assert requests and {len(PredictRequest.FromString(each).instances) for each in requests} == {images}
