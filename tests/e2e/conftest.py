"""A real server on stand-in weights, exported once per checkout."""

import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tests.patience import patient

REPOSITORY = Path(__file__).parents[2]
VERSIONS = REPOSITORY / ".runtime" / "stand-in"
READY_S = 60
ONE_SIZE = "backend.batch_sizes=[1]"  # half the time to start, for tests to which batches are all one


@dataclass
class Server:
    endpoint: str
    http_endpoint: str
    process: subprocess.Popen
    ready_line: str
    log: TextIO
    api_endpoint: str = ""  # "host:port" of the API over HTTP

    def said(self):
        """What the server wrote to stderr, once it has ended."""
        self.process.wait(patient(30))
        self.log.seek(0)
        return self.log.read()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(run_dir, *flags, repository=REPOSITORY, config="configs/cpu.yaml", prefix=(), environment=None):
    """`prefix`: a command that becomes the server, in its own process; `environment`: all that it gets."""
    endpoint, http_endpoint, api_endpoint = (f"127.0.0.1:{free_port()}" for _ in range(3))
    command = [
        *prefix,
        str(REPOSITORY / ".venv" / "server" / "bin" / "python"),
        "-m",
        "servable.serving_server",
        "--config",
        str(config),
    ]
    settings = [f"server.address={endpoint}", f"server.http_address={http_endpoint}"]
    settings.append(f"server.api_address={api_endpoint}")
    settings += [f"server.run_dir={run_dir}", f"model.directory={VERSIONS}", *flags]
    for setting in settings:
        command += ["--set", setting]
    # A pipe that nobody reads would fill up and hold the server's log lines. `stop` closes the file.
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    watchdog = threading.Timer(patient(READY_S), process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
    except BaseException:  # Ctrl-C: nobody else knows of it yet
        process.kill()
        raise
    finally:
        watchdog.cancel()
    return Server(endpoint, http_endpoint, process, line.strip(), log, api_endpoint)


def stop(server, number=signal.SIGTERM):
    if server.process.poll() is None:
        server.process.send_signal(number)
    code = server.process.wait(patient(30))
    server.process.stdout.close()
    server.log.close()
    return code


def exported_versions():
    """Stand-in weights as version 1, exported again whenever the export's code or the model's facts change."""
    sources = [REPOSITORY / "export" / f"{name}.py" for name in ("aipp", "checkpoint", "facts", "mindir", "network")]
    contract = REPOSITORY / "client" / "src" / "metric_learn_client" / "contract"
    sources += [REPOSITORY / "configs" / "model.yaml", contract / "__init__.py", contract / "digests.py"]
    sources += [contract / "version_manifest.py"]
    wanted = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    VERSIONS.mkdir(parents=True, exist_ok=True)
    with (VERSIONS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = VERSIONS / ".exported-by"
        if not made.is_file() or made.read_text() != wanted:
            _export_stand_in()
            made.write_text(wanted)
    return VERSIONS


def _export_stand_in():
    python = str(REPOSITORY / ".venv" / "export" / "bin" / "python")
    checkpoint = str(VERSIONS / "metric_learn_stand_in.ckpt")
    environment = {**os.environ, "GLOG_v": "3"}
    for arguments in (
        ["stand-in", "--output", checkpoint],
        ["convert", "--checkpoint", checkpoint, "--version", "1", "--directory", str(VERSIONS), "--force", "--aipp"],
    ):
        subprocess.run([python, "-m", "export", *arguments], cwd=REPOSITORY, env=environment, check=True)
