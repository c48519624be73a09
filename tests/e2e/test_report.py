"""`serving_server --report` on a CPU."""

import json
import subprocess

from .conftest import REPOSITORY

TOKEN = "correct-horse-battery-staple"


def test_it_goes_to_stdout_with_progress_on_stderr_and_without_secrets(versions, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    settings = [
        f"model.directory={versions}",
        "backend.batch_sizes=[1]",
        f"server.run_dir={tmp_path / 'run'}",
        "server.address=127.0.0.1:0",
        "server.http_address=127.0.0.1:0",
        f"security.tokens_file={tokens}",
        "tracing.otlp_endpoint=http://somebody:their-password@collector:4317",
    ]
    command = [REPOSITORY / ".venv" / "server" / "bin" / "python", "-m", "servable.serving_server", "--report"]
    command += [part for setting in settings for part in ("--set", setting)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["devices"] is None and told["trial"]["parity"]["worst_relative_distance"] < 1e-4
    assert told["software"]["engine"]["packages"]["mindspore-serving"] == "2.0.2"
    assert told["options"]["security"]["tokens_file"] == "(set)"
    assert told["options"]["tracing"]["otlp_endpoint"] == "http://collector:4317"
    for secret in (TOKEN, str(tokens), "their-password"):
        assert secret not in done.stdout + done.stderr
    assert all(line.startswith("report: ") for line in done.stderr.splitlines())
