"""What the tests ask of a simulated host: commands and servers on it, and the records of what its devices were asked.

Settings, each the variable SIMULATED_CANN_<NAME> of the same meaning: simulated_cann/README.md.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from tests.e2e.conftest import REPOSITORY, start, stop
from tests.e2e.processes import marked

SOURCES = Path(__file__).parent / "simulated_cann"
ENTER = SOURCES / "enter.sh"
DEPLOYED = REPOSITORY / "configs" / "deploy" / "systemd"
SERVER_PYTHON = REPOSITORY / ".venv" / "server" / "bin" / "python"
BUILT = REPOSITORY / ".runtime" / "simulated-cann"


def build():
    """The simulator's libraries, made where they are not there or of other sources. Their folder."""
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))).hexdigest()
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = BUILT / ".built-from"
        if not stamp.is_file() or stamp.read_text() != wanted:
            for old in BUILT.glob("*.so"):
                old.unlink()
            lite = REPOSITORY / ".runtime" / "mindspore-lite-2.0.0"
            subprocess.run([SOURCES / "build.sh", BUILT, lite], check=True, timeout=120)
            stamp.write_text(wanted)
    return BUILT


def why_not():
    """Why there is no simulated device on this machine; empty where there can be one."""
    if platform.machine() != "x86_64":
        return f"it is written for x86_64, this is {platform.machine()}"
    if os.geteuid():
        return "it needs root, for a mount namespace of its own"
    for program in ("g++", "nm", "unshare"):
        if not shutil.which(program):
            return f"{program} is not installed"
    tried = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
    )
    return tried.stderr.strip() if tried.returncode else ""


class SimulatedHost:
    """Each command runs on a fresh one. Its files are below `folder`; nothing of it is left when the command ends."""

    def __init__(self, libraries, folder):
        self.folder = folder
        self.run_dir = folder / "run"
        self.records_file = folder / "records.jsonl"
        self.settings = {}
        self.prefix = []  # a command between the namespace and the server
        self.environment = unit_environment()
        self._libraries = libraries

    def set(self, **settings):
        """DEVICES=2, SOC="Ascend910A", ...; returns the host."""
        self.settings.update(settings)
        return self

    def records(self, event):
        """What was recorded under this name, in order."""
        if not self.records_file.exists():
            return []
        lines = [json.loads(line) for line in self.records_file.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    @contextlib.contextmanager
    def server(self, *flags, config="configs/ascend310.yaml"):
        server = start(
            self.run_dir, *flags, config=config, prefix=[str(ENTER), *self.prefix], environment=self._environment()
        )
        try:
            yield server
        finally:
            stop(server)
            for process in marked(self.run_dir):
                process.kill()

    def run(self, *command, timeout=60):
        """A command on the host, to its end."""
        return subprocess.run(
            [str(ENTER), *self.prefix, *map(str, command)],
            cwd=REPOSITORY,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def check(self, *flags, config="configs/ascend310.yaml"):
        """`serving_server --check`."""
        settings = [
            f"server.run_dir={self.run_dir}",
            "server.address=127.0.0.1:0",
            "server.api_address=127.0.0.1:0",
            *flags,
        ]
        arguments = [part for setting in settings for part in ("--set", setting)]
        return self.run(SERVER_PYTHON, "-m", "servable.serving_server", "--config", config, "--check", *arguments)

    def _environment(self):
        settings = {f"SIMULATED_CANN_{name}": str(value) for name, value in self.settings.items()}
        return {
            "SIMULATED_CANN": str(self._libraries),
            "SIMULATED_CANN_RECORDS": str(self.records_file),
            **settings,
            **self.environment,
        }


def unit_environment():
    """What the systemd unit with the drop-in for Ascend gives its server, and nothing of this process's own."""
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8"}
    for name in ("metric-learn-serving.service", "ascend.conf"):
        for line in re.findall(r"^Environment=(.*)$", (DEPLOYED / name).read_text(), re.MULTILINE):
            environment.update(assignment.split("=", 1) for assignment in line.split())
    environment["HOME"] = os.environ.get("HOME", "/")  # its own folder is made by systemd
    return environment
