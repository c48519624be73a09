"""Configuration: precedence, and one clear line for everything wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from servable.config import Config, ConfigError, load_config
from servable.gateway.settings import GatewaySettings, TlsSettings
from servable.gateway_settings import gateway_settings

REPOSITORY = Path(__file__).parents[3]


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


def test_the_gateways_settings_are_all_set_from_the_configuration(tmp_path):
    """Written twice: the section's keys and the gateway's settings. A key of either alone would do nothing."""
    file = tmp_path / "c.yaml"
    file.write_text("")
    config = load_config(file, (), {})
    settings = gateway_settings(config)
    assert settings == GatewaySettings()
    for section in ("limits", "deadlines", "readiness", "tracing"):
        assert set(type(getattr(config, section)).model_fields) == set(vars(getattr(settings, section)))


def test_every_setting_of_the_gateway_follows_its_key(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        """
server: {address: "127.0.0.1:1", http_address: "127.0.0.1:2", when_down: fail, drain_notice_s: 3}
security: {allow_insecure: true, tls_certificate: /c, tls_private_key: /k, tokens_file: /t}
limits: {max_instances: 1, max_request_bytes: 2, max_image_bytes: 3, max_image_px: 4, max_in_flight_calls: 5,
  max_in_flight_instances: 6, max_in_flight_bytes: 7, max_reading_calls: 8, max_streams_per_connection: 9,
  max_connections: 10}
deadlines: {default_s: 1, max_s: 2, read_body_s: 3}
readiness: {interval_s: 1, deadline_s: 1, max_relative_distance: 0.1, forced_interval_s: 3, max_cost_share: 0.5,
  failures_before_replace: 9}
log: {format: json, level: debug, access: false}
tracing: {enabled: true, otlp_endpoint: "http://127.0.0.1:1"}
"""
    )
    changed, default = gateway_settings(load_config(file, (), {})), GatewaySettings()
    for name, value in vars(default).items():
        assert getattr(changed, name) != value, name
        for key, inner in getattr(value, "__dict__", {}).items():
            assert getattr(getattr(changed, name), key) != inner, f"{name}.{key}"


def test_credentials_reach_the_gateway(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("security: {tls_certificate: /c, tls_private_key: /k, tls_client_ca: /a, tokens_file: t}\n")
    settings = gateway_settings(load_config(file, (), {}))
    assert settings.tls == TlsSettings(Path("/c"), Path("/k"), Path("/a"))
    assert settings.auth is not None and settings.auth.tokens_file == REPOSITORY / "t"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        load_config(tmp_path / "nowhere.yaml", (), {})


@pytest.mark.skipif(any(Path("/dev").glob("davinci[0-9]*")), reason="this host has an Ascend device")
@pytest.mark.parametrize("name", ["ascend310", "ascend910"])
def test_an_ascend_configuration_off_ascend_says_what_is_missing_and_exits_4(name):
    command = [sys.executable, "-m", "servable.serving_server", "--config", f"configs/{name}.yaml"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=10)
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "device" in done.stderr and "CANN" in done.stderr and "driver" in done.stderr


def test_the_operations_page_lists_every_key_with_its_default(tmp_path):
    page = (REPOSITORY / "servable" / "README.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+\.\w+)` \| (.+?) \|", page, re.MULTILINE))
    actual = {}
    for section, field in Config.model_fields.items():
        for key, one in field.annotation.model_fields.items():
            value = list(one.default) if isinstance(one.default, tuple) else one.default
            text = "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            actual[f"{section}.{key}"] = text
    assert listed.pop("server.run_dir") == "<tmp>/metric-learn-serving-<uid>" and actual.pop("server.run_dir")
    assert listed == actual
