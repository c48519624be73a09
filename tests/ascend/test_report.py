"""`serving_server --report` on a simulated device: the one file that the first person with a chip sends back."""

import json

import pytest

from .simulated_host import SERVER_PYTHON

SMALL = ("backend.batch_sizes=[1]", "backend.workers=1")


def report(host, versions, *flags, config="configs/ascend310.yaml"):
    file = host.folder / "report.json"
    settings = [f"server.run_dir={host.run_dir}", "server.address=127.0.0.1:0", "server.http_address=127.0.0.1:0"]
    settings += [f"model.directory={versions}", *SMALL, *flags]
    arguments = [part for setting in settings for part in ("--set", setting)]
    command = [SERVER_PYTHON, "-m", "servable.serving_server", "--config", config, "--report", file, *arguments]
    done = host.run(*command, timeout=240)
    return done, json.loads(file.read_text()) if file.exists() else None


def test_it_tells_what_the_host_is_and_what_the_device_gives(host, versions):
    done, told = report(host, versions)
    assert done.returncode == 0, done.stderr
    devices = told["devices"]
    assert devices["chip"] == "Ascend310" and devices["cann"]["version"] == "6.3.T200"
    assert devices["driver"]["version"] == "23.0.rc1" and not devices["cannot_be_opened"]
    assert "/dev/davinci0" in devices["nodes"] and told["check"] == []
    parts = [part["part"] for part in told["trial"]["start"]]
    assert parts[-2:] == ["MindSpore Serving listens: every model is loaded", "right embeddings at every batch size"]
    parity = told["trial"]["parity"]
    assert parity["worst_relative_distance"] < 1e-5 and parity["limit"] == 0.02
    assert len(parity["relative_distance"]) == 1 + 1 + 18  # the golden picture, the export's pixels, golden pictures
    for row in told["trial"]["speed"]:
        assert row["images_per_s"] > 0 and 0 < row["p50_ms"] <= row["p99_ms"]
    assert told["trial"]["memory_mb"] and told["verdict"].startswith("embeddings within")
    assert "report: measuring" in done.stderr and not done.stdout


def test_wrong_embeddings_are_exit_5_and_still_a_report(host, versions):
    host.set(NUMBERS="golden")  # every picture gets the golden picture's: only pictures beside it can tell
    done, told = report(host, versions)
    assert done.returncode == 5, done.stderr
    assert told["verdict"].startswith("WRONG EMBEDDINGS") and told["trial"]["parity"]["worst_relative_distance"] > 0.02


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"INSTALLED": ""}, 4, "lacks CANN 6.3"),
        ({"FAULT": "setdevice:0"}, 4, "RuntimeError"),
        ({"FAULT": "wrong:0"}, 5, "golden picture came back"),
    ],
    ids=["no CANN", "a dead device", "wrong numbers"],
)
def test_a_host_that_does_not_come_to_serve_is_reported_with_the_reason(host, versions, settings, code, words):
    done, told = report(host.set(NUMBERS="golden", **settings), versions)
    assert done.returncode == code and words in told["verdict"], done.stderr
    if "FAULT" in settings:
        assert told["trial"]["log"] and told["devices"]["chip"] == "Ascend310"
        assert bool(told["devices"]["cannot_be_opened"]) == settings["FAULT"].startswith("setdevice")
