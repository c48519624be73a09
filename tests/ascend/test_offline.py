"""Offline models: made by MindSpore Lite's own converter with the simulated CANN, and what a server does with them."""

import json

import numpy as np
import pytest

from metric_learn_client import EmbeddingClient
from tests.e2e.second_version import link_tree
from tests.patience import patient

from .simulated_host import SERVER_PYTHON, SimulatedHost

SMALL = ("backend.batch_sizes=[1]", "backend.workers=1")
PIXELS = [np.full((224, 224, 3), 7, np.uint8)]
# converter_lite of an unpacked package: it keeps what it was given, and then is the library that the wheel holds.
CONVERTER_LITE = """#!/bin/sh
printf '%s\\n' "$LD_LIBRARY_PATH" "$@" > {record}
[ -z "$FAILS" ] || {{ echo "[ERROR] no space left"; exit 1; }}
METRIC_LEARN_LITE_DIR={library} exec {python} -m servable.runtime.lite_converter "$@"
"""


def convert(host, versions, *options):
    return host.run(
        SERVER_PYTHON, "-m", "export", "convert", "--version", "1", "--directory", versions, *options, timeout=120
    )


def copy_of(versions, folder):
    """Version 1 in a folder of its own."""
    link_tree(versions / "1", folder / "versions" / "1")
    return folder / "versions"


def manifest(versions):
    return json.loads((versions / "1" / "manifest.json").read_text())


@pytest.fixture
def own(versions, tmp_path):
    return copy_of(versions, tmp_path)


@pytest.fixture(scope="module")
def converted(libraries, versions, tmp_path_factory):
    """A version with an offline model of batch size 1 for the Ascend 310, and the host on which it was made."""
    folder = tmp_path_factory.mktemp("converted")
    host = SimulatedHost(libraries, folder)
    own = copy_of(versions, folder)
    options = ("--target", "ascend310", "--precision-mode", "allow_fp32_to_fp16", "--batch-size", "1")
    done = convert(host, own, *options)
    assert done.returncode == 0, done.stderr
    return own, host


def test_the_converter_compiles_for_the_chip_and_the_manifest_tells_it(converted, versions):
    own, host = converted
    (built,) = host.records("build_model")
    assert built["options"]["ge.exec.precision_mode"] == "allow_fp32_to_fp16" and built["ops"]["Conv2D"] == 53
    assert {record["options"]["ge.socVersion"] for record in host.records("build_initialize")} == {"Ascend310"}
    (section,) = manifest(own)["offline"]
    assert (section["soc_version"], section["precision_mode"]) == ("Ascend310", "allow_fp32_to_fp16")
    assert section["tools"]["cann"] == "6.3.T200"
    assert [model["batch_size"] for model in section["models"]] == [1]
    without = {key: value for key, value in manifest(own).items() if key != "offline"}
    assert without == manifest(versions), "the fingerprint and everything else stay"


def test_a_start_with_an_offline_model_compiles_nothing_and_serves(converted, host):
    own, _ = converted
    host.set(NUMBERS="golden")
    with host.server(*SMALL, f"model.directory={own}", "backend.precision_mode=allow_fp32_to_fp16") as server:
        assert server.ready_line.startswith("ready"), server.said()
        with EmbeddingClient(server.endpoint) as client:
            assert np.abs(client.embed(PIXELS).embeddings - np.load(own / "1" / "golden.npy")).max() < 1e-6
        server.process.terminate()
        assert "compiling" not in server.said()
    assert not host.records("build_model") and {record["batch"] for record in host.records("load")} == {1}


def test_batch_sizes_without_an_offline_model_are_compiled_and_counted(converted, host):
    own, _ = converted
    host.set(NUMBERS="golden", COMPILE_S=2)
    flags = ("backend.batch_sizes=[1,16]", "backend.workers=1", "backend.precision_mode=allow_fp32_to_fp16")
    with host.server(*flags, f"model.directory={own}") as server:
        assert server.ready_line.startswith("ready"), server.said()
        server.process.terminate()
        said = server.said()
    for number in (1, 2):  # the largest twice
        assert f"compiling model {number} of 2 for the device" in said
    assert [record["batch"] for record in host.records("build_model")] == [16, 16]


@pytest.mark.parametrize(
    ("soc", "flags", "words"),
    [
        (
            "Ascend310P3",
            ["backend.precision_mode=allow_fp32_to_fp16"],
            ["for Ascend310, ", "Ascend310P3", "ascend310p"],
        ),
        ("Ascend310", [], ["backend.precision_mode = force_fp16", "compiled with allow_fp32_to_fp16", "--force"]),
    ],
    ids=["another chip", "another precision"],
)
def test_offline_models_that_do_not_fit_are_refused_in_one_line(converted, host, soc, flags, words):
    own, _ = converted
    done = host.set(SOC=soc).check(f"model.directory={own}", *flags)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and all(word in line for word in words), line
    with host.server(*SMALL, f"model.directory={own}", *flags) as server:
        assert not server.ready_line and server.process.wait(patient(30)) == 2
        assert line in server.said()


def test_an_offline_model_of_another_family_is_left_alone(converted, host):
    own, _ = converted
    done = host.set(SOC="Ascend910A").check(f"model.directory={own}", config="configs/ascend910.yaml")
    assert done.returncode == 0, done.stderr


def test_a_damaged_offline_model_is_refused(converted, host, tmp_path):
    own = copy_of(converted[0], tmp_path)
    model = own / "1" / "metric_learn_b1.Ascend310.mindir"
    data = model.read_bytes()
    model.unlink()
    model.write_bytes(data[:-1])
    done = host.check(f"model.directory={own}", "backend.precision_mode=allow_fp32_to_fp16")
    assert done.returncode == 2 and f"{model}: damaged" in done.stderr


def test_the_converter_of_an_unpacked_package_is_preferred_and_its_failure_said(own, host, tmp_path):
    lite = SERVER_PYTHON.parents[3] / ".runtime" / "mindspore-lite-2.0.0"
    package, record = tmp_path / "package", tmp_path / "given"
    link_tree(lite, package / "runtime" / "lib")
    program = package / "tools" / "converter" / "converter" / "converter_lite"
    program.parent.mkdir(parents=True)
    program.write_text(CONVERTER_LITE.format(record=record, library=lite, python=SERVER_PYTHON))
    program.chmod(0o755)
    host.environment["METRIC_LEARN_LITE_DIR"] = str(package)
    options = ("--target", "ascend310p", "--batch-size", "1")
    host.set(SOC="Ascend310P3")
    done = convert(host, own, *options)
    assert done.returncode == 0, done.stderr
    library_path, *given = record.read_text().splitlines()
    assert (
        str(package / "tools" / "converter" / "lib") in library_path and "ascend-toolkit/latest/lib64" in library_path
    )
    assert given[:3] == ["--fmk=MINDIR", "--saveType=MINDIR", "--optimize=ascend_oriented"]
    assert [argument.partition("=")[0] for argument in given[3:]] == ["--modelFile", "--outputFile", "--configFile"]
    assert manifest(own)["offline"][0]["tools"]["converter"] == "converter_lite"
    before = manifest(own)
    host.environment["FAILS"] = "1"
    done = convert(host, own, *options, "--force")
    assert done.returncode == 1 and "says: [ERROR] no space left; is CANN" in done.stderr
    assert manifest(own) == before and not list((own / "1").glob(".offline*")), "whole or not at all"


@pytest.mark.parametrize(
    ("options", "settings", "environment", "words"),
    [
        (["--target", "ascend910"], {}, {}, ["this host is an Ascend310", "--target ascend310"]),
        (["--target", "ascend310"], {"INSTALLED": ""}, {}, ["there is no CANN here", "ASCEND_HOME_PATH"]),
        (["--target", "ascend310"], {}, {"METRIC_LEARN_LITE_DIR": "/none"}, ["converter_lite", "make server-env"]),
        (["--target", "ascend310", "--batch-size", "3"], {}, {}, ["--batch-size 3", "[1, 4, 16]"]),
        ([], {}, {}, ["--checkpoint FILE"]),
    ],
    ids=["another chip", "no CANN", "no converter", "no such batch size", "nothing to convert"],
)
def test_a_conversion_that_cannot_be_is_refused_in_one_line(own, host, options, settings, environment, words):
    host.set(**settings)
    host.environment.update(environment)
    done = convert(host, own, *options)
    assert done.returncode == 2 and all(word in done.stderr.splitlines()[-1] for word in words), done.stderr
    assert "offline" not in manifest(own)


def test_offline_models_are_replaced_only_with_force(converted, host, tmp_path):
    own = copy_of(converted[0], tmp_path)
    done = convert(host, own, "--target", "ascend310", "--batch-size", "1")
    assert done.returncode == 2 and "replace them with --force" in done.stderr
    done = convert(host, own, "--target", "ascend310", "--batch-size", "1", "--force")
    assert done.returncode == 0, done.stderr
    assert [section["precision_mode"] for section in manifest(own)["offline"]] == ["force_fp16"]
