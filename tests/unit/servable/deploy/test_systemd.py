"""The systemd unit: what systemd itself says of it, and that its times fit the server's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from servable.config.sections import Config

EXPOSURE_LIMIT = 14  # tenths; `systemd-analyze security` of systemd 252 gives this unit 1.4 of 10
UNIT = "metric-learn-serving.service"

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")


def keys(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def unit(deploy: Path) -> dict[str, list[str]]:
    return keys(deploy / "systemd" / UNIT)


@pytest.fixture
def installed(deploy: Path, tmp_path: Path) -> Path:
    """The unit as a host has it; the interpreter's path must exist there, so it is this one."""
    text = (deploy / "systemd" / UNIT).read_text()
    python = "/opt/metric-learn-serving/.venv/server/bin/python"
    assert text.count(python) == 1
    unit = tmp_path / UNIT
    unit.write_text(text.replace(python, sys.executable).replace("/opt/metric-learn-serving/servable", "/usr/share"))
    return unit


def analyze(*arguments: str) -> str:
    """What systemd-analyze prints. Raises AssertionError when it does not end with 0."""
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_systemd
def test_systemd_finds_nothing_to_complain_about(installed: Path) -> None:
    assert UNIT not in analyze("verify", str(installed))


@needs_systemd
def test_systemd_accepts_the_ascend_drop_in(installed: Path, deploy: Path) -> None:
    folder = installed.parent / f"{UNIT}.d"
    folder.mkdir()
    drop_in = folder / "ascend.conf"
    shutil.copy(deploy / "systemd" / "ascend.conf", drop_in)
    output = analyze("verify", str(installed))
    assert UNIT not in output and "ascend.conf" not in output
    drop_in.write_text("[Service]\nDeviceAllowed=/dev/davinci0 rw\n")  # it is read at all
    assert "DeviceAllowed" in analyze("verify", str(installed))


@needs_systemd
def test_systemd_accepts_one_server_a_device(installed: Path, deploy: Path) -> None:
    template = installed.rename(installed.with_name("metric-learn-serving@.service"))
    folder = template.parent / f"{template.name}.d"
    folder.mkdir()
    for name in ("ascend.conf", "instance.conf"):
        shutil.copy(deploy / "systemd" / name, folder)
    output = analyze("verify", str(template.with_name("metric-learn-serving@3.service")))
    assert "metric-learn-serving@" not in output and ".conf" not in output


def test_instances_of_a_template_share_no_address_and_no_folder(
    deploy: Path, tmp_path: Path, configuration: Callable[..., Config]
) -> None:
    settings = []
    for device in "01":
        lines = keys(deploy / "systemd" / "instance.conf")["Environment"]
        variables = dict(line.replace("%i", device).split("=", 1) for line in lines)
        config = configuration(deploy / "server-ascend310.yaml", variables)
        assert config.backend.device_ids == (int(device),)
        server = config.server
        settings.append({server.address, server.api_address, server.http_address, str(server.run_dir)})
    assert len(settings[0] | settings[1]) == 8


@needs_systemd
def test_the_sandbox_stays_tight(installed: Path) -> None:
    analyze("security", "--offline=yes", f"--threshold={EXPOSURE_LIMIT}", str(installed))


def test_the_unit_runs_the_servers_command_with_the_deployed_configuration(unit: dict[str, list[str]]) -> None:
    python, *arguments = unit["ExecStart"][0].split()
    assert python == f"{unit['WorkingDirectory'][0]}/.venv/server/bin/python"
    assert arguments == ["-m", "servable.serving_server", "--config", "/etc/metric-learn-serving/server.yaml"]


def test_systemd_waits_longer_than_the_server_drains(unit: dict[str, list[str]], stop_s: float) -> None:
    assert float(unit["TimeoutStopSec"][0]) >= stop_s + 10
    assert unit["KillMode"] == ["mixed"]  # SIGTERM to the server alone: MindSpore Serving drops what it holds


@pytest.mark.parametrize(
    ("target", "file"), [("cpu", UNIT), ("ascend310", "ascend.conf"), ("ascend910", "ascend.conf")]
)
def test_systemd_waits_longer_than_the_backend_may_start(
    target: str, file: str, deploy: Path, configuration: Callable[..., Config]
) -> None:
    config = configuration(deploy / f"server-{target}.yaml")
    assert float(keys(deploy / "systemd" / file)["TimeoutStartSec"][0]) >= config.backend.start_timeout_s + 60


def test_the_server_may_write_where_the_configuration_says(
    unit: dict[str, list[str]], deploy: Path, configuration: Callable[..., Config]
) -> None:
    config = configuration(deploy / "server-cpu.yaml")
    assert config.server.run_dir.parent == Path("/run", unit["RuntimeDirectory"][0])
    assert config.model.directory.parent == Path("/var/lib", unit["StateDirectory"][0])
    assert config.security.tokens_file is not None
    assert Path("/etc", unit["ConfigurationDirectory"][0]) in config.security.tokens_file.parents


def test_systemd_ends_restarts_that_cannot_help(unit: dict[str, list[str]]) -> None:
    assert unit["Restart"] == ["always"]  # a server that ended with 0 without being told is gone all the same
    assert "2" in unit["RestartPreventExitStatus"][0].split()  # usage or configuration
    assert unit["Type"] == ["notify"] and float(unit["WatchdogSec"][0]) > 0


def test_an_ascend_unit_that_comes_before_its_driver_is_tried_again_for_minutes(
    unit: dict[str, list[str]], deploy: Path
) -> None:
    """DeviceAllow means the nodes that are there when the unit starts."""
    drop_in = keys(deploy / "systemd" / "ascend.conf")
    tried_s = float(drop_in["RestartSec"][0]) * int(drop_in["StartLimitBurst"][0])
    assert 240 <= tried_s <= float(unit["StartLimitIntervalSec"][0])
