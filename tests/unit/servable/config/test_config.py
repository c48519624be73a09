"""Configuration: precedence, and one clear line for everything wrong."""

import subprocess
import sys
from pathlib import Path
from typing import get_origin

import pytest

from servable.config import Config, ConfigError, load_config

REPOSITORY = Path(__file__).parents[4]


@pytest.mark.parametrize("name", ["cpu", "ascend310", "ascend910"])
def test_the_shipped_configurations_are_valid(name):
    assert load_config(REPOSITORY / "configs" / f"{name}.yaml", (), {}).backend.target == name


def test_flag_beats_environment_beats_file_beats_default(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("model: {version: 1}\nbackend: {workers: 2}\n")
    environment = {"METRIC_LEARN_MODEL__VERSION": "2", "METRIC_LEARN_BACKEND__THREADS": "3"}
    config = load_config(file, ["model.version=4"], environment)
    assert (config.model.version, config.backend.threads, config.backend.workers) == (4, 3, 2)
    assert config.server.address == "127.0.0.1:5500"


@pytest.mark.parametrize(
    ("text", "flags", "environment", "words"),
    [
        ("model: {versoin: 1}", [], {}, ["unknown key model.versoin", "did you mean version?"]),
        ("modle: {}", [], {}, ["unknown key modle", "model"]),
        ("model: {version: -1}", [], {}, ["model.version", "-1", "greater than or equal to 0"]),
        ("backend: {target: gpu}", [], {}, ["backend.target", "gpu", "ascend310"]),
        ("server: {address: '::1:5500'}", [], {}, ["server.address", "::1:5500", "in brackets"]),
        ("server: {address: 'unix:x.sock'}", [], {}, ["server.address", "absolute path"]),
        ("model: {versions: [1, 0]}", [], {}, ["model.versions", "greater than or equal to 1"]),
        ("backend: {device_ids: [-1]}", [], {}, ["backend.device_ids", "greater than or equal to 0"]),
        ("limits: {max_request_bytes: 300000000}", [], {}, ["limits.max_request_bytes", "268435456"]),
        ("server: 5", [], {}, ["server = 5", "section with keys", "address"]),
        ("model: {version: 1, version: 2}", [], {}, ["not YAML", "version stands twice"]),
        ("supervision: {stable_s: .nan}", [], {}, ["supervision.stable_s", "finite"]),
        ("server: {address: '127.0.0.1:99999'}", [], {}, ["server.address", "1 to 65535"]),
        ("[1, 2]", [], {}, ["must hold sections"]),
        ("a: [", [], {}, ["not YAML"]),
        ("model: 3", [], {}, ["model"]),
        ("", ["model.version"], {}, ["--set model.version", "section.key=value"]),
        ("", ["model.version=x"], {}, ["--set model.version", "'x'"]),
        ("", [], {"METRIC_LEARN_MODEL__VERSION": "x"}, ["environment METRIC_LEARN_MODEL__VERSION", "'x'"]),
        ("model: {version: 2026-13-45}", [], {}, ["not YAML", "month"]),
        ("model: {version: !!bool x}", [], {}, ["not YAML"]),
        ("", ["model.version=2026-13-45"], {}, ["--set model.version: model.version = '2026-13-45': must be YAML"]),
        ("", ["model.version=!!timestamp x"], {}, ["model.version = '!!timestamp x': must be YAML"]),
        ("", ["model.version=["], {}, ["model.version = '[': must be YAML"]),
        ("", ["model.versions=" + "[" * 3000], {}, ["model.versions = '[[[", "...: must be YAML"]),
        ("", [], {"METRIC_LEARN_MODEL__VERSIONS": "[" * 3000}, ["environment METRIC_LEARN_MODEL__VERSIONS: ", "[..."]),
        ("model: {versions: 3}", [], {}, ["model.versions = 3: must be a list, such as [3]"]),
        ("tracing: {otlp_endpoint: }", [], {}, ["tracing.otlp_endpoint = None: must be text"]),
        ("model: {directory: 3}", [], {}, ["model.directory = 3: must be a path"]),
        ("log: {access: 3}", [], {}, ["log.access = 3: must be true or false"]),
    ],
)
def test_each_mistake_is_one_line_with_source_key_and_remedy(tmp_path, text, flags, environment, words):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, flags, environment)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("section", "key", "a_list"),
    [
        (name, key, field.annotation not in (int, float))
        for name, section in Config.model_fields.items()
        for key, field in type(section.default).model_fields.items()
        if field.annotation in (int, float) or get_origin(field.annotation) is tuple
    ],
)
def test_true_is_no_number(tmp_path, section, key, a_list):
    file = tmp_path / "c.yaml"
    file.write_text(f"{section}: {{{key}: {'[true]' if a_list else 'true'}}}")
    with pytest.raises(ConfigError) as caught:
        load_config(file, (), {})
    assert f"{section}.{key} = {'[True]' if a_list else 'True'}: must be " in str(caught.value)
    assert "number" in str(caught.value) and "\n" not in str(caught.value)


def test_several_mistakes_are_several_lines(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("modle: {}\nbackend: {target: gpu, workers: x}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, (), {})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and all(line.startswith(f"{file}: ") for line in lines)


def test_a_key_knows_where_it_was_set(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("model: {version: 1}\n")
    config = load_config(file, ["server.drain_s=3"], {"METRIC_LEARN_BACKEND__WORKERS": "1"})
    assert config.origin("server.drain_s") == "--set server.drain_s"
    assert config.origin("backend.workers") == "environment METRIC_LEARN_BACKEND__WORKERS"
    assert config.origin("model.version") == config.origin("model.directory") == str(file)


def test_a_relative_credential_starts_at_the_repository(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("security: {tls_certificate: /c, tokens_file: t}\n")
    security = load_config(file, (), {}).security
    assert (security.tls_certificate, security.tokens_file) == (Path("/c"), REPOSITORY / "t")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.yaml"):
        load_config(tmp_path / "nowhere.yaml", (), {})


@pytest.mark.skipif(any(Path("/dev").glob("davinci[0-9]*")), reason="this host has an Ascend device")
@pytest.mark.parametrize("name", ["ascend310", "ascend910"])
def test_an_ascend_configuration_off_ascend_says_what_is_missing_and_exits_4(name):
    command = [sys.executable, "-m", "servable.serving_server", "--config", f"configs/{name}.yaml"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "device" in done.stderr and "CANN" in done.stderr and "driver" in done.stderr
